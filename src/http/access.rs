//! Who may ask what: the token, the Host header, and addresses beyond loopback.
//!
//! On loopback whatever changes the node needs the token and reads do not; beyond loopback everything but health
//! and the files of the page needs it.
//! A page in a browser whose name was bound to this address sends its own name as the Host, and is refused.

use super::config::HttpConfig;
use super::page;
use super::problem::Problem;
use crate::disk;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::fs::File;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// The file of the token in a run directory.
pub const TOKEN_FILE: &str = "http-token";
/// Bytes of a token that the node makes.
const TOKEN_BYTES: usize = 32;
/// The shortest token that counts as one.
const TOKEN_CHARS_MIN: usize = 16;
/// The longest file of a token.
const TOKEN_FILE_BYTES_MAX: u64 = 4096;

/// Why the listener is not opened.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The environment variable holds no token.
    #[error(
        "http.token_env = {variable:?}: expected a token of at least {TOKEN_CHARS_MIN} characters in it, got {got}"
    )]
    Variable {
        /// The variable.
        variable: String,
        /// What it holds instead.
        got: &'static str,
    },
    /// The file of the token cannot be used.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The address is open to other machines.
    #[error(
        "telemetry.address = {0}: expected a loopback address; for another one set http.insecure_without_tls = true, since the \
         token then travels in the clear"
    )]
    BeyondLoopback(SocketAddr),
}

/// Who may ask what.
#[derive(Clone)]
pub struct Access(Arc<Rules>);

struct Rules {
    token: String,
    hosts: Vec<String>,
    origins: Vec<String>,
    is_loopback: bool,
}

impl Access {
    /// The access to a listener on `address`; a token that the node makes is in the run directory `run`.
    ///
    /// # Errors
    /// If there is no token, or the address is beyond loopback and the config does not say so.
    pub fn open(config: &HttpConfig, address: SocketAddr, run: &Path) -> Result<Self, AccessError> {
        let is_loopback = address.ip().is_loopback();
        if !is_loopback && !config.insecure_without_tls {
            return Err(AccessError::BeyondLoopback(address));
        }
        let token = match config.token_env.as_str() {
            "" => token_file(&run.join(TOKEN_FILE))?,
            variable => token_in(variable)?,
        };
        let own = (!address.ip().is_unspecified()).then(|| address.ip().to_string());
        let hosts = config.hosts.iter().map(|host| host.to_lowercase()).chain(own).collect();
        let origins = config.cors_origins.clone();
        Ok(Self(Arc::new(Rules { token, hosts, origins, is_loopback })))
    }

    /// Whether `request` carries the token. The time does not depend on how much of it is right.
    fn has_token(&self, request: &Request) -> Result<(), Problem> {
        let header = request.headers().get(header::AUTHORIZATION);
        let Some(given) = header.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer ")) else {
            let what = "expected the header `Authorization: Bearer TOKEN`, with the token of the file http-token in the run \
                        directory or of the variable that http.token_env names";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "missing_token", what));
        };
        match bool::from(given.trim().as_bytes().ct_eq(self.0.token.as_bytes())) {
            true => Ok(()),
            false => Err(Problem::new(StatusCode::FORBIDDEN, "wrong_token", "the token is not that of this node")),
        }
    }

    /// Whether `request` is meant for this listener.
    fn has_host(&self, request: &Request) -> Result<(), Problem> {
        let given = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let name = host_name(given).to_lowercase();
        let is_loopback = name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if is_loopback || self.0.hosts.contains(&name) || (!self.0.is_loopback && self.0.hosts.is_empty()) {
            return Ok(());
        }
        let what = format!("Host: expected localhost, this listener's address or one of http.hosts, got {name:?}");
        Err(Problem::new(StatusCode::FORBIDDEN, "wrong_host", &what))
    }
}

/// Whether a page in a browser that sends `request` may: one of this listener, or of an origin that the config names. Programs send
/// no origin.
fn has_origin(request: &Request, origins: &[String]) -> Result<(), Problem> {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    // A proxy may speak TLS before this listener.
    let page = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let is_own = host.is_some() && page == host;
    if is_own || origins.iter().any(|known| known == origin) {
        return Ok(());
    }
    let what = format!("Origin: expected one of http.cors_origins, got {origin:?}");
    Err(Problem::new(StatusCode::FORBIDDEN, "wrong_origin", &what))
}

/// Lets a request pass that is meant for this listener and, beyond loopback, carries the token.
pub(super) async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    // The page's files tell nothing of the run: what they show is asked of this listener, with the token.
    let is_public = matches!(path, "/healthz" | "/readyz" | "/health") || page::PATHS.contains(&path);
    let meant = access.has_host(&request).and_then(|()| has_origin(&request, &access.0.origins));
    let allowed = match meant {
        Ok(()) if access.0.is_loopback || is_public => Ok(()),
        Ok(()) => access.has_token(&request),
        refused => refused,
    };
    match allowed {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Lets a request pass that carries the token: for whatever changes the node.
pub(super) async fn require_token(State(access): State<Access>, request: Request, next: Next) -> Response {
    match access.has_token(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// A Host header without its port.
fn host_name(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(ip6) => ip6.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

/// The token in an environment variable.
fn token_in(variable: &str) -> Result<String, AccessError> {
    let unusable = |got| AccessError::Variable { variable: variable.to_owned(), got };
    let token = std::env::var(variable).map_err(|_| unusable("nothing"))?.trim().to_owned();
    match token.len() {
        0 => Err(unusable("nothing")),
        length if length < TOKEN_CHARS_MIN => Err(unusable("a shorter one")),
        _ => Ok(token),
    }
}

/// The token in the file `path`, which is made if there is none and which only its owner may read.
fn token_file(path: &Path) -> Result<String, AccessError> {
    let failed = |source| AccessError::File { path: path.to_owned(), source };
    let made = || {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        std::fs::create_dir_all(disk::parent(path))?;
        private_file(path)?.write_all(const_hex::encode(bytes).as_bytes())
    };
    match made() {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    check_private(path).map_err(failed)?;
    let token = disk::read_text(path, TOKEN_FILE_BYTES_MAX).map_err(failed)?.trim().to_owned();
    match token.len() >= TOKEN_CHARS_MIN {
        true => Ok(token),
        false => {
            Err(failed(io::Error::new(io::ErrorKind::InvalidData, "expected a token; remove the file for a new one")))
        }
    }
}

/// Creates a file that only its owner may read.
fn private_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options.open(path)
}

/// Refuses a file that others may read.
fn check_private(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::symlink_metadata(path)?.permissions().mode();
        if mode & 0o077 != 0 {
            let why = format!("expected a file that only its owner may read (mode 600), got mode {:o}", mode & 0o777);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
    }
    Ok(())
}
