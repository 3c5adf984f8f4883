//! The file of figures while it is written: appended to, cut back to a step, and thinned when it is full.
//!
//! Invariants: steps never fall along the file; a figure has one value at a step.

use super::line::{FILE, Line};
use crate::disk::{self, json_lines};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// What a file that is not one of figures is renamed to.
const UNREADABLE: &str = "metrics.unreadable.jsonl";

/// The file of a run.
pub(super) struct Stream {
    path: PathBuf,
    file: json_lines::Appender,
    bytes_max: u64,
    /// The newest step, and the figures that it has.
    step: u64,
    names: BTreeSet<String>,
}

/// What is read of each line to cut or thin a file.
#[derive(Deserialize)]
struct Head {
    step: u64,
    /// Every line of a learner step has one, and no other line.
    #[serde(rename = "learner/loss")]
    loss: Option<f64>,
}

impl Stream {
    /// Opens the file of the run directory `run`, and cuts off what came after the step `keep`; everything if that is none. A
    /// file is at most `bytes_max` long. A file of anything else is renamed.
    pub(super) fn open(run: &Path, keep: Option<u64>, bytes_max: u64) -> io::Result<Self> {
        let path = run.join(FILE);
        let mut stream =
            Self { file: json_lines::Appender::open(&path)?, path, bytes_max, step: 0, names: BTreeSet::new() };
        let kept = stream.rewrite(|lines| {
            lines.retain(|(_, head)| keep.is_some_and(|keep| head.step <= keep));
        });
        match kept {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(path = %stream.path.display(), %error, "renamed a file that is not one of figures");
                std::fs::rename(&stream.path, run.join(UNREADABLE))?;
                stream.file = json_lines::Appender::open(&stream.path)?;
            }
            kept => kept?,
        }
        Ok(stream)
    }

    /// The lines of the file.
    pub(super) fn lines(&self) -> io::Result<Vec<Line>> {
        let text = self.text()?;
        text.lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| serde_json::from_str(line).map_err(invalid))
            .collect()
    }

    /// Appends `line`, and returns what was written: a line of an earlier step counts for the newest, and figures that this step
    /// has already are left out. None if no figure is left.
    pub(super) fn append(&mut self, mut line: Line) -> io::Result<Option<Line>> {
        line.step = line.step.max(self.step);
        if line.step > self.step {
            (self.step, self.names) = (line.step, BTreeSet::new());
        }
        line.figures.retain(|name, _| !self.names.contains(name));
        if line.figures.is_empty() {
            return Ok(None);
        }
        let text = json_lines::to_line(&line);
        if self.file.bytes() + text.len() as u64 > self.bytes_max {
            self.thin(text.len() as u64)?;
            // What was kept may end before this step.
            if self.step < line.step {
                (self.step, self.names) = (line.step, BTreeSet::new());
            }
        }
        self.file.append(&text)?;
        self.names.extend(line.figures.keys().cloned());
        Ok(Some(line))
    }

    /// Cuts off what came after `step`.
    pub(super) fn cut(&mut self, step: u64) -> io::Result<()> {
        self.rewrite(|lines| lines.retain(|(_, head)| head.step <= step))
    }

    /// Makes room for `bytes` more: every second line of a learner step goes, then the oldest of all.
    fn thin(&mut self, bytes: u64) -> io::Result<()> {
        let (most, half) = (self.bytes_max, self.bytes_max / 2);
        self.rewrite(|lines| {
            let mut steps = 0;
            lines.retain(|(_, head)| {
                steps += u64::from(head.loss.is_some());
                head.loss.is_none() || steps % 2 == 0
            });
            let mut left: u64 = lines.iter().map(|(text, _)| text.len() as u64 + 1).sum();
            if left + bytes <= most {
                return;
            }
            let mut gone = 0;
            while gone < lines.len() && left > half {
                left -= lines[gone].0.len() as u64 + 1;
                gone += 1;
            }
            lines.drain(..gone);
        })
    }

    /// Replaces the file by what `edit` leaves of its lines, if that is less.
    fn rewrite(&mut self, edit: impl FnOnce(&mut Vec<(&str, Head)>)) -> io::Result<()> {
        let text = self.text()?;
        let mut lines = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            lines.push((line, serde_json::from_str::<Head>(line).map_err(invalid)?));
        }
        let before = lines.len();
        edit(&mut lines);
        self.step = lines.last().map_or(0, |(_, head)| head.step);
        self.names = BTreeSet::new();
        for (line, _) in lines.iter().rev().take_while(|(_, head)| head.step == self.step) {
            self.names.extend(serde_json::from_str::<Line>(line).map_err(invalid)?.figures.into_keys());
        }
        if lines.len() < before {
            let kept: String = lines.iter().flat_map(|(line, _)| [line, "\n"]).collect();
            disk::replace(&self.path, kept.as_bytes())?;
            self.file = json_lines::Appender::open(&self.path)?;
        }
        Ok(())
    }

    fn text(&self) -> io::Result<String> {
        disk::read_text(&self.path, self.bytes_max.max(self.file.bytes()))
    }
}

fn invalid(error: serde_json::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    fn line(step: u64, figures: &[(&str, f64)]) -> Line {
        let figures = figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Line { step, time: 1.0, figures }
    }

    fn steps(stream: &Stream) -> Vec<u64> {
        stream.lines().unwrap().iter().map(|line| line.step).collect()
    }

    #[test]
    fn a_run_that_goes_back_has_no_step_twice() {
        let folder = tempfile::tempdir().unwrap();
        let mut stream = Stream::open(folder.path(), None, 1 << 20).unwrap();
        for step in 1..=5 {
            stream.append(line(step, &[("learner/loss", step as f64)])).unwrap();
            stream.append(line(step, &[("eval/cu", 0.5)])).unwrap();
        }
        drop(stream);
        let mut whole = fs::read(folder.path().join(FILE)).unwrap();
        whole.extend(b"{\"step\": 6, \"ti");
        fs::write(folder.path().join(FILE), whole).unwrap();
        let mut stream = Stream::open(folder.path(), Some(3), 1 << 20).unwrap();
        assert_eq!(steps(&stream), [1, 1, 2, 2, 3, 3]);
        // Step 3 has been evaluated: the figure that it has stays.
        let again = stream.append(line(3, &[("eval/cu", 0.9), ("eval/seconds", 2.0)])).unwrap().unwrap();
        assert_eq!(again, line(3, &[("eval/seconds", 2.0)]));
        assert_eq!(stream.append(line(2, &[("eval/seconds", 9.0)])).unwrap(), None, "it counts for step 3");
        stream.append(line(4, &[("learner/loss", 7.0)])).unwrap();
        stream.cut(3).unwrap();
        stream.append(line(4, &[("learner/loss", 8.0)])).unwrap();
        let lines = stream.lines().unwrap();
        assert_eq!(lines.last(), Some(&line(4, &[("learner/loss", 8.0)])));
        assert_eq!(steps(&stream), [1, 1, 2, 2, 3, 3, 3, 4]);
        assert_eq!(steps(&Stream::open(folder.path(), None, 1 << 20).unwrap()), [0; 0]);
    }

    #[test]
    fn a_full_file_keeps_the_whole_course_with_fewer_steps() {
        let folder = tempfile::tempdir().unwrap();
        let most = 4000;
        let mut stream = Stream::open(folder.path(), None, most).unwrap();
        for step in 1..=1000 {
            stream.append(line(step, &[("learner/loss", 0.25)])).unwrap();
            if step % 200 == 0 {
                stream.append(line(step, &[("eval/cu", 0.5)])).unwrap();
            }
            assert!(fs::metadata(folder.path().join(FILE)).unwrap().len() <= most);
        }
        let lines = stream.lines().unwrap();
        assert!(lines.len() > 30 && lines[0].step < 300 && lines.last().unwrap().step == 1000, "{lines:?}");
        assert!(steps(&stream).is_sorted());
        assert_eq!(lines.iter().filter(|line| line.get("eval/cu").is_some()).count(), 5);
        // Nothing but evaluations: the oldest go.
        for step in 1001..=1200 {
            stream.append(line(step, &[("eval/cu", 0.5)])).unwrap();
        }
        assert!(fs::metadata(folder.path().join(FILE)).unwrap().len() <= most);
        assert_eq!(steps(&stream).last(), Some(&1200));
    }

    #[test]
    fn a_file_of_something_else_is_kept_under_another_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "not figures\n").unwrap();
        let mut stream = Stream::open(folder.path(), Some(9), 1 << 20).unwrap();
        stream.append(line(1, &[("learner/loss", 1.0)])).unwrap();
        assert_eq!(steps(&stream), [1]);
        assert_eq!(fs::read_to_string(folder.path().join(UNREADABLE)).unwrap(), "not figures\n");
    }
}
