//! Frames, ways to sign in, and ways to end.

use super::*;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{SinkExt, StreamExt};
use greenroom_actors::clock::{Clock, SystemClock};
use std::collections::HashSet;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

type Raw = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens a socket with these headers; answers the subprotocol that was chosen, or the status of the refusal.
async fn open(
    client: &Client,
    query: &str,
    headers: &[(&'static str, String)],
) -> Result<(Raw, String), u16> {
    let url = format!("{}/api/v1/ws{query}", client.url.replacen("http", "ws", 1));
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match tokio_tungstenite::connect_async(request).await {
        Ok((mut raw, answer)) => {
            let chosen = answer.headers().get("sec-websocket-protocol");
            let chosen = chosen.map_or("", |value| value.to_str().unwrap()).to_owned();
            let hello = raw.next().await.unwrap().unwrap();
            assert!(hello.to_text().unwrap().starts_with(r#"{"type":"hello","#));
            Ok((raw, chosen))
        }
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(other) => panic!("{other}"),
    }
}

fn bearer(client: &Client) -> (&'static str, String) {
    ("Authorization", format!("Bearer {}", client.token.as_ref().unwrap()))
}

async fn close_code(raw: &mut Raw) -> Option<u16> {
    loop {
        match raw.next().await {
            Some(Ok(Message::Close(close))) => return close.map(|close| close.code.into()),
            Some(Ok(_)) => {}
            _ => return None,
        }
    }
}

#[actix_web::test]
async fn the_hello_frame_says_where_the_events_stand() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let socket = Socket::open(&user).await;
    assert_eq!(socket.hello["heartbeatSeconds"], 25);
    assert_eq!(socket.hello["final"], 0);
    assert!(socket.hello["seq"].is_u64());
    assert!(!socket.hello["epoch"].as_str().unwrap().is_empty());
    let expires: chrono::DateTime<chrono::Utc> =
        socket.hello["sessionExpiresAt"].as_str().unwrap().parse().unwrap();
    let left = (expires - SystemClock.now()).num_seconds();
    assert!((800..=900).contains(&left), "{left}");
}

#[actix_web::test]
async fn events_carry_what_the_contract_says() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let replica = Replica::start(&app);
    let mut socket = Socket::open(&user).await;
    replica.commit(&user, 1).await;
    let event = socket.next().await.unwrap();
    assert_eq!(event["type"], "event");
    assert_eq!(event["event"], "quota.changed");
    assert_eq!(event["final"], 1);
    assert_eq!(event["epoch"], socket.hello["epoch"]);
    assert_eq!(event["seq"].as_u64(), socket.hello["seq"].as_u64().map(|seq| seq + 1));
    assert_eq!(event["data"]["remaining"], 1);
    assert!(event["at"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().is_ok());
    let task = TaskId::new();
    replica.tell(&user, EventKind::TaskProgress, Some(task), json!({"progress": 40}));
    let event = socket.next().await.unwrap();
    assert_eq!((&event["event"], &event["taskId"]), (&json!("task.progress"), &json!(task)));
    assert!(event.get("final").is_none());
    replica.stop().await;
}

#[actix_web::test]
async fn a_socket_hears_of_its_own_user_only() {
    let app = TestApp::start().await;
    let (user, other) = (app.register_user().await, app.register_user().await);
    let replica = Replica::start(&app);
    let mut socket = Socket::open(&user).await;
    replica.commit(&other, 3).await;
    replica.commit(&user, 1).await;
    let event = socket.next().await.unwrap();
    assert_eq!((event["final"].as_i64(), event["data"]["remaining"].as_i64()), (Some(1), Some(1)));
    replica.stop().await;
}

#[actix_web::test]
async fn a_token_may_come_as_header_subprotocol_or_ticket() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let token = user.token.clone().unwrap();
    let (_, chosen) = open(&user, "", &[bearer(&user)]).await.unwrap();
    assert_eq!(chosen, "");
    let protocols = ("Sec-WebSocket-Protocol", format!("greenroom.v1, bearer.{token}"));
    let (_, chosen) = open(&user, "", &[protocols]).await.unwrap();
    assert_eq!(chosen, "greenroom.v1");

    let ticket = user.post("/api/v1/ws/tickets", json!({})).await.expect(201);
    assert_eq!(ticket["expiresIn"], 30);
    let query = format!("?ticket={}", ticket["ticket"].as_str().unwrap());
    assert!(open(&user, &query, &[]).await.is_ok());
    assert_eq!(open(&user, &query, &[]).await.err(), Some(401), "a ticket is good once");
}

#[actix_web::test]
async fn nobody_else_gets_a_socket() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    for (query, headers) in [
        ("", vec![]),
        ("?ticket=", vec![]),
        ("?ticket=nonsense", vec![]),
        ("", vec![("Authorization", "Bearer nonsense".to_owned())]),
        ("", vec![("Authorization", "Basic nonsense".to_owned())]),
        ("", vec![("Sec-WebSocket-Protocol", "greenroom.v1, bearer.nonsense".to_owned())]),
        ("?nonsense=1", vec![]),
    ] {
        assert_eq!(open(&user, query, &headers).await.err(), Some(401), "{query} {headers:?}");
    }
    assert_eq!(app.client().post("/api/v1/ws/tickets", json!({})).await.status, 401);
    for query in [
        "?seq=1",
        "?epoch=e",
        "?epoch=e&seq=-1",
        "?epoch=e&seq=x",
        "?epoch=e&seq=1&final=-1",
        "?final=3",
        "?later=1",
    ] {
        assert_eq!(open(&user, query, &[bearer(&user)]).await.err(), Some(400), "{query}");
    }
    let plain = user.get("/api/v1/ws").await;
    assert_eq!((plain.status, plain.code()), (400, "BAD_REQUEST"), "no handshake");
    assert_eq!(user.post("/api/v1/ws", json!({})).await.status, 405);
}

#[actix_web::test]
async fn what_is_no_frame_is_an_error_and_no_close() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let mut socket = Socket::open(&user).await;
    let foreign = TaskId::new();
    for (text, code) in [
        ("nonsense".to_owned(), "MALFORMED_JSON"),
        ("{}".to_owned(), "BAD_REQUEST"),
        (r#"{"type":"dance"}"#.to_owned(), "BAD_REQUEST"),
        (r#"{"type":"resume"}"#.to_owned(), "BAD_REQUEST"),
        (r#"{"type":"auth","accessToken":"nonsense"}"#.to_owned(), "UNAUTHENTICATED"),
        (format!(r#"{{"type":"subscribe","taskIds":["{foreign}"]}}"#), "NOT_FOUND"),
    ] {
        socket.send_text(&text).await;
        let frame = socket.next().await.unwrap();
        assert_eq!((&frame["type"], &frame["code"]), (&json!("error"), &json!(code)), "{text}");
        assert!(!frame["message"].as_str().unwrap().is_empty());
    }
    socket.send(json!({"type": "ping"})).await;
    assert_eq!(socket.next().await.unwrap(), json!({"type": "pong"}));
}

#[actix_web::test]
async fn frames_beyond_the_allowance_are_refused_once_and_ignored() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let mut socket = Socket::open(&user).await;
    for _ in 0..500 {
        socket.send(json!({"type": "ping"})).await;
    }
    let refused = socket.read_until(|frame| frame["type"] == "error").await;
    assert!(refused.len() > 60);
    assert_eq!(refused.last().unwrap()["code"], "RATE_LIMITED");
    tokio::time::sleep(Duration::from_secs(1)).await;
    socket.send(json!({"type": "ping"})).await;
    socket.read_until(|frame| frame["type"] == "pong").await;
}

#[actix_web::test]
async fn a_frame_over_64_kib_ends_the_socket_also_in_parts() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let (mut raw, _) = open(&user, "", &[bearer(&user)]).await.unwrap();
    raw.send(Message::text("x".repeat(65_537))).await.unwrap();
    assert_eq!(close_code(&mut raw).await, Some(1009));

    let (mut raw, _) = open(&user, "", &[bearer(&user)]).await.unwrap();
    for part in 0..3 {
        let opcode = if part == 0 { Data::Text } else { Data::Continue };
        let frame = Frame::message(vec![b'x'; 30_000], OpCode::Data(opcode), false);
        raw.send(Message::Frame(frame)).await.unwrap();
    }
    assert_eq!(close_code(&mut raw).await, Some(1009));

    // parts that make a frame are one
    let (mut raw, _) = open(&user, "", &[bearer(&user)]).await.unwrap();
    for (part, opcode, is_last) in [("{\"type\":", Data::Text, false), ("\"ping\"}", Data::Continue, true)] {
        let frame = Frame::message(part.as_bytes().to_vec(), OpCode::Data(opcode), is_last);
        raw.send(Message::Frame(frame)).await.unwrap();
    }
    assert_eq!(raw.next().await.unwrap().unwrap().to_text().unwrap(), r#"{"type":"pong"}"#);
    raw.send(Message::Frame(Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true))).await.unwrap();
    assert_eq!(close_code(&mut raw).await, Some(1007));
}

#[actix_web::test]
async fn one_socket_too_many_takes_the_place_of_the_oldest() {
    let app = TestApp::builder().env("GREENROOM__WS__MAX_PER_USER", 2).start().await;
    let (user, other) = (app.register_user().await, app.register_user().await);
    let mut oldest = Socket::open(&user).await;
    let (_second, _third) = (Socket::open(&user).await, Socket::open(&user).await);
    let mut others = Socket::open(&other).await;
    assert_eq!((oldest.next().await, oldest.close_code), (None, Some(4009)));
    others.send(json!({"type": "ping"})).await;
    assert_eq!(others.next().await.unwrap(), json!({"type": "pong"}));
}

#[actix_web::test]
async fn a_client_that_answers_no_ping_is_closed() {
    let app = TestApp::builder().env("GREENROOM__WS__HEARTBEAT_S", 1).start().await;
    let user = app.register_user().await;
    let mut answering = Socket::open(&user).await;
    let address = user.url.strip_prefix("http://").unwrap();
    let mut mute = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /api/v1/ws HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        user.token.as_ref().unwrap()
    );
    mute.write_all(request.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    let started = Instant::now();
    // the other client reads meanwhile, which answers its pings
    let patience = Duration::from_secs(20);
    tokio::select! {
        end = tokio::time::timeout(patience, mute.read_to_end(&mut received)) => drop(end.unwrap().unwrap()),
        frame = answering.next_within(patience) => panic!("{frame:?}"),
    }
    assert!(started.elapsed() >= Duration::from_secs(2), "two heartbeats at least");
    // two pings and the close frame with 4000
    let pings = received.windows(2).filter(|bytes| bytes == &[0x89, 0]).count();
    assert_eq!(pings, 2);
    let close = [0x88, 2 + u8::try_from("no pong".len()).unwrap()];
    let code = 4000_u16.to_be_bytes();
    let expected = [&close[..], &code, b"no pong"].concat();
    assert!(received.ends_with(&expected), "{:?}", &received[received.len().saturating_sub(20)..]);
    answering.send(json!({"type": "ping"})).await;
    assert_eq!(answering.next().await.unwrap(), json!({"type": "pong"}));
}

#[actix_web::test]
async fn a_socket_ends_with_its_token_unless_it_was_renewed() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    // the clocks of two machines may differ by 30 s, and these tokens ended 20 s and 15 s ago
    let (old, newer) = (app.with_aged_token(&user, 80, 60), app.with_aged_token(&user, 75, 60));
    let mut socket = Socket::open(&old).await;
    let other = app.register_user().await;
    socket.send(json!({"type": "auth", "accessToken": other.token})).await;
    assert_eq!(socket.next().await.unwrap()["code"], "UNAUTHENTICATED", "another user's token");
    socket.send(json!({"type": "auth", "accessToken": newer.token})).await;
    let renewed = socket.next().await.unwrap();
    assert_eq!(renewed["type"], "auth.ok");
    let ends = renewed["sessionExpiresAt"].as_str().unwrap();
    assert!(Some(ends) > socket.hello["sessionExpiresAt"].as_str());
    let closed = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let Ok(None) = socket.next_within(Duration::from_secs(10)).await {
                return socket.close_code;
            }
        }
    });
    assert_eq!(closed.await.expect("30 s after its end"), Some(4001));
    let open_for = SystemClock.now() - ends.parse::<DateTime<Utc>>().unwrap();
    assert!(open_for >= TimeDelta::seconds(29), "closed {open_for} after the end of the newer token");
}

#[actix_web::test]
async fn a_subset_of_tasks_leaves_the_others_out() {
    let app = TestApp::builder().may_leave_work().start().await;
    let user = app.register_user().await;
    let replica = Replica::start(&app);
    let (mine, other) = (TaskId::new(), TaskId::new());
    let insert = "insert into tasks (id, user_id, pipeline_id, pipeline_version, status, quota_cost, input)
        values ($1, $2, $1, 1, 'queued', 0, '{}')";
    let sql = app.sql().await;
    for task in [mine, other] {
        sql.execute(insert, &[&task, &id(&user)]).await.unwrap();
    }
    let mut socket = Socket::open(&user).await;
    socket.send(json!({"type": "subscribe", "taskIds": [mine]})).await;
    socket.send(json!({"type": "ping"})).await;
    assert_eq!(socket.next().await.unwrap(), json!({"type": "pong"}));
    for task in [other, mine] {
        replica.tell(&user, EventKind::TaskStarted, Some(task), json!({"status": "running"}));
    }
    replica.commit(&user, 1).await;
    let heard = socket.read_until(|frame| frame["event"] == "quota.changed").await;
    let tasks: HashSet<_> = heard.iter().filter_map(|frame| frame["taskId"].as_str()).collect();
    assert_eq!(tasks, HashSet::from([mine.to_string().as_str()]));

    socket.send(json!({"type": "unsubscribe"})).await;
    socket.send(json!({"type": "ping"})).await;
    socket.read_until(|frame| frame["type"] == "pong").await;
    replica.tell(&user, EventKind::TaskStarted, Some(other), json!({"status": "running"}));
    assert_eq!(socket.next().await.unwrap()["taskId"], json!(other));
    sql.batch_execute("delete from tasks").await.unwrap();
    replica.stop().await;
}
