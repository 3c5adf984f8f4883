//! A client of a running node's listener, which is found by the run directory.

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::config::Config;
use crate::disk;
use crate::http::TOKEN_FILE;
use crate::node::presence::Presence;
use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a node may take: the canary of a candidate writes texts.
const DEADLINE: Duration = Duration::from_secs(310);
/// The longest file of a token.
const TOKEN_BYTES_MAX: u64 = 4096;

/// Which node.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct NodeArguments {
    /// The node's address, such as http://127.0.0.1:9464 [default: the one that runs in node.run_directory].
    #[arg(long = "node", value_name = "URL")]
    url: Option<String>,
    /// The run directory of the node [default: node.run_directory].
    #[arg(long, value_name = "RUN")]
    run: Option<PathBuf>,
}

impl NodeArguments {
    /// Whether a node is named by its address.
    pub(super) fn names_an_address(&self) -> bool {
        self.url.is_some()
    }

    /// The run directory.
    pub(super) fn run(&self, config: &Config) -> PathBuf {
        self.run.clone().unwrap_or_else(|| PathBuf::from(&config.node.run_directory))
    }

    /// The node's URL.
    ///
    /// # Errors
    /// If none is given and no node runs in the run directory.
    pub(super) fn url(&self, config: &Config) -> Result<String, CommandError> {
        match &self.url {
            Some(url) => Ok(url.trim_end_matches('/').to_owned()),
            None => Ok(format!("http://{}", reachable(self.announced(config)?))),
        }
    }

    /// Whether the node is found by its run directory and listens beyond loopback, where reads need the token too.
    pub(super) fn is_open(&self, config: &Config) -> bool {
        self.url.is_none() && self.announced(config).is_ok_and(|address| !address.ip().is_loopback())
    }

    /// The address that the node of the run directory listens on.
    fn announced(&self, config: &Config) -> Result<SocketAddr, CommandError> {
        let run = self.run(config);
        let found = Presence::find(&run).with_context(|| run.display().to_string()).or_exit(Exit::Usage)?;
        let none = || {
            let run = run.display();
            anyhow!("{run}: expected the run directory of a running node with a listener; name it with --run or --node")
        };
        Ok(found.ok_or_else(none).or_exit(Exit::Usage)?.address)
    }
}

/// A client of one node.
pub(super) struct NodeClient {
    url: String,
    token: Option<String>,
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
}

impl NodeClient {
    /// A client of the node that `arguments` name.
    ///
    /// # Errors
    /// If no node runs there.
    pub(super) fn find(config: &Config, arguments: &NodeArguments) -> Result<Self, CommandError> {
        Self::find_patient(config, arguments, DEADLINE)
    }

    /// A client of the node that `arguments` name, which waits for an answer for `patience` at most.
    ///
    /// # Errors
    /// If no node runs there.
    pub(super) fn find_patient(
        config: &Config,
        arguments: &NodeArguments,
        patience: Duration,
    ) -> Result<Self, CommandError> {
        let (run, url) = (arguments.run(config), arguments.url(config)?);
        let client =
            reqwest::Client::builder().timeout(patience).redirect(reqwest::redirect::Policy::none()).no_proxy();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { url, token: token(config, &run)?, runtime, client: client.build()? })
    }

    /// Asks for `path`.
    ///
    /// # Errors
    /// If the node does not answer, or refuses.
    pub(super) fn get(&self, path: &str) -> Result<Value, CommandError> {
        self.send(self.client.get(format!("{}{path}", self.url)))
    }

    /// Posts `body` to `path`.
    ///
    /// # Errors
    /// If the node does not answer, or refuses.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, CommandError> {
        self.send(self.client.post(format!("{}{path}", self.url)).json(body))
    }

    fn send(&self, request: reqwest::RequestBuilder) -> Result<Value, CommandError> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let answered = self.runtime.block_on(async {
            let response = request.send().await?;
            let status = response.status();
            Ok::<_, reqwest::Error>((status, response.text().await?))
        });
        let (status, text) = answered.with_context(|| self.url.clone()).or_exit(Exit::Failed)?;
        let body: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        if status.is_success() {
            return Ok(body);
        }
        let message =
            body["error"]["message"].as_str().map_or_else(|| format!("{}: {status}", self.url), str::to_owned);
        Err(anyhow!(message)).or_exit(Exit::Failed)
    }
}

/// Where this machine reaches a listener on `address`: one on every address is on loopback too.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// The token of the node, if this user may read it.
fn token(config: &Config, run: &Path) -> Result<Option<String>, CommandError> {
    let text = match config.http.token_env.as_str() {
        "" => disk::read_text(&run.join(TOKEN_FILE), TOKEN_BYTES_MAX).ok(),
        variable => {
            Some(std::env::var(variable).with_context(|| format!("http.token_env: {variable}")).or_exit(Exit::Usage)?)
        }
    };
    Ok(text.map(|text| text.trim().to_owned()))
}
