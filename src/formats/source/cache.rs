//! The folder that this program caches in: models, and what makes the next start shorter.

use std::path::PathBuf;

/// `RCO_CACHE`, or the cache folder of the user; none if there is no home.
pub(super) fn root() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("RCO_CACHE").filter(|path| !path.is_empty()) {
        return Some(PathBuf::from(path));
    }
    directories::ProjectDirs::from("", "", "rco-node").map(|directories| directories.cache_dir().to_owned())
}

/// The folder `name` for what only makes the next start shorter; none if there is no home, or `RCO_LOAD_CACHE` is `off`.
pub(crate) fn folder(name: &str) -> Option<PathBuf> {
    if std::env::var_os("RCO_LOAD_CACHE").is_some_and(|value| value == "off") {
        return None;
    }
    root().map(|root| root.join(name))
}
