//! An AI provider that does what the test says, and remembers what it was asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::serving::serve;

/// A call the provider got.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its number, from 0.
    pub number: usize,
    /// Method.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub body: Vec<u8>,
}

impl Call {
    /// The body as JSON; `null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The Idempotency-Key it carried; empty when there was none.
    pub fn key(&self) -> &str {
        self.headers.get("idempotency-key").map_or("", String::as_str)
    }
}

/// What the provider answers.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    content_type: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    delay: Duration,
}

impl Answer {
    /// 200 with JSON.
    pub fn json(body: Value) -> Self {
        Self::status(200, body)
    }

    /// Another status with JSON.
    pub fn status(status: u16, body: Value) -> Self {
        Self::bytes("application/json", body.to_string().into_bytes()).with_status(status)
    }

    /// 200 with bytes.
    pub fn bytes(content_type: &'static str, body: Vec<u8>) -> Self {
        Self { status: 200, content_type, headers: Vec::new(), body, delay: Duration::ZERO }
    }

    /// Not before `delay`.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// With one more header.
    pub fn with_header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }
}

/// When the provider was busy with a call: until its answer, or until its client had gone.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// When the call arrived.
    pub began: Instant,
    /// `None` while it is busy with it.
    pub ended: Option<Instant>,
}

type Script = Box<dyn Fn(&Call) -> Answer + Send + Sync>;

struct State {
    script: Script,
    calls: Mutex<Vec<Call>>,
    spans: Mutex<Vec<Span>>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

/// A provider on 127.0.0.1.
#[derive(Clone)]
pub struct FakeProvider {
    state: Arc<State>,
    /// Its origin.
    pub url: String,
}

impl FakeProvider {
    /// One that answers every call with what `script` says.
    pub async fn start(script: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        let state = Arc::new(State {
            script: Box::new(script),
            calls: Mutex::default(),
            spans: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        });
        let url = serve(Arc::clone(&state), || web::to(answer)).await;
        Self { state, url }
    }

    /// A definition of this provider, for [`super::TestApp::put_provider`].
    pub fn definition(&self, id: &str) -> Value {
        json!({ "id": id, "kind": "http", "baseUrl": format!("{}/{id}", self.url) })
    }

    /// What it was asked so far.
    pub fn calls(&self) -> Vec<Call> {
        self.state.calls.lock().unwrap().clone()
    }

    /// When it was busy with each of them, by their numbers.
    pub fn spans(&self) -> Vec<Span> {
        self.state.spans.lock().unwrap().clone()
    }

    /// The most calls it was ever busy with at once.
    pub fn most_in_flight(&self) -> usize {
        self.state.most_in_flight.load(Ordering::SeqCst)
    }
}

/// Counts a call until it is answered or its client has gone.
struct InFlight<'a> {
    state: &'a State,
    number: usize,
}

impl<'a> InFlight<'a> {
    /// Notes a call that has arrived.
    fn enter(state: &'a State, call: impl FnOnce(usize) -> Call) -> (Self, Call) {
        let mut calls = state.calls.lock().unwrap();
        let number = calls.len();
        let call = call(number);
        calls.push(call.clone());
        state.spans.lock().unwrap().push(Span { began: Instant::now(), ended: None });
        let now = state.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_in_flight.fetch_max(now, Ordering::SeqCst);
        (Self { state, number }, call)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.state.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.state.spans.lock().unwrap()[self.number].ended = Some(Instant::now());
    }
}

async fn answer(request: HttpRequest, body: web::Bytes, state: web::Data<State>) -> HttpResponse {
    let text = |value: &actix_web::http::header::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let (_in_flight, call) = InFlight::enter(&state, |number| Call {
        number,
        method: request.method().to_string(),
        path: request.uri().to_string(),
        headers: request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body: body.to_vec(),
    });
    let answer = (state.script)(&call);
    tokio::time::sleep(answer.delay).await;
    let mut response = HttpResponse::build(StatusCode::from_u16(answer.status).unwrap());
    response.content_type(answer.content_type);
    for header in answer.headers {
        response.append_header(header);
    }
    response.body(answer.body)
}
