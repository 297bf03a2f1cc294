//! Reads pages of the history for sockets that are not live, many sockets a round trip.

use super::{
    hub::Hub,
    messages::StreamEvent,
    socket::{Socket, SocketId},
    state::{Applied, Finals, HistoryRead, Page, Plan, Want, replay::plan},
    store::{
        postgres::{self, FinalsWanted},
        redis::{self as store, ReadWanted},
    },
};
use crate::{database::DatabaseError, events::Event, faults, redis_client::RedisUnavailable};
use std::{rc::Rc, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Sockets read for in one round trip.
const SOCKETS_AT_ONCE: usize = 64;

/// Events of a page. Small, so that one round holds 64 pages in memory.
const PAGE_EVENTS: usize = 200;

/// Bytes of a page; one event alone may be larger.
const PAGE_BYTES: usize = 256 << 10;

const RETRY_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Redis(#[from] RedisUnavailable),
}

/// Runs for ever. `wanting` names sockets that need a page.
pub(super) async fn run(
    hub: Rc<Hub>,
    mut wanting: tokio::sync::OwnedMutexGuard<mpsc::UnboundedReceiver<SocketId>>,
) {
    let mut reported = false;
    // sockets whose page could not be read; they ask again at the next tick
    let mut failed: Vec<Arc<Socket>> = Vec::new();
    let mut retry = tokio::time::interval(RETRY_EVERY);
    loop {
        let first = tokio::select! {
            Some(first) = wanting.recv() => first,
            _ = retry.tick() => {
                for socket in failed.drain(..) {
                    socket.page_failed();
                }
                continue;
            }
        };
        let mut ids = vec![first];
        while ids.len() < SOCKETS_AT_ONCE
            && let Ok(id) = wanting.try_recv()
        {
            ids.push(id);
        }
        let readers: Vec<Reader> = ids.into_iter().filter_map(|id| Reader::new(&hub, id)).collect();
        if readers.is_empty() {
            continue;
        }
        faults::point("stream.catch_up");
        match read_pages(&hub, &readers).await {
            Ok(pages) => {
                reported = false;
                for (reader, page) in readers.into_iter().zip(pages) {
                    match page {
                        Some(page) => reader.apply(&hub, page),
                        None => failed.push(reader.socket),
                    }
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut reported, true) {
                    tracing::warn!(error = %crate::causes(&error), "the history of live updates cannot be read");
                }
                failed.extend(readers.into_iter().map(|reader| reader.socket));
            }
        }
    }
}

struct Reader {
    socket: Arc<Socket>,
    want: Want,
    arrivals: Option<u64>,
}

impl Reader {
    fn new(hub: &Hub, id: SocketId) -> Option<Self> {
        let socket = hub.sockets.get(id)?;
        let want = socket.want()?;
        let arrivals = hub.followed.borrow().get(&socket.user).map(|followed| followed.arrivals);
        Some(Self { socket, want, arrivals })
    }

    fn apply(&self, hub: &Hub, read: PageRead) {
        let quiet = {
            let followed = hub.followed.borrow();
            let followed = followed.get(&self.socket.user);
            let head = &read.history.head;
            followed.map(|followed| followed.arrivals) == self.arrivals
                || followed
                    .and_then(|followed| followed.seen.as_ref())
                    .is_some_and(|(epoch, seq)| *epoch == head.epoch && *seq <= head.seq)
        };
        let PageRead { history, plan, finals } = read;
        let resyncs = matches!(plan, Plan::Resync { .. }) && finals.complete;
        let page = Page { generation: self.want.generation, read: history, plan, finals, quiet };
        if self.socket.apply(page) != Applied::Stale && resyncs {
            metrics::counter!("greenroom_stream_resyncs_total").increment(1);
        }
    }
}

struct PageRead {
    history: HistoryRead,
    plan: Plan,
    finals: Finals,
}

/// A page for each reader; none where the user's keys in Redis are not as they should be.
async fn read_pages(hub: &Hub, readers: &[Reader]) -> Result<Vec<Option<PageRead>>, ReadError> {
    // PostgreSQL first: what Redis has relayed by then is at least as new, so nothing seems to come from nowhere
    let users: Vec<_> = readers.iter().map(|reader| reader.socket.user).collect();
    let newest = postgres::newest_finals(&hub.database, &users).await?;
    let wanted: Vec<_> = readers
        .iter()
        .map(|reader| ReadWanted {
            user: reader.socket.user,
            newest_final: newest.get(&reader.socket.user).copied().unwrap_or(0),
            cursor: Some(reader.want.cursor.clone()),
            events: reader.want.room.min(PAGE_EVENTS),
            bytes: PAGE_BYTES,
        })
        .collect();
    let reads = store::read(&hub.redis, hub.retention(), &wanted).await?;
    let mut pages = Vec::with_capacity(readers.len());
    let mut ranges = Vec::new();
    for ((reader, wanted), read) in readers.iter().zip(&wanted).zip(reads) {
        let Ok(read) = read else {
            tracing::warn!(user = %wanted.user, "a user's history in Redis cannot be read");
            pages.push(None);
            continue;
        };
        let history =
            HistoryRead { head: read.head, newest_final: wanted.newest_final, entries: read.entries };
        let plan = plan(&reader.want.cursor, reader.want.pending, &history);
        if let Some(range) = plan.finals() {
            ranges.push(FinalsWanted { user: wanted.user, range, rows: wanted.events });
        }
        let finals = Finals { events: Vec::new(), complete: true };
        pages.push(Some(PageRead { history, plan, finals }));
    }
    let bytes = i64::try_from(PAGE_BYTES).unwrap_or(i64::MAX);
    let mut found = postgres::finals(&hub.database, &ranges, bytes).await?.into_iter().zip(&ranges);
    for page in pages.iter_mut().flatten().filter(|page| page.plan.finals().is_some()) {
        if let Some((events, wanted)) = found.next() {
            page.finals = finals_page(events, wanted);
        }
    }
    Ok(pages)
}

fn finals_page(events: Vec<Event>, wanted: &FinalsWanted) -> Finals {
    let reaches_end = events.last().and_then(|last| last.final_no) == Some(wanted.range.upto);
    // nothing at all: those of the range are older than kept
    let complete = reaches_end || events.is_empty();
    Finals { events: events.iter().map(|event| Arc::new(StreamEvent::from_row(event))).collect(), complete }
}
