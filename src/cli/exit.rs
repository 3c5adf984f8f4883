//! How a command ends: an error with the exit code of the process.

pub(crate) use crate::run::exit::Exit;

use crate::{formats, transformer};

/// An error and the exit code it ends the process with.
#[derive(Debug)]
pub(crate) struct CommandError {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What to tell the user.
    pub(crate) error: anyhow::Error,
}

impl<E: Into<anyhow::Error>> From<E> for CommandError {
    fn from(error: E) -> Self {
        let error = error.into();
        let exit = match error.is::<formats::Error>() || error.is::<transformer::Error>() {
            true => Exit::Model,
            false => Exit::Failed,
        };
        Self { exit, error }
    }
}

impl CommandError {
    /// The error and its causes on one line. Many errors already contain their cause, which is then not repeated.
    pub(crate) fn in_one_line(&self) -> String {
        let mut line = String::new();
        for cause in self.error.chain().map(ToString::to_string) {
            if !line.contains(&cause) {
                line += if line.is_empty() { "" } else { ": " };
                line += &cause;
            }
        }
        line
    }
}

/// Gives an error an exit code.
pub(crate) trait OrExit<T> {
    /// The value, or an error that ends the process with `exit`.
    fn or_exit(self, exit: Exit) -> Result<T, CommandError>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, CommandError> {
        self.map_err(|error| CommandError { exit, error: error.into() })
    }
}
