//! What is monitored.

use super::pace::Pace;
use std::path::PathBuf;

/// How a node is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Through a proxy with TLS.
    Https,
}

impl Scheme {
    /// As in a URL.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A node that is monitored.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its host and port.
    pub address: String,
    /// How it is asked.
    pub scheme: Scheme,
    /// The file of its token; none where reads need none.
    pub token_file: Option<PathBuf>,
    /// Where the runbook is: what `#` and an alert's name are put behind.
    pub runbook: String,
    /// How fast.
    pub pace: Pace,
}

/// The runbook's page in the repository.
pub const RUNBOOK: &str = "docs/runbook.md";

impl Target {
    /// The node at `address`, which needs no token.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            scheme: Scheme::Http,
            token_file: None,
            runbook: RUNBOOK.to_owned(),
            pace: Pace::NORMAL,
        }
    }

    /// The address of the URL `url`: scheme, host and port, and nothing else.
    ///
    /// # Errors
    /// What was expected.
    pub fn of_url(url: &str) -> Result<Self, String> {
        let trimmed = url.trim_end_matches('/');
        let (scheme, address) = match trimmed.split_once("://") {
            Some(("http", address)) => (Scheme::Http, address),
            Some(("https", address)) => (Scheme::Https, address),
            _ => return Err(format!("expected a URL such as http://127.0.0.1:9464, got {url:?}")),
        };
        if address.is_empty() || address.contains(|c: char| c == '/' || c == '@' || c.is_whitespace()) {
            return Err(format!("expected a URL of a host and a port, got {url:?}"));
        }
        Ok(Self { scheme, ..Self::new(address) })
    }

    /// The section of the runbook on `alert`.
    pub(super) fn runbook_url(&self, alert: &str) -> String {
        format!("{}#{}", self.runbook, alert.to_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_host_and_nothing_else() {
        let found = Target::of_url("https://node.example:9464/").map(|target| (target.scheme, target.address));
        assert_eq!(found, Ok((Scheme::Https, "node.example:9464".to_owned())));
        for bad in ["127.0.0.1:9464", "ftp://a:1", "http://", "http://a:1/metrics", "http://me@a:1"] {
            assert!(Target::of_url(bad).is_err(), "{bad}");
        }
    }
}
