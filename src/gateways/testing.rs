//! What a gateway needs around it, for tests: a server to call and the log; for a provider files in memory and a call
//! to hand in.

use async_trait::async_trait;
use bytes::Bytes;
use greenroom_actors::{
    ids::{AttemptId, FileId, TaskId, UserId},
    pipeline::provider::{Call, CallError, FileAccess, JobBook, ProviderRecord, Submission},
};
use secrecy::SecretString;
use serde_json::Value;
use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tracing::{Dispatch, Level, dispatcher, subscriber::DefaultGuard};

/// Answers one request a connection with what the script says to it, and keeps what it was sent.
pub(super) struct Server {
    pub(super) url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `script` is given the request's text and how many came before.
    pub(super) async fn start(script: impl Fn(&str, usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (keep, script, count) = (Arc::clone(&seen), Arc::new(script), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (keep, script, count) = (Arc::clone(&keep), Arc::clone(&script), Arc::clone(&count));
                tokio::spawn(async move {
                    let request = read_request(&mut socket).await;
                    let answer = script(&request, count.fetch_add(1, Ordering::SeqCst));
                    keep.lock().unwrap().push(request);
                    let _ = socket.write_all(&answer).await;
                    let _ = socket.shutdown().await;
                });
            }
        });
        Self { url, seen }
    }

    /// What it was sent so far.
    pub(super) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn read_request(socket: &mut tokio::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 65_536];
    loop {
        let n = socket.read(&mut buffer).await.unwrap_or(0);
        bytes.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            if n == 0 {
                return text;
            }
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))
            .map_or(0, |length| length.parse().unwrap());
        if body.len() >= length || n == 0 {
            return text;
        }
    }
}

/// An answer's bytes.
pub(super) fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}", body.len())
        .into_bytes()
}

/// 200 with JSON.
pub(super) fn ok(body: &Value) -> Vec<u8> {
    answer("200 OK", "content-type: application/json\r\n", &body.to_string())
}

/// Somebody who takes connections and never says a word, for as long as the listener lives.
pub(super) async fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// An address nobody listens at.
pub(super) async fn nobody() -> String {
    silent().await.1
}

/// Every log line of this thread, down to the last level.
pub(super) struct Log {
    bytes: Arc<Mutex<Vec<u8>>>,
    _guard: DefaultGuard,
    // with one subscriber alone, a line that another thread meets first is switched off for good
    _another: Dispatch,
}

struct LogWriter(Arc<Mutex<Vec<u8>>>);

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Begins to listen; a test's runtime has one thread, so all of it is heard.
    pub(super) fn capture() -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&bytes);
        let dispatch = || {
            let writer = Arc::clone(&writer);
            let subscriber = tracing_subscriber::fmt()
                .with_max_level(Level::TRACE)
                .with_ansi(false)
                .with_writer(move || LogWriter(Arc::clone(&writer)));
            Dispatch::new(subscriber.finish())
        };
        let another = dispatch();
        Self { bytes, _guard: dispatcher::set_default(&dispatch()), _another: another }
    }

    /// What was logged so far.
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
    }
}

/// Files in memory.
#[derive(Default)]
pub(super) struct MemoryFiles(HashMap<FileId, Bytes>);

impl MemoryFiles {
    /// Keeps a file and names it.
    pub(super) fn add(&mut self, bytes: impl Into<Bytes>) -> FileId {
        let id = FileId::new();
        self.0.insert(id, bytes.into());
        id
    }
}

#[async_trait]
impl FileAccess for MemoryFiles {
    async fn read(&self, file: FileId, limit: u64) -> Result<Bytes, CallError> {
        match self.0.get(&file) {
            Some(bytes) if bytes.len() as u64 <= limit => Ok(bytes.clone()),
            Some(_) => Err(CallError::permanent("INPUT_INVALID", "too large")),
            None => Err(CallError::permanent("INPUT_INVALID", "no such file")),
        }
    }

    async fn link(&self, file: FileId, lasting: Duration) -> Result<String, CallError> {
        self.read(file, u64::MAX).await?;
        Ok(format!("https://files.example/{file}?for={}", lasting.as_secs()))
    }
}

/// A call's memory: the jobs it said, and the callbacks it will hear.
#[derive(Default)]
pub(super) struct MemoryJobs {
    pub(super) submitted: Mutex<Vec<String>>,
    pub(super) callbacks: Mutex<VecDeque<(Duration, &'static str)>>,
}

impl MemoryJobs {
    /// One that hears these, each so long after the one before.
    pub(super) fn hearing<const N: usize>(callbacks: [(u64, &'static str); N]) -> Self {
        let callbacks = callbacks.map(|(ms, body)| (Duration::from_millis(ms), body));
        Self { callbacks: Mutex::new(callbacks.into()), ..Self::default() }
    }
}

#[async_trait]
impl JobBook for MemoryJobs {
    fn submitted(&self, job: &str) {
        self.submitted.lock().unwrap().push(job.to_owned());
    }

    async fn callback(&self) -> Bytes {
        let next = self.callbacks.lock().unwrap().pop_front();
        match next {
            Some((after, body)) => {
                tokio::time::sleep(after).await;
                body.into()
            }
            None => std::future::pending().await,
        }
    }
}

/// A first call of node `draw` with ten seconds to go.
pub(super) fn call(kind: &str, config: Value, auth: Option<Value>, input: Value, files: MemoryFiles) -> Call {
    let provider = ProviderRecord {
        id: "p".to_owned(),
        kind: kind.to_owned(),
        config,
        auth: auth.map(|auth| SecretString::from(auth.to_string())),
        enabled: true,
    };
    let task = TaskId::new();
    Call {
        attempt_id: AttemptId::new(),
        task,
        user: UserId::new(),
        node: "draw".to_owned(),
        attempt: 1,
        provider: Arc::new(provider),
        input,
        idempotency_key: format!("{task}:draw"),
        deadline: Instant::now() + Duration::from_secs(10),
        files: Arc::new(files),
        submission: Submission::Due,
        callback_token: None,
        jobs: Arc::new(MemoryJobs::default()),
    }
}
