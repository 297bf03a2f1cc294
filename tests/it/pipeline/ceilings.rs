//! What bounds the calls of a provider over all replicas, and what a provider that fails costs.

use super::*;
use greenroom_actors::{
    events::{Event, EventKind},
    pipeline::{
        BreakerState, Waiting,
        provider::{CallError, CallFault},
    },
};

impl Ground {
    /// Saves a provider as [`Ground::provider`] does, enabled or not.
    async fn switched(&self, id: &str, config: Value, enabled: bool) {
        let (id, kind) = (id.to_owned(), "fake".to_owned());
        let save = SaveProvider { id, kind, config, auth: AuthChange::Remove, enabled };
        self.replica.providers.save(&save, audit_entry()).await.unwrap();
    }

    /// When the provider was called.
    fn calls_of(&self, provider: &str) -> Vec<Instant> {
        self.fake.seen().into_iter().filter(|seen| seen.provider == provider).map(|seen| seen.at).collect()
    }
}

impl Replica {
    async fn waiting(&self, task: TaskId) -> Option<Waiting> {
        let row = self.pipeline.task(None, task).await.unwrap();
        self.pipeline.waiting(&[row]).await.unwrap().remove(&task)
    }

    /// What a task waits for, once it waits for this.
    async fn waits_for(&self, task: TaskId, reason: &str) -> Waiting {
        eventually(&format!("the task waits for {reason}"), async || {
            self.waiting(task).await.filter(|waiting| waiting.reason.name() == reason)
        })
        .await
    }
}

fn with_fallback(provider: &str, fallback: &str) -> Value {
    let mut definition = chain(&[("draw", provider)]);
    definition["nodes"][1]["fallback"] = json!([fallback]);
    definition
}

/// A failure that asks for a pause.
fn later(pause: Duration) -> Reply {
    Reply::error(CallError {
        fault: CallFault::Retryable { retry_after: Some(pause) },
        code: "PROVIDER_UNAVAILABLE",
        message: "Later.".into(),
    })
}

#[actix_web::test]
async fn no_second_sees_more_calls_than_the_rate_limit_over_two_replicas() {
    let ground = Ground::start().await;
    let second = ground.second_replica(&Wishes::default());
    ground.provider("draw", json!({"perSecond": 5, "maxConcurrency": 50})).await;
    let pipeline = ground.pipeline(chain(&[("draw", "draw")])).await;
    let user = ground.user(90).await;
    let mut tasks = Vec::new();
    for number in 0..30 {
        let replica = if number % 2 == 0 { &ground.replica } else { &second };
        tasks.push(replica.start_task(user, pipeline).await);
    }
    for task in tasks {
        assert_eq!(ground.ended(task).await.status, TaskStatus::Succeeded);
    }
    let calls = ground.calls_of("draw");
    assert_eq!(calls.len(), 30);
    for first in &calls {
        // calls are counted when they are let go; a busy machine may take some time from there to the provider
        let within = Duration::from_millis(700);
        let calls = calls.iter().filter(|at| **at >= *first && **at - *first < within).count();
        assert!(calls <= 5, "{calls} calls in {within:?}");
    }
    let took = *calls.last().unwrap() - calls[0];
    assert!(took >= Duration::from_secs(5), "30 calls in {took:?}");
    ground.expect_clean().await;
    second.stop().await;
}

#[actix_web::test]
async fn a_minute_has_its_own_limit_and_who_waits_for_it_hears_how_long() {
    let ground = Ground::start().await;
    ground.provider("draw", json!({"perMinute": 3})).await;
    let pipeline = ground.pipeline(chain(&[("draw", "draw")])).await;
    let user = ground.user(12).await;
    for _ in 0..3 {
        let task = ground.replica.start_task(user, pipeline).await;
        ground.ended(task).await;
    }
    let fourth = ground.replica.start_task(user, pipeline).await;
    let waiting = eventually("the fourth is told when", async || {
        let waiting = ground.replica.waiting(fourth).await?;
        (waiting.position == Some(0) && waiting.eta_ms? > 30_000).then_some(waiting)
    })
    .await;
    assert_eq!(waiting.reason.name(), "provider_ceiling");
    assert!(waiting.eta_ms.unwrap() <= 62_000, "{waiting:?}");
    assert_eq!(ground.calls_of("draw").len(), 3);
    // what an administrator saves holds at once
    ground.provider("draw", json!({"perMinute": 4})).await;
    ground.replica.cancel(fourth).await.unwrap();
    let fifth = ground.replica.start_task(user, pipeline).await;
    assert_eq!(ground.ended(fifth).await.status, TaskStatus::Succeeded);
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_pause_that_a_provider_asks_for_holds_on_every_replica() {
    let ground = Ground::start().await;
    let second = ground.second_replica(&Wishes::default());
    ground.provider("draw", json!({"maxConcurrency": 1, "maxAttempts": 2})).await;
    let pipeline = ground.pipeline(chain(&[("draw", "draw")])).await;
    let pause = Duration::from_secs(3);
    ground.fake.script(
        move |call| if call.attempt == 1 && call.node == "draw" { later(pause) } else { Reply::ok() },
    );
    let user = ground.user(30).await;
    let first = ground.replica.start_task(user, pipeline).await;
    eventually("the pause is written", async || {
        let paused = "select count(*) from providers where paused_until > clock_timestamp()";
        (ground.count(paused).await == 1).then_some(())
    })
    .await;
    ground.fake.script(|_| Reply::ok());
    // the other replica takes what the first one does not
    ground.replica.stop().await;
    let others = [second.start_task(user, pipeline).await, second.start_task(user, pipeline).await];
    let waiting = second.waits_for(others[1], "backoff").await;
    assert!(waiting.eta_ms.is_some_and(|eta| (0..=3_000).contains(&eta)), "{waiting:?}");
    for task in [first, others[0], others[1]] {
        assert_eq!(ground.ended(task).await.status, TaskStatus::Succeeded);
    }
    let calls = ground.calls_of("draw");
    assert_eq!(calls.len(), 4);
    assert!(calls[1] - calls[0] >= pause, "called again after {:?}", calls[1] - calls[0]);
    assert_eq!(ground.attempts(first).await.len(), 2);
    ground.expect_clean().await;
    second.stop().await;
}

#[actix_web::test]
async fn a_breaker_that_is_open_costs_nobody_a_timeout_where_there_is_a_fallback() {
    let ground = Ground::start().await;
    let dead = json!({"timeoutMs": 1_000, "breaker": [2, 600_000]});
    ground.provider("dead", dead).await;
    ground.provider("spare", json!({})).await;
    ground.fake.script(|call| if call.provider.id == "dead" { Reply::hang() } else { Reply::ok() });
    let pipeline = ground.pipeline(with_fallback("dead", "spare")).await;
    let user = ground.user(3_000).await;
    for _ in 0..2 {
        let task = ground.replica.start_task(user, pipeline).await;
        assert_eq!(ground.ended(task).await.status, TaskStatus::Succeeded);
        let causes: Vec<_> = ground.attempts(task).await.iter().map(|attempt| attempt.cause.name()).collect();
        assert_eq!(causes, ["first", "fallback"]);
    }
    for _ in 0..5 {
        let task = ground.replica.start_task(user, pipeline).await;
        assert_eq!(ground.ended(task).await.status, TaskStatus::Succeeded);
        let attempts = ground.attempts(task).await;
        let told: Vec<_> =
            attempts.iter().map(|a| (a.attempt, a.provider.as_str(), a.cause.name())).collect();
        assert_eq!(told, [(1, "spare", "fallback")]);
    }
    assert_eq!(ground.calls_of("dead").len(), 2);
    let figures = eventually("the figures are written", async || {
        let figures = ground.replica.pipeline.provider_figures(&["dead"]).await.unwrap().remove("dead")?;
        (figures.breaker() == BreakerState::Open).then_some(figures)
    })
    .await;
    assert_eq!((figures.calls, figures.failures, figures.in_flight), (2, 2, 0));
    assert_eq!(figures.last_error.unwrap().code, "PROVIDER_TIMEOUT");
    // another configuration is another provider
    ground.provider("dead", json!({"breaker": [2, 600_000]})).await;
    ground.fake.script(|_| Reply::ok());
    eventually("it is called again", async || {
        let task = ground.replica.start_task(user, pipeline).await;
        ground.ended(task).await;
        (ground.calls_of("dead").len() > 2).then_some(())
    })
    .await;
    ground.expect_clean().await;
}

#[actix_web::test]
async fn calls_that_wait_when_a_breaker_opens_go_to_their_fallback() {
    let ground = Ground::start().await;
    ground.provider("dead", json!({"timeoutMs": 1_000, "maxConcurrency": 1, "breaker": [1, 600_000]})).await;
    ground.provider("spare", json!({})).await;
    ground.fake.script(|call| if call.provider.id == "dead" { Reply::hang() } else { Reply::ok() });
    let pipeline = ground.pipeline(with_fallback("dead", "spare")).await;
    let user = ground.user(30).await;
    let mut tasks = Vec::new();
    for _ in 0..6 {
        tasks.push(ground.replica.start_task(user, pipeline).await);
    }
    for task in tasks {
        assert_eq!(ground.ended(task).await.status, TaskStatus::Succeeded);
    }
    // at its deadline a call's slot is free, and on a busy machine taken before the breaker has heard of the timeout
    assert!((1..=2).contains(&ground.calls_of("dead").len()), "{:?}", ground.calls_of("dead"));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn tasks_that_can_only_wait_for_an_open_breaker_do_not_delay_those_with_a_fallback() {
    let ground = Ground::start().await;
    ground.provider("dead", json!({"maxConcurrency": 4, "breaker": [1, 600_000]})).await;
    ground.provider("spare", json!({})).await;
    ground.fake.script(|call| if call.provider.id == "dead" { Reply::busy() } else { Reply::ok() });
    let covered = ground.pipeline(with_fallback("dead", "spare")).await;
    let bare = ground.pipeline(chain(&[("draw", "dead")])).await;
    let user = ground.user(3_000).await;
    let opens_it = ground.replica.start_task(user, covered).await;
    assert_eq!(ground.ended(opens_it).await.status, TaskStatus::Succeeded);

    // more than a replica takes beforehand, and of a user whose turn it is as often
    let mut waiting = Vec::new();
    for _ in 0..6 {
        waiting.push(ground.replica.start_task(user, bare).await);
    }
    for task in &waiting {
        ground.replica.waits_for(*task, "breaker_open").await;
    }
    for _ in 0..3 {
        let task = ground.replica.start_task(user, covered).await;
        assert_eq!(ground.ended(task).await.status, TaskStatus::Succeeded);
    }
    for task in waiting {
        ground.replica.waits_for(task, "breaker_open").await;
        ground.replica.cancel(task).await.unwrap();
    }
    ground.expect_clean().await;
}

#[actix_web::test]
async fn one_probe_tries_whether_the_provider_is_back_and_the_others_wait_for_it() {
    let mut ground = Ground::start().await;
    let open = Duration::from_secs(12);
    ground.provider("draw", json!({"maxAttempts": 2, "backoffMs": 1, "breaker": [1, 12_000]})).await;
    let pipeline = ground.pipeline(chain(&[("draw", "draw")])).await;
    ground.fake.script(|_| Reply::busy());
    let user = ground.user(30).await;
    let first = ground.replica.start_task(user, pipeline).await;
    ground.replica.waits_for(first, "breaker_open").await;
    let lasting = Duration::from_millis(700);
    ground.fake.script(move |_| Reply::ok().after(lasting));
    let mut tasks = vec![first];
    for _ in 0..4 {
        tasks.push(ground.replica.start_task(user, pipeline).await);
    }
    let waiting = eventually("the last is the fifth that waits", async || {
        ground.replica.waiting(tasks[4]).await.filter(|waiting| waiting.position == Some(4))
    })
    .await;
    assert_eq!(waiting.reason.name(), "breaker_open");
    assert!(waiting.eta_ms.is_some_and(|eta| (0..=12_000).contains(&eta)), "{waiting:?}");
    // and open sockets hear it
    ground.replica.published.watch(user);
    let told = eventually("users are told", async || {
        let event = tokio::time::timeout(Duration::from_secs(10), ground.replica.published.next()).await;
        let is_it = |event: &Event| event.kind == EventKind::TaskWaiting && event.task == Some(tasks[4]);
        event.unwrap().into_iter().find(is_it)
    })
    .await;
    assert_eq!(told.data["reason"], "breaker_open");
    assert_eq!(told.data["position"], 4);
    assert!(told.data["etaMs"].is_i64(), "{told:?}");

    for task in tasks {
        assert_eq!(ground.ended(task).await.status, TaskStatus::Succeeded);
    }
    let calls = ground.calls_of("draw");
    assert_eq!(calls.len(), 6);
    assert!(calls[1] - calls[0] >= open, "the probe left after {:?}", calls[1] - calls[0]);
    assert!(calls[2] - calls[1] >= lasting, "a second call left after {:?}", calls[2] - calls[1]);
    assert!(calls[5] - calls[2] < lasting, "the others left one after the other");
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_dead_provider_sees_no_more_repeats_than_the_budget() {
    let ground = Ground::start().await;
    let dead = json!({"maxAttempts": 10, "backoffMs": 1, "maxConcurrency": 50});
    ground.provider("dead", dead).await;
    let pipeline = ground.pipeline(chain(&[("draw", "dead")])).await;
    ground.fake.script(|_| Reply::busy());
    let user = ground.user(600).await;
    let began = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..200 {
        tasks.push(ground.replica.start_task(user, pipeline).await);
    }
    for task in tasks {
        let error = ground.ended(task).await.error.unwrap();
        assert_eq!((error.code.as_str(), error.message.as_str()), ("PROVIDER_UNAVAILABLE", "Busy."));
    }
    let calls = ground.calls_of("dead").len();
    // 200 first calls, a budget of 100, a fifth of the first calls, one a second
    let most = 200 + 100 + 40 + usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    assert!((300..=most).contains(&calls), "{calls} calls, {most} at most");
    assert_eq!(ground.counters(user).await, (600, 0));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_provider_that_is_disabled_while_tasks_run_holds_or_fails_them() {
    let ground = Ground::start().await;
    let narrow = |hold: bool| json!({"maxConcurrency": 1, "hold": hold});
    for id in ["holding", "failing", "covered"] {
        ground.provider(id, narrow(id == "holding")).await;
    }
    ground.provider("spare", json!({})).await;
    let holding = ground.pipeline(chain(&[("one", "holding"), ("two", "holding")])).await;
    let failing = ground.pipeline(chain(&[("one", "failing"), ("two", "failing")])).await;
    let covered = ground.pipeline(with_fallback("covered", "spare")).await;
    // each has a call away and one that waits
    ground.fake.script(|call| match call.provider.id.as_str() {
        "spare" => Reply::ok(),
        _ => Reply::ok().after(Duration::from_secs(3)),
    });
    let user = ground.user(60).await;
    let mut tasks = Vec::new();
    for pipeline in [holding, failing, covered] {
        for _ in 0..2 {
            tasks.push(ground.replica.start_task(user, pipeline).await);
        }
    }
    eventually("a call of each is away", async || (ground.fake.in_flight() == 3).then_some(())).await;
    for id in ["holding", "failing", "covered"] {
        ground.switched(id, narrow(id == "holding"), false).await;
    }
    // who waits for one that fails its steps fails at once, and so does who comes to it later
    for task in &tasks[2..4] {
        let error = ground.ended(*task).await.error.unwrap();
        assert_eq!(error.code, "PROVIDER_UNAVAILABLE");
    }
    for task in &tasks[4..] {
        assert_eq!(ground.ended(*task).await.status, TaskStatus::Succeeded, "there is a fallback");
    }
    let called = ground.calls_of("holding").len();
    assert_eq!((called, ground.calls_of("failing").len(), ground.calls_of("covered").len()), (1, 1, 1));
    for task in &tasks[..2] {
        let waiting = ground.replica.waits_for(*task, "provider_ceiling").await;
        assert_eq!(waiting.eta_ms, None, "nobody knows when it is enabled again");
    }
    ground.fake.script(|_| Reply::ok());
    ground.switched("holding", narrow(true), true).await;
    for task in &tasks[..2] {
        assert_eq!(ground.ended(*task).await.status, TaskStatus::Succeeded);
    }
    // four tasks that succeeded, two that failed
    assert_eq!(ground.counters(user).await, (60 - 4 * 3, 0));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn who_waits_for_a_slot_hears_its_place_and_a_guess() {
    let ground = Ground::start().await;
    ground.provider("narrow", json!({"maxConcurrency": 2})).await;
    let pipeline = ground.pipeline(chain(&[("draw", "narrow")])).await;
    ground.fake.script(|_| Reply::ok().after(Duration::from_millis(400)));
    let user = ground.user(60).await;
    let task = ground.replica.start_task(user, pipeline).await;
    ground.ended(task).await;
    ground.fake.script(|_| Reply::ok().after(Duration::from_secs(4)));
    let mut tasks = Vec::new();
    for _ in 0..7 {
        tasks.push(ground.replica.start_task(user, pipeline).await);
    }
    eventually("two are called", async || (ground.fake.in_flight() == 2).then_some(())).await;
    let last = eventually("it is the fifth that waits", async || {
        ground.replica.waiting(tasks[6]).await.filter(|waiting| waiting.position == Some(4))
    })
    .await;
    assert_eq!(last.reason.name(), "provider_ceiling");
    // five calls, two at a time, of 400 ms as far as was seen
    let eta = last.eta_ms.unwrap();
    assert!((1_200..3_600).contains(&eta), "{eta}");
    assert_eq!(ground.replica.waiting(tasks[0]).await, None, "it does not wait");
    for task in tasks {
        ground.replica.cancel(task).await.unwrap();
    }
    ground.fake.script(|_| Reply::ok());
    ground.expect_clean().await;
}
