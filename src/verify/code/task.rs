//! What a program is tested by.

/// A function to test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodeTask<'a> {
    pub entry_point: &'a str,
    pub test: &'a str,
    pub preamble: &'a str,
}
