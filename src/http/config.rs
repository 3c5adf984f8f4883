//! Who may use the listener, and how much at once, as `[http]` of the config names it.

use serde::{Deserialize, Serialize};

/// Who may use the listener, and how much at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// The environment variable with the token; empty for a token of the node's own, in the file `http-token` of the run
    /// directory.
    pub token_env: String,
    /// Names, beside loopback's and the listener's own address, that a request's Host may have.
    pub hosts: Vec<String>,
    /// Whether the listener may be beyond loopback, where the token travels without TLS.
    pub insecure_without_tls: bool,
    /// Origins whose web pages may ask.
    pub cors_origins: Vec<String>,
    /// Requests for texts in flight.
    pub requests_max: usize,
    /// Texts that one request may ask for.
    pub texts_max: usize,
    /// The largest body of a request, in MiB.
    pub body_mib_max: usize,
    /// How long one answer may take, in seconds.
    pub request_deadline_seconds: u64,
    /// The share of the engine that requests for texts get while rollouts have work too.
    pub share: f64,
}

impl HttpConfig {
    /// Complaints about its values, all at once.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (key, value) in [
            ("requests_max", self.requests_max as u64),
            ("texts_max", self.texts_max as u64),
            ("body_mib_max", self.body_mib_max as u64),
            ("request_deadline_seconds", self.request_deadline_seconds),
        ] {
            if value == 0 {
                complaints.push(format!("http.{key}: expected at least 1, got 0"));
            }
        }
        if !(self.share > 0.0 && self.share <= 1.0) {
            complaints.push(format!("http.share: expected above 0 and at most 1, got {}", self.share));
        }
        let is_name = |host: &String| !host.is_empty() && !host.contains(['/', ' ', '*']);
        complaints.extend(
            self.hosts.iter().filter(|host| !is_name(host)).map(|host| {
                format!("http.hosts: expected names or addresses without scheme and wildcard, got {host:?}")
            }),
        );
        complaints.extend(self.cors_origins.iter().filter(|origin| !is_origin(origin)).map(|origin| {
            format!("http.cors_origins: expected origins such as \"http://localhost:3000\", got {origin:?}")
        }));
        complaints
    }

    /// The largest body of a request, in bytes.
    pub(super) fn body_bytes_max(&self) -> usize {
        self.body_mib_max.saturating_mul(1 << 20)
    }
}

/// Whether `text` is a scheme and a host, as browsers write an origin.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    host.is_some_and(|host| !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'*'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn limits_hosts_and_origins_are_checked() {
        let quickstart: toml::Table = include_str!("../../configs/quickstart.toml").parse().unwrap();
        let mut http = quickstart["http"].as_table().unwrap().clone();
        assert_eq!(http.clone().try_into::<HttpConfig>().unwrap().complaints(), [""; 0]);
        let wrong = "requests_max = 0\ntexts_max = 0\nshare = 0.0\nhosts = ['http://a', '*', 'node.local']\n\
                     cors_origins = ['*', 'localhost', 'https://a/b', 'http://localhost:3000']";
        http.extend(wrong.parse::<toml::Table>().unwrap());
        let complaints = http.try_into::<HttpConfig>().unwrap().complaints();
        let keys: Vec<_> = complaints.iter().map(|complaint| complaint.split(':').next().unwrap()).collect();
        let [hosts, origins] = ["http.hosts", "http.cors_origins"];
        let limits = ["http.requests_max", "http.texts_max", "http.share"];
        assert_eq!(keys, [&limits[..], &[hosts, hosts, origins, origins, origins]].concat());
    }
}
