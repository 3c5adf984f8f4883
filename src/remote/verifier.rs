//! Verifiers on a server of the user's: one question, one reply, both JSON.

use std::sync::LazyLock;
use std::time::Duration;

/// A longer reply is an error.
const REPLY_BYTES_MAX: u64 = 1 << 16;

/// Keeps connections open from one text to the next. A redirect would send texts to another address.
static AGENT: LazyLock<ureq::Agent> =
    LazyLock::new(|| ureq::Agent::new_with_config(ureq::Agent::config_builder().max_redirects(0).build()));

/// The body of the reply to `question` of the verifier at `url`. Blocks.
///
/// # Errors
/// If there is no reply in time, or one with another status than 200.
pub fn ask_verifier(url: &str, question: &serde_json::Value, deadline: Duration) -> Result<String, String> {
    let post = AGENT.post(url).config().timeout_global(Some(deadline)).build();
    let sent = post.header("content-type", "application/json").send(question.to_string());
    let mut response = sent.map_err(|error| format!("the verifier's server: {error}"))?;
    if response.status() != 200 {
        return Err(format!("the verifier's server said {}", response.status()));
    }
    let reply = response.body_mut().with_config().limit(REPLY_BYTES_MAX).read_to_string();
    reply.map_err(|error| format!("the verifier's server: {error}"))
}
