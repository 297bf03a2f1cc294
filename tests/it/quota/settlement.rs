//! Reserving, confirming, cancelling: once, twice, a thousand times, and against each other.

use super::*;
use greenroom_actors::{idempotency::Idempotent, pipeline::Failure};

#[actix_web::test]
async fn a_task_is_held_for_and_charged_with_its_row_and_its_events() {
    let ground = Ground::start().await;
    let user = ground.user(10).await;
    let task = task(user, 4);
    let reserved = ground.replica.reserve(&task).await.unwrap();
    assert_eq!(reserved.task.status, TaskStatus::Queued);
    assert_eq!((reserved.task.input, reserved.task.quota_cost), (task.input.clone(), 4));
    assert_eq!(ground.counters(user).await, (6, 4));
    ground.expect_clean().await;

    let lease = ground.claim(task.id).await;
    let ending = succeeded(Some(lease));
    let confirm = Confirm { user, task: task.id, charge: 3, ending };
    let confirmed = ground.replica.quota.confirm(confirm).await.unwrap();
    assert_eq!((confirmed.charged, confirmed.released), (3, 1));
    assert_eq!(ground.counters(user).await, (7, 0));
    ground.expect_clean().await;

    let finished = json!({
        "status": "succeeded", "output": { "made": 1 }, "error": null, "files": [], "charged": 3,
    });
    let changed = |remaining: i64, reserved: i64, reason: &str| {
        let data = json!({ "remaining": remaining, "reserved": reserved, "reason": reason });
        ("quota.changed".to_owned(), data)
    };
    let expected = vec![
        changed(10, 0, "granted"),
        changed(6, 4, "reserved"),
        changed(7, 0, "returned"),
        ("task.finished".to_owned(), finished),
    ];
    assert_eq!(ground.events(user).await, expected);
}

#[actix_web::test]
async fn committed_events_are_published_in_their_order() {
    let mut ground = Ground::start().await;
    let user = ground.user(10).await;
    for _ in 0..5 {
        let task = task(user, 1);
        ground.replica.reserve(&task).await.unwrap();
        ground.replica.confirm(&task, 1).await.unwrap();
    }
    let mut numbers = Vec::new();
    while numbers.len() < 11 {
        let events = ground.replica.published.next().await;
        numbers.extend(events.into_iter().map(|event| event.final_no.unwrap()));
    }
    assert_eq!(numbers, (1..=11).collect::<Vec<_>>());
}

#[actix_web::test]
async fn a_task_that_costs_nothing_has_a_transaction_of_nothing() {
    let ground = Ground::start().await;
    let user = ground.poor_user().await;
    let task = task(user, 0);
    ground.replica.reserve(&task).await.unwrap();
    assert_eq!(ground.replica.confirm(&task, 0).await.unwrap(), (0, 0));
    let [only] = &ground.replica.quota.transactions(user, None, 10).await.unwrap()[..] else { panic!() };
    assert_eq!((only.task, only.amount, only.phase.as_str()), (task.id, 0, "confirmed"));
    assert!(only.settled_at.is_some());
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_thousand_repeats_of_confirm_and_cancel_change_nothing() {
    let ground = Ground::start().await;
    let user = ground.user(100).await;
    let (kept, given_back) = (task(user, 10), task(user, 20));
    ground.replica.reserve(&kept).await.unwrap();
    ground.replica.reserve(&given_back).await.unwrap();
    let confirms = (0..1_000).map(|_| ground.replica.confirm(&kept, 7));
    let cancels = (0..1_000).map(|_| ground.replica.cancel(&given_back));
    let (confirmed, cancelled) =
        tokio::join!(futures_util::future::join_all(confirms), futures_util::future::join_all(cancels),);
    assert!(confirmed.into_iter().all(|answer| answer.unwrap() == (7, 3)));
    assert!(cancelled.into_iter().all(|answer| answer.unwrap() == 20));
    assert_eq!(ground.counters(user).await, (93, 0));
    // granted, twice reserved; one finished and returned, the other too
    assert_eq!(ground.events(user).await.len(), 3 + 2 + 2);
    ground.expect_clean().await;
}

#[actix_web::test]
async fn contradictions_are_refused() {
    let ground = Ground::start().await;
    let replica = &ground.replica;
    let user = ground.user(10).await;
    let (done, dropped) = (task(user, 2), task(user, 2));
    for task in [&done, &dropped] {
        replica.reserve(task).await.unwrap();
    }
    let lease = ground.claim(done.id).await;
    let confirm = |charge, lease| {
        replica.quota.confirm(Confirm { user, task: done.id, charge, ending: succeeded(Some(lease)) })
    };
    let cancel = |lease| {
        let ending = TaskEnding { lease, ..cancelled() };
        replica.quota.cancel(Cancel { user, task: done.id, ending, audit: None })
    };
    let refused = confirm(3, lease).await.unwrap_err();
    assert!(matches!(refused, QuotaError::ChargeExceedsHold { charge: 3, held: 2 }), "{refused}");
    confirm(1, lease).await.unwrap();
    let refused = confirm(2, lease).await.unwrap_err();
    assert!(matches!(refused, QuotaError::AlreadyConfirmed), "{refused}");
    let refused = cancel(Some(lease)).await.unwrap_err();
    assert!(matches!(refused, QuotaError::AlreadyConfirmed), "{refused}");
    let refused = cancel(None).await.unwrap_err();
    assert!(matches!(refused, QuotaError::TaskFinal(TaskStatus::Succeeded)), "{refused}");

    replica.cancel(&dropped).await.unwrap();
    let refused = replica.confirm(&dropped, 2).await.unwrap_err();
    assert!(matches!(refused, QuotaError::TaskFinal(TaskStatus::Cancelled)), "{refused}");
    let failed = TaskEnding { status: TaskStatus::Failed, ..cancelled() };
    let refused = replica
        .quota
        .cancel(Cancel { user, task: dropped.id, ending: failed, audit: None })
        .await
        .unwrap_err();
    assert!(matches!(refused, QuotaError::TaskFinal(TaskStatus::Cancelled)), "{refused}");
    let refused = replica.cancel(&task(user, 1)).await.unwrap_err();
    assert!(matches!(refused, QuotaError::NoHold), "{refused}");
    assert_eq!(ground.counters(user).await, (9, 0));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_cancel_from_outside_takes_the_lease_from_the_run() {
    let ground = Ground::start().await;
    let user = ground.user(10).await;
    let task = task(user, 2);
    ground.replica.reserve(&task).await.unwrap();
    let lease = ground.claim(task.id).await;
    let stale = Lease { lease_no: lease.lease_no - 1, ..lease };
    let confirm = |lease| {
        let ending = succeeded(Some(lease));
        ground.replica.quota.confirm(Confirm { user, task: task.id, charge: 2, ending })
    };
    assert!(matches!(confirm(stale).await, Err(QuotaError::LeaseLost)));
    assert_eq!(ground.replica.cancel(&task).await.unwrap(), 2);
    assert!(matches!(confirm(lease).await, Err(QuotaError::LeaseLost)));
    assert_eq!(ground.replica.cancel(&task).await.unwrap(), 2, "a repeat is answered the same");
    let row = ground.sql.query_one("select status, lease_no from tasks", &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i64>(1)), ("cancelled", 2));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_claim_between_reading_and_writing_wins() {
    let ground = Ground::start().await;
    let user = ground.user(10).await;
    let (task, neighbour) = (task(user, 2), task(user, 1));
    ground.replica.reserve(&task).await.unwrap();
    ground.replica.reserve(&neighbour).await.unwrap();
    let lease = ground.claim(task.id).await;
    // another replica's claim has locked the row and is not committed, so the flush still reads the old lease
    let claim =
        "begin; update tasks set owner = gen_random_uuid(), lease_no = lease_no + 1 where owner is not null";
    ground.sql.batch_execute(claim).await.unwrap();
    let ending = succeeded(Some(lease));
    let confirm = ground.replica.quota.confirm(Confirm { user, task: task.id, charge: 2, ending });
    let watcher = servers::connect(&ground.url).await;
    let commit = async {
        eventually("the flush waits for the row", async || {
            let waiting = "select from pg_stat_activity where datname = current_database()
                and wait_event_type = 'Lock' and query like '%update tasks t%'";
            watcher.query_opt(waiting, &[]).await.unwrap().map(drop)
        })
        .await;
        ground.sql.batch_execute("commit").await.unwrap();
    };
    let (confirmed, cancelled, ()) = tokio::join!(confirm, ground.replica.cancel(&neighbour), commit);
    assert!(matches!(confirmed, Err(QuotaError::LeaseLost)), "{confirmed:?}");
    assert_eq!(cancelled.unwrap(), 1);
    assert_eq!(ground.counters(user).await, (8, 2));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_failure_may_cost_and_keeps_its_reason() {
    let ground = Ground::start().await;
    let user = ground.user(10).await;
    let task = task(user, 2);
    ground.replica.reserve(&task).await.unwrap();
    let error =
        Failure { code: "CONTENT_REJECTED".into(), message: "no".into(), node_id: Some("draw".into()) };
    let ending =
        TaskEnding { status: TaskStatus::Failed, output: None, error: Some(error.clone()), lease: None };
    ground.replica.quota.confirm(Confirm { user, task: task.id, charge: 2, ending }).await.unwrap();
    let again = ground.replica.reserve(&task).await.unwrap().task;
    assert_eq!((again.status, again.error), (TaskStatus::Failed, Some(error)));
    assert!(again.finished_at.is_some());
    ground.expect_clean().await;
}

#[actix_web::test]
async fn who_has_too_little_is_refused_and_the_neighbours_are_not() {
    let ground = Ground::start().await;
    let (rich, poor) = (ground.user(100).await, ground.user(1).await);
    let tasks: Vec<NewTask> = (0..40).map(|n| task(if n % 2 == 0 { rich } else { poor }, 2)).collect();
    let answers = futures_util::future::join_all(tasks.iter().map(|task| ground.replica.reserve(task))).await;
    for (task, answer) in tasks.iter().zip(answers) {
        match answer {
            Ok(_) => assert_eq!(task.user, rich),
            Err(QuotaError::Insufficient { needed: 2, remaining: 1 }) => assert_eq!(task.user, poor),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(ground.counters(rich).await, (60, 40));
    assert_eq!(ground.counters(poor).await, (1, 0));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn strangers_and_the_deleted_hold_nothing_but_what_they_hold_comes_back() {
    let ground = Ground::start().await;
    let user = ground.user(10).await;
    let held = task(user, 3);
    ground.replica.reserve(&held).await.unwrap();
    ground
        .sql
        .execute("update users set deleted_at = clock_timestamp() where id = $1", &[&user])
        .await
        .unwrap();
    for refused in [
        ground.replica.reserve(&task(user, 1)).await.map(drop),
        ground.replica.reserve(&task(UserId::new(), 0)).await.map(drop),
        ground.replica.grant(grant(user, 1, "more")).await.map(drop),
        ground.replica.quota.correct(correction(user, 1, "less")).await.map(drop),
    ] {
        assert!(matches!(refused, Err(QuotaError::UserNotFound)), "{refused:?}");
    }
    let stranger = NewTask { user: ground.user(1).await, ..held.clone() };
    assert!(matches!(ground.replica.cancel(&stranger).await, Err(QuotaError::NoHold)));
    assert_eq!(ground.replica.cancel(&held).await.unwrap(), 3);
    ground.expect_clean().await;
}

fn key(user: UserId, key: &str, request: u8) -> Idempotent<greenroom_actors::pipeline::Task> {
    Idempotent {
        user,
        key: key.to_owned(),
        request_hash: [request; 32],
        status: 202,
        render: |task| json!({ "id": task.id, "status": task.status.name() }),
    }
}

#[actix_web::test]
async fn a_key_does_its_command_once_and_repeats_its_answer() {
    let ground = Ground::start().await;
    let user = ground.user(10).await;
    let first = task(user, 2);
    let reserve = |task: &NewTask, request| {
        ground
            .replica
            .quota
            .reserve(Reserve { task: task.clone(), idempotency: Some(key(user, "k", request)) })
    };
    assert!(matches!(reserve(&first, 1).await.unwrap(), Answer::First(_)));
    let Answer::Replayed(stored) = reserve(&task(user, 2), 1).await.unwrap() else { panic!() };
    assert_eq!(stored.status, 202);
    assert_eq!(stored.body, json!({ "id": first.id, "status": "queued" }));
    assert!(matches!(reserve(&task(user, 2), 2).await, Err(QuotaError::KeyReused)));
    assert_eq!(ground.counters(user).await, (8, 2));

    // a refusal is not remembered
    let greedy = Reserve { task: task(user, 99), idempotency: Some(key(user, "other", 3)) };
    assert!(ground.replica.quota.reserve(greedy).await.is_err());
    let modest = Reserve { task: task(user, 1), idempotency: Some(key(user, "other", 4)) };
    assert!(matches!(ground.replica.quota.reserve(modest).await.unwrap(), Answer::First(_)));

    // a key that is past its life is free again
    ground
        .sql
        .batch_execute("update idempotency_keys set created_at = created_at - interval '25 hours'")
        .await
        .unwrap();
    assert!(matches!(reserve(&task(user, 2), 2).await.unwrap(), Answer::First(_)));
    let purged = greenroom_actors::idempotency::purge(&ground.database, 100).await.unwrap();
    assert_eq!(purged, 1, "the other key is old, this one is new");
    ground.expect_clean().await;
}

#[actix_web::test]
async fn one_key_at_two_replicas_at_once_does_its_command_once() {
    let ground = Ground::start().await;
    let second = ground.second_replica().await;
    let user = ground.user(1_000).await;
    for round in 0..20 {
        let name = format!("k{round}");
        let reserve = |replica: &Replica| {
            let quota = replica.quota.clone();
            let command = Reserve { task: task(user, 2), idempotency: Some(key(user, &name, 1)) };
            async move { quota.reserve(command).await.unwrap() }
        };
        let answers = tokio::join!(
            reserve(&ground.replica),
            reserve(&second),
            reserve(&ground.replica),
            reserve(&second)
        );
        let firsts = [answers.0, answers.1, answers.2, answers.3]
            .into_iter()
            .filter(|answer| matches!(answer, Answer::First(_)));
        assert_eq!(firsts.count(), 1);
    }
    assert_eq!(ground.counters(user).await, (960, 40));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn what_gathers_in_one_batch_works_in_its_order() {
    let ground = Ground::start().await;
    let user = ground.user(3).await;
    // asked without waiting, so that all but the first go into one transaction
    let tasks: Vec<NewTask> = (0..50).map(|_| task(user, 3)).collect();
    let asked = tasks.iter().flat_map(|task| {
        let (reserve, cancel) = (ground.replica.quota.clone(), ground.replica.quota.clone());
        let (new, user, id) = (task.clone(), task.user, task.id);
        [
            futures_util::future::Either::Left(async move {
                reserve.reserve(Reserve { task: new, idempotency: None }).await.map(drop)
            }),
            futures_util::future::Either::Right(async move {
                cancel.cancel(Cancel { user, task: id, ending: cancelled(), audit: None }).await.map(drop)
            }),
        ]
    });
    for answer in futures_util::future::join_all(asked).await {
        answer.unwrap();
    }
    assert_eq!(ground.counters(user).await, (3, 0));
    ground.expect_clean().await;
}
