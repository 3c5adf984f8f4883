//! The node's own page: what it does, and a viewer of episodes. The same viewer with its episodes in one file.
//!
//! The page is files of this crate, without any of others: no library, no font, no request to another host. A browser runs
//! nothing else on it: the policy names this listener's own script and style or, in a file, the digests of those in it.
//! Texts of models are never markup: the script puts them into the page as text.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// The parts of the script, in their order.
const SCRIPT: &str = concat!(
    "'use strict';\n",
    include_str!("page/dom.js"),
    include_str!("page/diff.js"),
    include_str!("page/source.js"),
    include_str!("page/charts.js"),
    include_str!("page/overview.js"),
    include_str!("page/tree.js"),
    include_str!("page/episodes.js"),
    include_str!("page/main.js"),
);
/// Where the page names its style and script.
const STYLE_LINK: &str = "<link rel=\"stylesheet\" href=\"page.css\">";
const SCRIPT_LINK: &str = "<script src=\"page.js\" defer></script>";

/// What a browser may do on the page: run this listener's script and style, and ask this listener.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The addresses of the page itself. They hold nothing of the run, so nobody needs a token for them.
pub(super) const PATHS: [&str; 3] = ["/", "/page.css", "/page.js"];

/// The routes of the page.
pub(super) fn routes() -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(page)).routes(routes!(style)).routes(routes!(script))
}

/// The node's page.
#[utoipa::path(get, path = "/", tag = "page", responses((status = 200, body = String, content_type = "text/html")))]
async fn page() -> Response {
    file("text/html; charset=utf-8", PAGE)
}

/// The style of the page.
#[utoipa::path(get, path = "/page.css", tag = "page", responses(
    (status = 200, body = String, content_type = "text/css")
))]
async fn style() -> Response {
    file("text/css; charset=utf-8", STYLE)
}

/// The script of the page.
#[utoipa::path(get, path = "/page.js", tag = "page", responses(
    (status = 200, body = String, content_type = "text/javascript")
))]
async fn script() -> Response {
    file("text/javascript; charset=utf-8", SCRIPT)
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers: HeaderMap = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another version of the program has another page.
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ]
    .into_iter()
    .map(|(name, value)| (name, HeaderValue::from_static(value)))
    .collect();
    (headers, text).into_response()
}

/// The viewer of episodes as one file that needs nothing else: `episodes` are records as JSON, the newest first, and `about` says
/// where they come from.
pub(crate) fn viewer(about: &str, episodes: &[Vec<u8>]) -> Vec<u8> {
    let digest = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; base-uri 'none'; form-action 'none'",
        digest(SCRIPT),
        digest(STYLE)
    );
    let data = |id: &str| format!("<script type=\"application/json\" id=\"{id}\">");
    let head = format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n<style>{STYLE}</style>");
    let page = PAGE.replacen(STYLE_LINK, &head, 1);
    let (before, after) = page.split_once(SCRIPT_LINK).expect("the page names its script: a test asks it");
    let about = serde_json::to_string(about).expect("a string is always JSON");
    let mut file = format!("{before}{}{}</script>\n{}[", data("about"), escaped(&about), data("records")).into_bytes();
    for (index, record) in episodes.iter().enumerate() {
        file.extend_from_slice(if index > 0 { b",\n" } else { b"\n" });
        file.extend_from_slice(escaped(&String::from_utf8_lossy(record)).trim_end().as_bytes());
    }
    // At the end of the file, where `defer` would have run it.
    let body_end = after.rfind("</body>").unwrap_or(after.len());
    let (inside, end) = after.split_at(body_end);
    file.extend_from_slice(format!("\n]</script>\n{inside}<script>{SCRIPT}</script>\n{end}").as_bytes());
    file
}

/// JSON that no HTML parser mistakes for markup: `<` stands in JSON's strings alone.
fn escaped(json: &str) -> String {
    json.replace('<', "\\u003c")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_its_parts_and_is_small() {
        assert_eq!((PAGE.matches(STYLE_LINK).count(), PAGE.matches(SCRIPT_LINK).count()), (1, 1));
        let bytes = PAGE.len() + STYLE.len() + SCRIPT.len();
        assert!(bytes < 100_000, "{bytes} bytes");
        for part in [PAGE, STYLE, SCRIPT] {
            assert!(!part.contains("http://") && !part.contains("https://"), "another host is named");
        }
        assert!(!SCRIPT.contains("innerHTML") && !SCRIPT.contains("insertAdjacentHTML"), "texts are no markup");
        assert!(!PAGE.contains(" style=") && !PAGE.contains(" onclick"), "the policy forbids those");
    }

    #[test]
    fn a_file_holds_its_episodes_and_no_text_of_theirs_ends_a_script() {
        let record = r#"{"id":7,"text":"</script><script>alert(1)</script><!--"}"#.as_bytes().to_vec();
        let file = String::from_utf8(viewer("a <run>", &[record.clone(), record])).unwrap();
        let data = file.split_once("id=\"records\">").unwrap().1.split_once("</script>").unwrap().0;
        let episodes: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(episodes[1]["text"], "</script><script>alert(1)</script><!--");
        assert!(!file.contains("alert(1)</script>") && !file.contains("a <run>"));
        // The digests are those of what stands between the tags.
        for (open, close) in [("<style>", "</style>"), ("<script>", "</script>")] {
            let inside = file.split_once(open).unwrap().1.split_once(close).unwrap().0;
            let digest = STANDARD.encode(Sha256::digest(inside));
            assert!(file.contains(&format!("'sha256-{digest}'")), "{open}");
        }
    }
}
