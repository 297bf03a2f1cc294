//! A websocket client that remembers its position.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{Client, SOON};

/// An open socket.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The hello frame.
    pub hello: Value,
    /// The last position seen: `epoch`, `seq`, `final`.
    pub position: Position,
    /// Why the server closed, once it has.
    pub close_code: Option<u16>,
}

/// Where a client stands in its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub epoch: String,
    pub seq: i64,
    pub last_final: i64,
}

impl Position {
    /// As the query of a URL.
    pub fn query(&self) -> String {
        format!("?epoch={}&seq={}&final={}", self.epoch, self.seq, self.last_final)
    }

    /// As a resume frame.
    pub fn resume(&self) -> Value {
        json!({ "type": "resume", "epoch": self.epoch, "seq": self.seq, "final": self.last_final })
    }

    fn note(&mut self, frame: &Value) {
        if let Some(epoch) = frame["epoch"].as_str() {
            epoch.clone_into(&mut self.epoch);
        }
        self.seq = frame["seq"].as_i64().unwrap_or(self.seq);
        self.last_final = frame["final"].as_i64().unwrap_or(self.last_final);
    }
}

impl Socket {
    /// Opens a socket of `client` and reads the hello frame.
    pub async fn open(client: &Client) -> Self {
        Self::open_with(client, "").await
    }

    /// Opens a socket and resumes at `position`.
    pub async fn resume(client: &Client, position: &Position) -> Self {
        match Self::try_resume(client, position).await {
            Ok(socket) => socket,
            Err(status) => panic!("the socket was refused with {status}"),
        }
    }

    /// Opens a socket and resumes at `position`, or answers the status it was refused with (0 when there was no
    /// answer). Where the client stands is what it has got: the hello frame tells of events that are still to come.
    pub async fn try_resume(client: &Client, position: &Position) -> Result<Self, u16> {
        let socket = Self::try_open(client, &position.query()).await?;
        Ok(Self { position: position.clone(), ..socket })
    }

    /// Opens a socket with a query.
    pub async fn open_with(client: &Client, query: &str) -> Self {
        match Self::try_open(client, query).await {
            Ok(socket) => socket,
            Err(status) => panic!("the socket was refused with {status}"),
        }
    }

    /// Opens a socket, or answers the status it was refused with (0 when there was no answer).
    pub async fn try_open(client: &Client, query: &str) -> Result<Self, u16> {
        let url = format!("{}/api/v1/ws{query}", client.url.replacen("http", "ws", 1));
        let mut request = url.into_client_request().unwrap();
        if let Some(token) = &client.token {
            request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().unwrap());
        }
        let (stream, _) = tokio_tungstenite::connect_async(request).await.map_err(|error| match error {
            Error::Http(answer) => answer.status().as_u16(),
            _ => 0,
        })?;
        let position = Position { epoch: String::new(), seq: 0, last_final: 0 };
        let mut socket = Self { stream, hello: Value::Null, position, close_code: None };
        let hello = socket.next().await.ok_or(0_u16)?;
        assert_eq!(hello["type"], "hello", "{hello}");
        socket.hello = hello;
        Ok(socket)
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: Value) {
        self.send_text(&frame.to_string()).await;
    }

    /// Sends text that need not be a frame.
    pub async fn send_text(&mut self, text: &str) {
        self.stream.send(Message::text(text)).await.unwrap();
    }

    /// The next frame; `None` when the server has closed, with [`Self::close_code`] set.
    pub async fn next(&mut self) -> Option<Value> {
        self.next_within(SOON).await.expect("a frame in time")
    }

    /// The next frame, if one comes within `patience`.
    pub async fn next_within(&mut self, patience: Duration) -> Result<Option<Value>, &'static str> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let message =
                tokio::time::timeout_at(deadline, self.stream.next()).await.map_err(|_| "nothing came")?;
            match message {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    self.position.note(&frame);
                    return Ok(Some(frame));
                }
                Some(Ok(Message::Close(close))) => {
                    self.close_code = Some(close.map_or(1005, |close| close.code.into()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }

    /// Reads until a frame that `wanted` accepts; answers all frames up to and with it.
    pub async fn read_until(&mut self, mut wanted: impl FnMut(&Value) -> bool) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            let Some(frame) = self.next().await else {
                panic!("the server closed ({:?}) after {frames:#?}", self.close_code)
            };
            let found = wanted(&frame);
            frames.push(frame);
            if found {
                return frames;
            }
        }
    }

    /// Cuts the connection without a word, as a lost network does.
    pub fn cut(self) -> Position {
        self.position
    }
}
