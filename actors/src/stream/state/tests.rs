//! A socket against a model of a user's events: whatever order live events, lost events, pages, merges, restarts
//! of the numbering and resumes come in, its client hears of each final event once, in order, and of each
//! position of a reachable history once, ascending.

use super::*;
use crate::{
    ids::TaskId,
    stream::messages::{
        CloseCause, Epoch, EventClass, Outgoing, Position, ResumeFrom, ResyncReason, StreamEvent,
    },
};
use proptest::prelude::*;
use std::sync::Arc;
use uuid::Uuid;

const ROOMY: QueueLimits = QueueLimits { events: 10_000, bytes: 1 << 20 };

fn task(number: u128) -> TaskId {
    TaskId(Uuid::from_u128(number))
}

fn event(epoch: &str, seq: u64, class: EventClass, task_no: u128, final_no: Option<i64>) -> Arc<StreamEvent> {
    Arc::new(StreamEvent {
        position: Some((Epoch::new(epoch), seq)),
        final_no,
        task: (class != EventClass::User).then(|| task(task_no)),
        class,
        body: format!("{{\"seq\":{seq}}}").into(),
    })
}

fn at(epoch: &str, seq: u64, final_no: i64) -> Position {
    Position { epoch: Epoch::new(epoch), seq, final_no }
}

fn from(epoch: &str, seq: u64, final_no: Option<i64>) -> ResumeFrom {
    ResumeFrom { epoch: Epoch::new(epoch), seq, final_no }
}

/// PostgreSQL and Redis of one user, and the client at the other end of the socket.
struct World {
    epoch: u32,
    history: Vec<Arc<StreamEvent>>,
    head_final: i64,
    newest_final: i64,
    // finals before this one are no longer kept in PostgreSQL
    oldest_kept: i64,
    socket: SocketState,
    client: Client,
    // the last one published, and whether one was published since a page was asked for
    arrivals: u64,
    reading: Option<(Want, HistoryRead, u64)>,
}

#[derive(Default)]
struct Client {
    position: Option<(Epoch, u64)>,
    final_no: Option<i64>,
    finals: Vec<i64>,
    resyncs: Vec<ResyncReason>,
    merged_over: bool,
    closed: Option<CloseCause>,
}

impl Client {
    fn take(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Event { event, from_seq } => {
                if let Some(final_no) = event.final_no {
                    if let Some(last) = self.final_no {
                        assert!(final_no > last, "final {final_no} after {last}");
                    }
                    self.final_no = Some(final_no);
                    self.finals.push(final_no);
                }
                if let Some((epoch, seq)) = &event.position {
                    let (known, last) = self.position.as_ref().expect("a position before any event");
                    assert_eq!(epoch, known, "a new epoch is announced first");
                    let first = from_seq.unwrap_or(*seq);
                    assert!(seq > last, "position {seq} after {last}");
                    if self.merged_over {
                        assert!(first <= *seq);
                    } else {
                        assert_eq!(first, last + 1, "no position is left out");
                    }
                    self.position = Some((epoch.clone(), *seq));
                } else {
                    assert!(event.final_no.is_some(), "only finals come without a position");
                }
            }
            Outgoing::Resync { reason, position } => {
                self.resyncs.push(reason);
                self.final_no = Some(position.final_no);
                self.position = Some((position.epoch, position.seq));
            }
            Outgoing::Close(cause) => self.closed = Some(cause),
        }
    }
}

impl World {
    fn new(limits: QueueLimits) -> Self {
        let start = at("0", 0, 0);
        Self {
            epoch: 0,
            history: Vec::new(),
            head_final: 0,
            newest_final: 0,
            oldest_kept: 1,
            socket: SocketState::live(limits, start.clone()),
            client: Client { position: Some((start.epoch, 0)), final_no: Some(0), ..Client::default() },
            arrivals: 0,
            reading: None,
        }
    }

    fn head(&self) -> Position {
        let seq = self.history.last().and_then(|last| last.position.clone()).map_or(0, |(_, seq)| seq);
        at(&self.epoch.to_string(), seq, self.head_final)
    }

    /// Something happens; `arrives` is whether the hub's subscription brings it.
    fn happen(&mut self, class: EventClass, task_no: u128, is_final: bool, arrives: bool) {
        let final_no = is_final.then(|| {
            self.newest_final += 1;
            self.newest_final
        });
        if let Some(final_no) = final_no {
            self.head_final = final_no;
        }
        let event = event(&self.epoch.to_string(), self.head().seq + 1, class, task_no, final_no);
        self.history.push(Arc::clone(&event));
        if arrives {
            self.arrivals += 1;
            self.socket.offer(&event);
        }
    }

    /// Redis loses everything. The next to read or relay begins a new epoch at what PostgreSQL has.
    fn flush(&mut self) {
        self.epoch += 1;
        self.history.clear();
        self.head_final = self.newest_final;
    }

    /// The history forgets its oldest events.
    fn trim(&mut self, keep: usize) {
        let cut = self.history.len().saturating_sub(keep.max(1));
        self.history.drain(..cut);
    }

    fn begin_page(&mut self, most: usize) {
        if self.reading.is_some() {
            return;
        }
        let Some(want) = self.socket.want() else { return };
        let head = self.head();
        let entries = self.history.iter().filter(|entry| {
            let (epoch, seq) = entry.position.as_ref().unwrap();
            *epoch == want.cursor.epoch && *seq > want.cursor.seq
        });
        let entries = entries.take(want.room.min(most)).map(Arc::clone).collect();
        let read = HistoryRead { head, newest_final: self.newest_final, entries };
        self.reading = Some((want, read, self.arrivals));
    }

    fn end_page(&mut self, most: usize) {
        let Some((want, read, arrivals)) = self.reading.take() else { return };
        let plan = replay::plan(&want.cursor, want.pending, &read);
        let mut finals = Finals { events: Vec::new(), complete: true };
        if let Some(range) = plan.finals() {
            let kept = (range.after + 1).max(self.oldest_kept)..=range.upto;
            let numbers: Vec<i64> = kept.take(most.min(want.room)).collect();
            finals.complete = numbers.last().is_none_or(|&last| last == range.upto);
            finals.events = numbers
                .into_iter()
                .map(|number| {
                    let mut event = (*event("", 0, EventClass::User, 0, Some(number))).clone();
                    event.position = None;
                    Arc::new(event)
                })
                .collect();
        }
        let quiet = self.arrivals == arrivals;
        self.socket.apply(Page { generation: want.generation, read, plan, finals, quiet });
    }

    fn send(&mut self, most: usize) {
        for _ in 0..most {
            let Some(next) = self.socket.pop() else { return };
            self.client.take(next);
        }
    }

    /// The client's connection breaks and it comes back with what it has.
    fn reconnect(&mut self, limits: QueueLimits) {
        let (epoch, seq) = self.client.position.clone().unwrap();
        let from = ResumeFrom { epoch, seq, final_no: self.client.final_no };
        self.socket = SocketState::resuming(limits, from);
        self.client.closed = None;
        self.reading = None;
    }

    /// Nothing more happens, but pages are read and the client reads.
    fn settle(&mut self, limits: QueueLimits) {
        // a page that was asked for before the last change says nothing of it
        self.end_page(2);
        self.socket.catch_up();
        for _ in 0..100_000 {
            self.send(usize::MAX);
            if self.client.closed.is_some() {
                self.reconnect(limits);
            }
            self.begin_page(3);
            self.end_page(2);
            if self.socket.live_final().is_some() && !self.socket.has_waiting() {
                return;
            }
        }
        panic!("the socket never becomes live: {:?}", self.socket);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Happen { class: EventClass, task_no: u128, is_final: bool, arrives: bool },
    Flush,
    Trim(usize),
    CatchUp,
    BeginPage,
    EndPage,
    Send(usize),
    Reconnect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let class = prop_oneof![Just(EventClass::Task), Just(EventClass::Progress), Just(EventClass::User)];
    let happen = (class, 1..3u128, any::<bool>(), prop::bool::weighted(0.9)).prop_map(
        |(class, task_no, is_final, arrives)| Step::Happen {
            class,
            task_no,
            is_final: is_final && class != EventClass::Progress,
            arrives,
        },
    );
    let step = prop_oneof![
        12 => happen,
        1 => Just(Step::Flush),
        1 => (1..4usize).prop_map(Step::Trim),
        1 => Just(Step::CatchUp),
        4 => Just(Step::BeginPage),
        4 => Just(Step::EndPage),
        6 => (1..5usize).prop_map(Step::Send),
        1 => Just(Step::Reconnect),
    ];
    prop::collection::vec(step, 1..120)
}

fn run(steps: Vec<Step>, limits: QueueLimits) -> World {
    let mut world = World::new(limits);
    for step in steps {
        match step {
            Step::Happen { class, task_no, is_final, arrives } => {
                world.happen(class, task_no, is_final, arrives);
            }
            Step::Flush => world.flush(),
            Step::Trim(keep) => world.trim(keep),
            Step::CatchUp => world.socket.catch_up(),
            Step::BeginPage => world.begin_page(3),
            Step::EndPage => world.end_page(2),
            Step::Send(most) => world.send(most),
            Step::Reconnect => world.reconnect(limits),
        }
    }
    world.settle(limits);
    world
}

proptest! {
    #[test]
    fn every_final_comes_once_in_order_and_no_position_is_left_out(steps in steps()) {
        let world = run(steps, ROOMY);
        let all: Vec<i64> = (1..=world.newest_final).collect();
        prop_assert_eq!(&world.client.finals, &all);
        let head = world.head();
        prop_assert_eq!(world.client.position, Some((head.epoch, head.seq)));
    }

    #[test]
    fn so_it_is_with_a_queue_that_overflows(steps in steps(), events in 1..6usize) {
        let limits = QueueLimits { events, bytes: 1 << 20 };
        let mut world = World::new(limits);
        world.client.merged_over = true;
        for step in steps {
            match step {
                Step::Happen { class, task_no, is_final, arrives } => {
                    world.happen(class, task_no, is_final, arrives);
                    prop_assert!(world.socket.waiting() <= events + 1);
                }
                Step::BeginPage => world.begin_page(3),
                Step::EndPage => world.end_page(2),
                Step::Send(most) => world.send(most),
                _ => {}
            }
        }
        world.settle(limits);
        let all: Vec<i64> = (1..=world.newest_final).collect();
        prop_assert_eq!(&world.client.finals, &all);
        prop_assert_eq!(world.client.resyncs.len(), 0);
    }
}

#[test]
fn a_resume_within_the_history_replays_it_and_says_no_resync() {
    let mut world = World::new(ROOMY);
    for _ in 0..1_000 {
        world.happen(EventClass::User, 0, true, false);
    }
    world.settle(ROOMY);
    assert_eq!(world.client.finals.len(), 1_000);
    assert!(world.client.resyncs.is_empty());
}

#[test]
fn a_history_that_no_longer_reaches_back_is_announced_after_the_finals() {
    let mut world = World::new(ROOMY);
    for _ in 0..10 {
        world.happen(EventClass::User, 0, true, false);
    }
    world.trim(3);
    world.settle(ROOMY);
    assert_eq!(world.client.finals, (1..=10).collect::<Vec<_>>());
    assert_eq!(world.client.resyncs, [ResyncReason::HistoryLost]);
}

#[test]
fn finals_older_than_kept_are_announced_as_lost() {
    let mut world = World::new(ROOMY);
    for _ in 0..10 {
        world.happen(EventClass::User, 0, true, false);
    }
    world.oldest_kept = 6;
    world.flush();
    world.settle(ROOMY);
    assert_eq!(world.client.finals, (6..=10).collect::<Vec<_>>());
    assert_eq!(world.client.resyncs, [ResyncReason::EpochChanged]);

    let mut world = World::new(ROOMY);
    for _ in 0..10 {
        world.happen(EventClass::User, 0, true, true);
    }
    world.oldest_kept = 6;
    world.client = Client { position: Some((Epoch::new("0"), 10)), final_no: Some(2), ..Client::default() };
    world.reconnect(ROOMY);
    world.settle(ROOMY);
    assert_eq!(world.client.finals, (6..=10).collect::<Vec<_>>());
    assert_eq!(world.client.resyncs, [ResyncReason::HistoryLost]);
}

#[test]
fn a_position_ahead_of_ours_is_answered_with_ours() {
    for (seq, final_no) in [(9, Some(3)), (3, Some(9))] {
        let mut world = World::new(ROOMY);
        for _ in 0..3 {
            world.happen(EventClass::User, 0, true, true);
        }
        world.socket = SocketState::resuming(ROOMY, from("0", seq, final_no));
        world.client = Client { position: Some((Epoch::new("0"), seq)), final_no, ..Client::default() };
        world.settle(ROOMY);
        assert_eq!(world.client.resyncs, [ResyncReason::HistoryLost]);
        assert_eq!(world.client.final_no, Some(3));
        assert_eq!(world.client.position, Some((Epoch::new("0"), 3)));
    }
}

#[test]
fn a_resume_without_a_final_number_replays_by_position_alone() {
    let mut world = World::new(ROOMY);
    for _ in 0..5 {
        world.happen(EventClass::User, 0, true, true);
    }
    world.socket = SocketState::resuming(ROOMY, from("0", 2, None));
    world.client = Client { position: Some((Epoch::new("0"), 2)), ..Client::default() };
    world.settle(ROOMY);
    assert_eq!(world.client.finals, [3, 4, 5]);
    world.happen(EventClass::User, 0, true, true);
    world.send(9);
    assert_eq!(world.client.finals, [3, 4, 5, 6]);
}

#[test]
fn progress_that_follows_progress_of_its_task_replaces_it() {
    let mut socket = SocketState::live(ROOMY, at("e", 4, 0));
    for (seq, task_no) in [(5, 1), (6, 1), (7, 1), (8, 2)] {
        assert_eq!(socket.offer(&event("e", seq, EventClass::Progress, task_no, None)), Offer::Queued);
    }
    let merged = Outgoing::Event { event: event("e", 7, EventClass::Progress, 1, None), from_seq: Some(5) };
    assert_eq!(socket.pop(), Some(merged));
    let alone = Outgoing::Event { event: event("e", 8, EventClass::Progress, 2, None), from_seq: None };
    assert_eq!(socket.pop(), Some(alone));
    assert_eq!(socket.pop(), None);
}

#[test]
fn a_full_queue_merges_progress_over_other_events_and_keeps_finals() {
    let limits = QueueLimits { events: 4, bytes: 1 << 20 };
    let mut socket = SocketState::live(limits, at("e", 0, 0));
    for seq in [1, 3] {
        socket.offer(&event("e", seq, EventClass::Progress, 1, None));
        socket.offer(&event("e", seq + 1, EventClass::Task, 1, None));
    }
    assert_eq!(socket.offer(&event("e", 5, EventClass::User, 0, Some(1))), Offer::Queued);
    let sent: Vec<_> = std::iter::from_fn(|| socket.pop()).collect();
    let seqs: Vec<_> = sent
        .iter()
        .map(|outgoing| match outgoing {
            Outgoing::Event { event, from_seq } => (event.position.as_ref().unwrap().1, *from_seq),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seqs, [(2, None), (3, Some(1)), (4, None), (5, None)]);
}

#[test]
fn what_a_full_queue_cannot_take_comes_from_the_history() {
    let limits = QueueLimits { events: 3, bytes: 1 << 20 };
    let mut world = World::new(limits);
    for _ in 0..9 {
        world.happen(EventClass::User, 0, true, true);
        assert!(world.socket.waiting() <= 3);
    }
    assert!(world.socket.overflowed());
    world.settle(limits);
    assert!(!world.socket.overflowed());
    assert_eq!(world.client.finals, (1..=9).collect::<Vec<_>>());
}

#[test]
fn a_socket_that_is_too_slow_holds_nothing_and_takes_nothing() {
    let mut socket = SocketState::live(ROOMY, at("e", 0, 0));
    socket.offer(&event("e", 1, EventClass::User, 0, Some(1)));
    socket.close(CloseCause::TooSlow);
    assert_eq!(socket.waiting(), 0);
    assert_eq!(socket.offer(&event("e", 2, EventClass::User, 0, Some(2))), Offer::Skipped);
    assert_eq!(socket.pop(), Some(Outgoing::Close(CloseCause::TooSlow)));
    assert_eq!(socket.pop(), None);
}

#[test]
fn bytes_are_bounded_too_but_one_event_always_fits() {
    let limits = QueueLimits { events: 100, bytes: 10 };
    let mut socket = SocketState::live(limits, at("e", 0, 0));
    let large = |seq| {
        let mut event = (*event("e", seq, EventClass::Task, 1, None)).clone();
        event.body = "x".repeat(50).into();
        Arc::new(event)
    };
    assert_eq!(socket.offer(&large(1)), Offer::Queued);
    assert_eq!(socket.offer(&large(2)), Offer::Overflow);
}

#[test]
fn a_subset_hears_of_its_tasks_and_of_its_user() {
    let mut socket = SocketState::live(ROOMY, at("e", 0, 0));
    socket.set_tasks(Some([task(1)].into()));
    assert_eq!(socket.offer(&event("e", 1, EventClass::Task, 1, None)), Offer::Queued);
    assert_eq!(socket.offer(&event("e", 2, EventClass::Task, 2, Some(1))), Offer::Skipped);
    assert_eq!(socket.offer(&event("e", 3, EventClass::User, 0, Some(2))), Offer::Queued);
    socket.set_tasks(None);
    assert_eq!(socket.offer(&event("e", 4, EventClass::Task, 2, Some(3))), Offer::Queued);
}

#[test]
fn a_page_of_an_earlier_position_counts_for_nothing() {
    let mut world = World::new(ROOMY);
    world.happen(EventClass::User, 0, true, false);
    world.socket.catch_up();
    world.begin_page(9);
    world.socket.resume(from("0", 0, Some(0)));
    world.end_page(9);
    assert!(!world.socket.has_waiting());
    world.settle(ROOMY);
    assert_eq!(world.client.finals, [1]);
}

#[test]
fn a_restart_lets_what_waits_go_first() {
    let mut socket = SocketState::live(ROOMY, at("e", 0, 0));
    socket.offer(&event("e", 1, EventClass::User, 0, Some(1)));
    socket.close(CloseCause::Restarting);
    assert!(matches!(socket.pop(), Some(Outgoing::Event { .. })));
    assert_eq!(socket.pop(), Some(Outgoing::Close(CloseCause::Restarting)));
}

mod relaying {
    use super::relay::*;
    use proptest::prelude::*;

    fn line(final_no: Option<i64>) -> Line {
        Line { final_no, text: format!("{final_no:?}") }
    }

    /// What `relay.lua` does, for one user.
    fn script(
        stands: &mut Option<i64>,
        published: &mut Vec<i64>,
        batch: &[Line],
        mut jump: bool,
    ) -> Standing {
        let mut taken = 0;
        for line in batch {
            if let Some(number) = line.final_no
                && stands.is_none_or(|last| number > last)
            {
                if stands.is_some_and(|last| number != last + 1) && !jump {
                    break;
                }
                jump = false;
                *stands = Some(number);
                published.push(number);
            }
            taken += 1;
        }
        Standing { taken, final_no: *stands }
    }

    proptest! {
        /// Replicas relay what they committed in any order, also twice; some die before they do.
        #[test]
        fn finals_are_published_once_and_in_order(order in Just((2..=40i64).collect::<Vec<_>>()).prop_shuffle(), dies in prop::collection::vec(any::<bool>(), 40)) {
            let mut stands = Some(1);
            let mut published = vec![1];
            for (number, dies) in order.into_iter().zip(dies) {
                if dies {
                    continue;
                }
                let mut batch = vec![line(None), line(Some(number)), line(Some(number))];
                let mut jump = false;
                loop {
                    let standing = script(&mut stands, &mut published, &batch, jump);
                    let Some(range) = missing(&batch, standing) else { break };
                    // PostgreSQL gives a page of what is missing; all committed before `number` is there
                    let found = (range.after + 1..=range.upto).take(7).map(|number| line(Some(number))).collect();
                    (batch, jump) = fill(batch, standing, found);
                    prop_assert!(!jump, "nothing is missing in PostgreSQL");
                }
            }
            let newest = *published.last().unwrap();
            prop_assert_eq!(published, (1..=newest).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_postgresql_no_longer_has_is_jumped_over() {
        let mut stands = Some(3);
        let mut published = Vec::new();
        let batch = vec![line(Some(9))];
        let standing = script(&mut stands, &mut published, &batch, false);
        let (batch, jump) = fill(batch, standing, vec![line(Some(7)), line(Some(8))]);
        assert!(jump);
        assert_eq!(missing(&batch, script(&mut stands, &mut published, &batch, jump)), None);
        assert_eq!(published, [7, 8, 9]);
    }

    #[test]
    fn an_epoch_without_finals_takes_any_first() {
        let mut stands = None;
        let batch = vec![line(None), line(Some(12))];
        let standing = script(&mut stands, &mut Vec::new(), &batch, false);
        assert_eq!(standing, Standing { taken: 2, final_no: Some(12) });
    }
}
