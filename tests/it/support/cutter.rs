//! A line to PostgreSQL that breaks when it hurts most.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Stands between a pool and PostgreSQL and cuts the line at a COMMIT: before it arrives, or after, so that
/// only its answer is lost. Or it holds the line: nothing arrives any more, and nobody is told.
#[derive(Clone, Default)]
pub struct Cutter {
    /// COMMITs to be cut before they arrive.
    pub before: Arc<AtomicU32>,
    /// COMMITs to be cut so that only their answer is lost.
    pub after: Arc<AtomicU32>,
    /// Whether what is sent waits on the line.
    pub held: Arc<watch::Sender<bool>>,
}

impl Cutter {
    /// Starts it before the server of `url`; answers the address to use instead.
    pub async fn stand_before(&self, url: &str) -> String {
        let (head, tail) = url.split_once("@127.0.0.1:").unwrap();
        let (port, database) = tail.split_once('/').unwrap();
        let port: u16 = port.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let cutter = self.clone();
        actix_web::rt::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                actix_web::rt::spawn(cutter.clone().carry(client, port));
            }
        });
        format!("{head}@127.0.0.1:{own}/{database}")
    }

    async fn carry(self, client: TcpStream, port: u16) {
        let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let back = actix_web::rt::spawn(async move {
            drop(tokio::io::copy(&mut from_server, &mut to_client).await);
        });
        let mut bytes = vec![0; 65_536];
        let mut held = self.held.subscribe();
        while let Ok(read @ 1..) = from_client.read(&mut bytes).await {
            drop(held.wait_for(|held| !held).await);
            let is_commit = bytes[..read].windows(6).any(|word| word == b"COMMIT");
            let take = |left: &AtomicU32| {
                is_commit
                    && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
            };
            if take(&self.before) {
                break;
            }
            let lose_answer = take(&self.after);
            if lose_answer {
                back.abort();
            }
            if to_server.write_all(&bytes[..read]).await.is_err() {
                break;
            }
            if lose_answer {
                // PostgreSQL commits what it has read, whoever is there to hear of it
                tokio::time::sleep(Duration::from_millis(50)).await;
                break;
            }
        }
        back.abort();
    }
}
