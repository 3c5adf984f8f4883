//! A small server of the OpenAI kind that does as it is told: answers, refuses, hangs, babbles, or dies half-way.

use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What it does with one question.
#[derive(Clone, Debug)]
pub enum Act {
    /// Says so.
    Say(String),
    /// Says so, with these likeliest first tokens.
    Weigh(Vec<(&'static str, f64)>),
    /// This status, with a `Retry-After` or none.
    Status(u16, Option<&'static str>),
    /// 200, and a body that is no answer.
    Babble(&'static str),
    /// These bytes.
    Raw(Vec<u8>),
    /// Half of an answer, then the connection closes.
    Die,
    /// Nothing at all.
    Hang,
}

/// What it was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The header `authorization`.
    pub authorization: Option<String>,
    /// The body.
    pub body: Value,
}

impl Asked {
    /// What the last turn says.
    pub fn last(&self) -> &str {
        self.body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap()
    }
}

type Script = dyn Fn(usize, &Asked) -> Act + Send + Sync;

/// The server; it ends with this value.
pub struct Rigged {
    /// What stands before `/chat/completions`.
    pub base_url: String,
    log: Arc<Log>,
    _life: JoinSet<()>,
}

#[derive(Default)]
struct Log {
    asked: Mutex<Vec<Asked>>,
    in_flight: AtomicUsize,
    in_flight_max: AtomicUsize,
}

impl Rigged {
    /// A server that does what `script` says of the question's number and of the question.
    pub async fn start(script: impl Fn(usize, &Asked) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (log, script): (Arc<Log>, Arc<Script>) = (Arc::default(), Arc::new(script));
        let mut life = JoinSet::new();
        let serving = log.clone();
        life.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (log, script) = (serving.clone(), script.clone());
                open.spawn(async move {
                    // A client that gives up closes the connection: that is its right.
                    let _ = serve(stream, &log, &*script).await;
                });
            }
        });
        Self { base_url, log, _life: life }
    }

    /// What it was asked so far, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.log.asked.lock().unwrap().clone()
    }

    /// The most questions that it had at once.
    pub fn in_flight_max(&self) -> usize {
        self.log.in_flight_max.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, log: &Log, script: &Script) -> std::io::Result<()> {
    let asked = read(&mut stream).await?;
    let number = {
        let mut all = log.asked.lock().unwrap();
        all.push(asked.clone());
        all.len() - 1
    };
    let now = log.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
    log.in_flight_max.fetch_max(now, Ordering::SeqCst);
    // Long enough that those who come together meet.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let act = script(number, &asked);
    log.in_flight.fetch_sub(1, Ordering::SeqCst);
    let reply = |status: u16, more: &str, body: &str| {
        format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{more}content-length: {}\r\n\r\n{body}", body.len())
    };
    let whole = |content: &str, logprobs: Value| {
        let message = json!({"role": "assistant", "content": content});
        let choice = json!({"index": 0, "finish_reason": "stop", "message": message, "logprobs": logprobs});
        json!({"choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": 3}}).to_string()
    };
    let bytes = match act {
        Act::Say(text) => reply(200, "", &whole(&text, Value::Null)),
        Act::Weigh(tokens) => {
            let top: Vec<_> = tokens.iter().map(|(token, p)| json!({"token": token, "logprob": p.ln()})).collect();
            reply(200, "", &whole(tokens[0].0, json!({"content": [{"token": tokens[0].0, "top_logprobs": top}]})))
        }
        Act::Status(status, retry_after) => {
            let more = retry_after.map_or(String::new(), |when| format!("retry-after: {when}\r\n"));
            let said = asked.authorization.unwrap_or_default();
            reply(status, &more, &format!("{{\"error\": \"no, {said}\"}}"))
        }
        Act::Babble(body) => reply(200, "", body),
        Act::Raw(bytes) => {
            stream.write_all(&bytes).await?;
            return stream.shutdown().await;
        }
        Act::Die => {
            let whole = reply(200, "", &whole("A", Value::Null));
            whole[..whole.len() - 20].to_owned()
        }
        Act::Hang => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            return Ok(());
        }
    };
    stream.write_all(bytes.as_bytes()).await?;
    stream.shutdown().await
}

/// One request.
async fn read(stream: &mut TcpStream) -> std::io::Result<Asked> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        match stream.read(&mut chunk).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&chunk[..read]),
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    assert!(text.starts_with("POST /v1/chat/completions HTTP/1.1"), "{text}");
    let header = |name: &str| {
        let of =
            |line: &str| line.to_ascii_lowercase().strip_prefix(name).map(|_| line[name.len()..].trim().to_owned());
        text.lines().find_map(of)
    };
    let length: usize = header("content-length:").unwrap().parse().unwrap();
    while bytes.len() < head + 4 + length {
        let read = stream.read(&mut chunk).await?;
        bytes.extend_from_slice(&chunk[..read]);
    }
    let body = serde_json::from_slice(&bytes[head + 4..]).unwrap();
    Ok(Asked { authorization: header("authorization:"), body })
}
