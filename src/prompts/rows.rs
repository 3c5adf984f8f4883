//! The rows of a prompt file, whatever its form: JSON lines, a JSON array, CSV or TSV, Parquet; each, but Parquet, also compressed
//! with gzip or zstd.
//!
//! The form follows from the file's name. Nothing in a file is trusted: bytes are bounded before and after they are decompressed,
//! and rows are bounded in number.

mod parquet;

use super::line::Fields;
use crate::disk;
use serde_json::Value;
use std::io::{self, Read};
use std::path::Path;

/// The longest file, and the longest content of a compressed one.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// What some editors put before a text.
const BOM: char = '\u{feff}';
/// The longest line.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Rows of a file.
const ROWS_MAX: usize = 16 << 20;

/// A row: its number in its file, from 1, and its fields, or what was expected.
pub(super) type Row = (usize, Result<Fields, String>);

/// The rows of a file.
#[derive(Debug, Default, PartialEq)]
pub struct Rows {
    /// In the order of the file.
    pub(super) rows: Vec<Row>,
    /// What a number counts: `line` or `row`.
    pub(super) unit: &'static str,
    /// Whether the file is made for the node: fields that nothing reads are then mistakes.
    pub(super) is_own_form: bool,
}

impl Rows {
    /// Adds the rows of another file of the same data set, numbered on.
    pub(super) fn append(&mut self, more: Self) {
        let before = self.rows.last().map_or(0, |(number, _)| *number);
        (self.unit, self.is_own_form) = (more.unit, more.is_own_form);
        self.rows.extend(more.rows.into_iter().map(|(number, row)| (before + number, row)));
    }
}

/// The form of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Lines,
    Array,
    Csv(u8),
    Parquet,
}

/// The rows of the file `path`.
///
/// # Errors
/// If it cannot be read, or is not of the form that its name says.
pub(super) fn read(path: &Path) -> io::Result<Rows> {
    let name = path.to_string_lossy().to_lowercase();
    let (name, compression) = match (name.strip_suffix(".gz"), name.strip_suffix(".zst")) {
        (Some(name), _) => (name.to_owned(), Compression::Gzip),
        (_, Some(name)) => (name.to_owned(), Compression::Zstd),
        _ => (name, Compression::None),
    };
    let form = form(&name);
    if form == Form::Parquet && compression == Compression::None {
        let rows = parquet::read(disk::open(path)?, ROWS_MAX).map_err(invalid)?;
        let rows = (1..).zip(rows.into_iter().map(Ok)).collect();
        return Ok(Rows { rows, unit: "row", is_own_form: false });
    }
    let bytes = compression.decompress(disk::read(path, FILE_BYTES_MAX)?)?;
    match form {
        Form::Parquet => {
            Err(invalid("expected a Parquet file that is not compressed as a whole, got one that is".into()))
        }
        Form::Csv(delimiter) => csv(&bytes, delimiter).map_err(invalid),
        Form::Array => text(bytes).and_then(|text| array(&text).map_err(invalid)),
        // An array is read whatever its file is called.
        Form::Lines => text(bytes).and_then(|text| match text.trim_start_matches(BOM).trim_start().starts_with('[') {
            true => array(&text).or_else(|_| Ok(lines(&text))),
            false => Ok(lines(&text)),
        }),
    }
}

fn form(name: &str) -> Form {
    match Path::new(name).extension().and_then(|extension| extension.to_str()) {
        Some("json") => Form::Array,
        Some("csv") => Form::Csv(b','),
        Some("tsv") => Form::Csv(b'\t'),
        Some("parquet") => Form::Parquet,
        _ => Form::Lines,
    }
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| invalid(format!("expected text in UTF-8: {error}")))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn decompress(self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(bytes),
            Self::Gzip => all_of(flate2::read::MultiGzDecoder::new(bytes.as_slice())),
            Self::Zstd => all_of(zstd::Decoder::with_buffer(bytes.as_slice())?),
        }
    }
}

/// Everything that `content` yields, up to the limit.
fn all_of(content: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    content.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > FILE_BYTES_MAX {
        true => Err(invalid(format!("expected at most {FILE_BYTES_MAX} bytes once it is decompressed, got more"))),
        false => Ok(bytes),
    }
}

/// JSON lines. Blank lines are passed over.
pub(super) fn lines(text: &str) -> Rows {
    let text = text.trim_start_matches(BOM);
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let rows = lines.take(ROWS_MAX).map(|(number, line)| (number, line_of(line))).collect();
    Rows { rows, unit: "line", is_own_form: true }
}

fn line_of(line: &str) -> Result<Fields, String> {
    if line.len() > LINE_BYTES_MAX {
        return Err(format!("expected at most {LINE_BYTES_MAX} bytes, got {}", line.len()));
    }
    let begins = || line.chars().take(40).collect::<String>();
    match serde_json::from_str(line) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(format!("expected a JSON object, such as {EXAMPLE}, got {:?}", begins())),
        Err(error) if line.trim_start().starts_with('{') => Err(format!(
            "expected a JSON object on one line, got one that breaks off or is malformed at column {}: {error}",
            error.column()
        )),
        Err(_) => Err(format!("expected a JSON object, such as {EXAMPLE}, got text that is not JSON: {:?}", begins())),
    }
}

/// A line that is right.
const EXAMPLE: &str = r#"{"id": "a", "task": "sums", "prompt": "1 + 1?", "answer": "2"}"#;

/// A JSON array of objects, or an object with one such array, as some tools export it.
fn array(text: &str) -> Result<Rows, String> {
    let expected = |got: String| format!("expected a JSON array of objects, got {got}");
    let text = text.trim_start_matches(BOM);
    let list = match serde_json::from_str(text) {
        Ok(Value::Array(list)) => list,
        Ok(Value::Object(mut fields)) if fields.len() == 1 => match fields.values_mut().next() {
            Some(Value::Array(list)) => std::mem::take(list),
            _ => return Err(expected("one object".to_owned())),
        },
        Ok(_) => return Err(expected("something else".to_owned())),
        // A file called .json may hold JSON lines.
        Err(_) if text.trim_start().starts_with('{') => return Ok(lines(text)),
        Err(error) => return Err(expected(format!("text that is not JSON: {error}"))),
    };
    if list.len() > ROWS_MAX {
        return Err(expected(format!("{} of them, more than {ROWS_MAX}", list.len())));
    }
    let row = |(number, value)| match value {
        Value::Object(fields) => (number, Ok(fields)),
        other => (number, Err(format!("expected a JSON object, got {other}"))),
    };
    Ok(Rows { rows: (1..).zip(list).map(row).collect(), unit: "row", is_own_form: true })
}

/// Comma- or tab-separated values whose first line names the columns (RFC 4180). An empty value is a missing one.
fn csv(bytes: &[u8], delimiter: u8) -> Result<Rows, String> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(bytes);
    let names =
        reader.headers().map_err(|error| format!("expected a first line with the names of columns: {error}"))?.clone();
    let mut rows = Vec::new();
    for record in reader.records().take(ROWS_MAX) {
        let row = match record {
            Ok(record) => {
                let line = record.position().map_or(0, |position| position.line() as usize);
                let fields = names.iter().zip(record.iter()).filter(|(_, value)| !value.is_empty());
                (line, Ok(fields.map(|(name, value)| (name.trim().to_owned(), Value::from(value))).collect()))
            }
            Err(error) => {
                let line = error.position().map_or(0, |position| position.line() as usize);
                (line, Err(format!("expected {} values: {error}", names.len())))
            }
        };
        rows.push(row);
    }
    Ok(Rows { rows, unit: "line", is_own_form: false })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn written(name: &str, bytes: &[u8]) -> io::Result<Rows> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        read(&path)
    }

    fn prompts_of(rows: &Rows) -> Vec<(usize, String)> {
        let prompt = |fields: &Fields| fields["prompt"].as_str().unwrap().to_owned();
        rows.rows.iter().map(|(number, row)| (*number, prompt(row.as_ref().unwrap()))).collect()
    }

    const LINES: &str = "{\"prompt\": \"a\"}\r\n\n{\"prompt\": \"b, \\\"c\\\"\"}\n";
    const ARRAY: &str = "[\n{\"prompt\": \"a\"},\n{\"prompt\": \"b, \\\"c\\\"\"}]";
    const CSV: &str = "\u{feff}prompt,answer\na,\n\"b, \"\"c\"\"\",\"two\nlines\"\n";

    #[test]
    fn every_form_gives_the_same_rows() {
        let texts = [(1, "a"), (3, "b, \"c\"")];
        let expected = |numbers: [usize; 2]| -> Vec<(usize, String)> {
            numbers.into_iter().zip(texts).map(|(number, (_, text))| (number, text.to_owned())).collect()
        };
        assert_eq!(prompts_of(&written("a.jsonl", LINES.as_bytes()).unwrap()), expected([1, 3]));
        assert_eq!(prompts_of(&written("a.json", ARRAY.as_bytes()).unwrap()), expected([1, 2]));
        assert_eq!(prompts_of(&written("a.jsonl", ARRAY.as_bytes()).unwrap()), expected([1, 2]));
        assert_eq!(prompts_of(&written("a.json", LINES.as_bytes()).unwrap()), expected([1, 3]));
        let wrapped = format!("{{\"data\": {ARRAY}}}");
        assert_eq!(prompts_of(&written("a.json", wrapped.as_bytes()).unwrap()), expected([1, 2]));
        let rows = written("a.csv", CSV.as_bytes()).unwrap();
        assert_eq!(prompts_of(&rows), expected([2, 3]));
        assert!(!rows.is_own_form && !rows.rows[0].1.as_ref().unwrap().contains_key("answer"), "empty is missing");
    }

    #[test]
    fn compressed_files_are_read_and_bounded() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(LINES.as_bytes()).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(LINES.as_bytes(), 3).unwrap();
        let plain = written("a.jsonl", LINES.as_bytes()).unwrap();
        assert_eq!(written("a.jsonl.gz", &gzip).unwrap(), plain);
        assert_eq!(written("a.jsonl.zst", &zstd).unwrap(), plain);
        // Two members after each other are one file.
        assert_eq!(written("a.jsonl.gz", &[gzip.clone(), gzip.clone()].concat()).unwrap().rows.len(), 4);
        assert!(written("a.jsonl.gz", &gzip[..gzip.len() / 2]).is_err());
        assert!(written("a.jsonl.zst", b"not zstd").is_err());
    }

    #[test]
    fn a_malformed_file_or_row_says_what_was_expected() {
        let error = |name: &str, text: &str| written(name, text.as_bytes()).unwrap_err().to_string();
        assert!(error("a.json", "nonsense").contains("expected a JSON array of objects, got text that is not JSON"));
        assert!(error("a.json", "3").contains("something else"));
        let fault = |line: &str| lines(line).rows[0].1.clone().unwrap_err();
        assert!(fault("not json").contains("text that is not JSON: \"not json\""));
        assert!(fault("[1]").contains("expected a JSON object, such as"));
        assert!(fault("{\"prompt\": \"a\"").contains("breaks off"));
        let ragged = written("a.csv", b"prompt,answer\na,b,c\nd,e\n").unwrap();
        assert!(ragged.rows[0].1.as_ref().unwrap_err().contains("expected 2 values") && ragged.rows[1].1.is_ok());
    }
}
