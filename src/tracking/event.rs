//! The records of an event file: TFRecord's framing, and the part of `tensorflow.Event` that scalars need, as protobuf.
//!
//! Field numbers are those of TensorBoard's `event.proto` and `summary.proto`.

use super::crc32c::masked;
use super::line::Line;

/// The wire types of protobuf that are used here.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// `SessionLog.START`: a reader drops what it has of this step and later ones.
const SESSION_START: u64 = 1;

/// The first record of a file.
pub(super) fn version(time: f64) -> Vec<u8> {
    let mut event = begin(time, 0);
    bytes(&mut event, 3, b"brain.Event:2");
    record(&event)
}

/// A record after which nothing of `step` and later ones counts that was written before it.
pub(super) fn restart(time: f64, step: u64) -> Vec<u8> {
    let mut log = Vec::new();
    key(&mut log, 1, VARINT);
    varint(&mut log, SESSION_START);
    let mut event = begin(time, step);
    bytes(&mut event, 7, &log);
    record(&event)
}

/// A line's figures as scalars, in one record.
pub(super) fn scalars(line: &Line) -> Vec<u8> {
    let mut summary = Vec::new();
    for (name, figure) in &line.figures {
        let mut value = Vec::new();
        bytes(&mut value, 1, name.as_bytes());
        key(&mut value, 2, FIXED32);
        value.extend((*figure as f32).to_le_bytes());
        bytes(&mut summary, 1, &value);
    }
    let mut event = begin(line.time, line.step);
    bytes(&mut event, 5, &summary);
    record(&event)
}

/// The fields that every event has: the wall time in seconds, and the step.
fn begin(time: f64, step: u64) -> Vec<u8> {
    let mut event = Vec::new();
    key(&mut event, 1, FIXED64);
    event.extend(time.to_le_bytes());
    key(&mut event, 2, VARINT);
    varint(&mut event, step);
    event
}

fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, BYTES);
    varint(out, value.len() as u64);
    out.extend(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// TFRecord's framing: length, its masked checksum, the data, its masked checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length).to_le_bytes(), data, &masked(data).to_le_bytes()].concat()
}
