//! A client that does not read hurts nobody but itself.

use super::*;
use crate::support::wait_until;
use futures_util::{SinkExt, StreamExt};
use std::cell::Cell;
use tokio::net::TcpSocket;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

/// Sockets that read.
const CROWD: usize = 999;

/// A socket whose client has little room and reads only when told to.
async fn open_slow(user: &Client) -> tokio_tungstenite::WebSocketStream<tokio::net::TcpStream> {
    let address = user.url.strip_prefix("http://").unwrap().parse().unwrap();
    let tcp = TcpSocket::new_v4().unwrap();
    tcp.set_recv_buffer_size(4_096).unwrap();
    // the kernel sizes the other end's buffer by it, megabytes for the segments of a loopback
    socket2::SockRef::from(&tcp).set_tcp_mss(536).unwrap();
    let stream = tcp.connect(address).await.unwrap();
    let mut request = format!("ws://{address}/api/v1/ws").into_client_request().unwrap();
    let bearer = format!("Bearer {}", user.token.as_ref().unwrap());
    request.headers_mut().insert("Authorization", bearer.parse().unwrap());
    tokio_tungstenite::client_async(request, stream).await.unwrap().0
}

/// Resident memory of the service, MiB.
fn memory(app: &TestApp) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", app.service.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[actix_web::test]
async fn a_slow_reader_is_closed_while_the_others_get_every_final_event_and_memory_stays_bounded() {
    const BURSTS: usize = 40;
    const FINALS: usize = 25;
    // bursts come faster than they are read, so the crowd is told by the history when it falls behind
    let app = TestApp::builder()
        .env("GREENROOM__WS__MAX_PER_USER", 0)
        .env("GREENROOM__WS__QUEUE_EVENTS", 64)
        .start()
        .await;
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let user = app.register_user().await;
    let replica = Replica::start(&app);
    let mut slow = open_slow(&user).await;
    let hello = slow.next().await.unwrap().unwrap();
    assert!(hello.to_text().unwrap().contains("hello"));
    let opened = (0..CROWD).map(|_| Socket::open(&user));
    let mut fast = futures_util::future::join_all(opened).await;
    let before = memory(&app);

    let bulk = "x".repeat(16_000);
    let told_to_all = Cell::new(None);
    let burst = async || {
        replica.commit(&user, FINALS).await;
        // what fills a socket that is not read, without being worth anything
        replica.tell(&user, EventKind::StepFinished, Some(TaskId::new()), json!({"nodeId": bulk}));
    };
    let produce = async {
        for _ in 1..BURSTS {
            burst().await;
        }
        let mut finals = FINALS * (BURSTS - 1);
        wait_until("the slow reader is judged", Duration::from_secs(120), async || {
            burst().await;
            finals += FINALS;
            (app.service.metric("greenroom_sockets_slow_total", &[]).await > 0.0).then_some(())
        })
        .await;
        told_to_all.set(Some(i64::try_from(finals + FINALS).unwrap()));
        burst().await;
    };
    let consume = futures_util::future::join_all(fast.iter_mut().map(async |socket| {
        let mut told = Told::default();
        while told_to_all.get().is_none_or(|last| told.finals.last() != Some(&last)) {
            told.read(socket, 1).await;
        }
        told.expect_finals(1..=told_to_all.get().unwrap());
    }));
    tokio::join!(produce, consume);

    let grown = memory(&app).saturating_sub(before);
    assert!(grown < 100, "memory grew by {grown} MiB");

    // now it reads: what was on its way, then why it was closed
    let last = loop {
        match slow.next().await {
            Some(Ok(Message::Close(close))) => break close,
            Some(Ok(_)) => {}
            other => panic!("{other:?} without a close frame"),
        }
    };
    assert_eq!(last.map(|close| u16::from(close.code)), Some(4008));
    assert_eq!(app.service.metric("greenroom_sockets_slow_total", &[]).await, 1.0, "only the slow one");
    replica.stop().await;
}

#[actix_web::test]
async fn a_reader_that_never_takes_its_close_is_cut() {
    let app = TestApp::builder().env("GREENROOM__WS__QUEUE_EVENTS", 16).start().await;
    let user = app.register_user().await;
    let replica = Replica::start(&app);
    let mut slow = open_slow(&user).await;
    slow.next().await.unwrap().unwrap();
    let bulk = "x".repeat(16_000);
    wait_until("it is judged", Duration::from_secs(60), async || {
        replica.tell(&user, EventKind::StepFinished, Some(TaskId::new()), json!({"nodeId": bulk}));
        (app.service.metric("greenroom_sockets_slow_total", &[]).await > 0.0).then_some(())
    })
    .await;
    wait_until("it is cut", Duration::from_secs(60), async || {
        (app.service.metric("greenroom_sockets", &[]).await == 0.0).then_some(())
    })
    .await;
    // reading now finds what the kernel had taken, and the connection gone
    while let Some(Ok(_)) = slow.next().await {}
    assert!(slow.send(Message::text("x")).await.is_err());
    replica.stop().await;
}
