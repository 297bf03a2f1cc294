//! Grants, corrections, expiry, and what a user reads of them.

use super::*;
use chrono::{DateTime, TimeDelta, Utc};
use greenroom_actors::{idempotency::Idempotent, quota::AuditEntry, records::audit_log::AuditLog};

impl Ground {
    /// PostgreSQL's time.
    async fn now(&self) -> DateTime<Utc> {
        self.sql.query_one("select clock_timestamp()", &[]).await.unwrap().get(0)
    }
}

#[actix_web::test]
async fn a_reference_grants_once() {
    let ground = Ground::start().await;
    let (user, other) = (ground.poor_user().await, ground.poor_user().await);
    let first = ground.replica.grant(grant(user, 5, "order 1")).await.unwrap();
    let again = ground.replica.grant(grant(user, 5, "order 1")).await.unwrap();
    assert_eq!(first, again);
    for reused in [grant(user, 6, "order 1"), grant(other, 5, "order 1")] {
        assert!(matches!(ground.replica.grant(reused).await, Err(QuotaError::ReferenceReused)));
    }
    // another kind is another reference
    let manual = Grant { kind: GrantKind::Manual, ..grant(user, 1, "order 1") };
    assert_eq!(ground.replica.grant(manual).await.unwrap().remaining, 6);
    ground.expect_clean().await;
}

#[actix_web::test]
async fn ten_thousand_repeats_of_a_grant_at_two_replicas_grant_once() {
    let ground = Ground::start().await;
    let second = ground.second_replica().await;
    let user = ground.poor_user().await;
    for _ in 0..5 {
        let repeats = (0..2_000).map(|n| {
            let replica = if n % 2 == 0 { &ground.replica } else { &second };
            replica.grant(grant(user, 5, "paid"))
        });
        let answers = futures_util::future::join_all(repeats).await;
        assert!(answers.into_iter().all(|answer| answer.unwrap().remaining == 5));
    }
    assert_eq!(ground.counters(user).await, (5, 0));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_correction_takes_down_to_nothing_and_never_below() {
    let ground = Ground::start().await;
    let user = ground.user(5).await;
    ground.replica.grant(grant(user, 5, "second")).await.unwrap();
    let admin = ground.poor_user().await;
    let entry = AuditEntry {
        actor: admin,
        action: "quota.correct",
        target: user.to_string(),
        detail: json!({ "amount": -7 }),
        request_id: Some("r1".to_owned()),
    };
    let idempotency = Idempotent {
        user: admin,
        key: "k".to_owned(),
        request_hash: [7; 32],
        status: 201,
        render: |corrected: &greenroom_actors::quota::Corrected| json!({ "id": corrected.adjustment, "quotaRemaining": corrected.remaining }),
    };
    let correct =
        Correct { idempotency: Some(idempotency), audit: Some(entry), ..correction(user, 7, "mistake") };
    let Answer::First(made) = ground.replica.quota.correct(correct.clone()).await.unwrap() else { panic!() };
    assert_eq!((made.amount, made.remaining), (7, 3));
    let Answer::Replayed(stored) = ground.replica.quota.correct(correct).await.unwrap() else { panic!() };
    assert_eq!(stored.body, json!({ "id": made.adjustment, "quotaRemaining": 3 }));
    let refused = ground.replica.quota.correct(correction(user, 4, "greed")).await.unwrap_err();
    assert!(matches!(refused, QuotaError::Insufficient { needed: 4, remaining: 3 }), "{refused}");
    let refused = ground.replica.quota.correct(correction(user, 6, "mistake")).await.unwrap_err();
    assert!(matches!(refused, QuotaError::ReferenceReused), "{refused}");
    let audit_log = AuditLog::new(ground.database.clone());
    let [logged] = &audit_log.page(None, 10).await.unwrap()[..] else { panic!() };
    assert_eq!((logged.actor, logged.action.as_str()), (admin, "quota.correct"));
    assert!(audit_log.page(Some(logged.id), 10).await.unwrap().is_empty());
    ground.expect_clean().await;
}

#[actix_web::test]
async fn what_is_due_counts_for_nothing_even_before_it_is_swept() {
    let ground = Ground::start().await;
    let user = ground.user(10).await;
    let soon = ground.now().await + TimeDelta::milliseconds(300);
    let brief = Grant { expires_at: Some(soon), ..grant(user, 4, "brief") };
    ground.replica.grant(brief).await.unwrap();
    // what expires sooner burns first: the hold takes all of the brief grant and two of the other
    let held = task(user, 6);
    ground.replica.reserve(&held).await.unwrap();
    let gone = Grant { expires_at: Some(soon), ..grant(user, 3, "gone") };
    ground.replica.grant(gone).await.unwrap();
    eventually("the grants are due", async || (ground.counters(user).await == (8, 6)).then_some(())).await;
    let refused = ground.replica.reserve(&task(user, 9)).await.unwrap_err();
    assert!(matches!(refused, QuotaError::Insufficient { needed: 9, remaining: 8 }), "{refused}");
    ground.expect_clean().await;
    // four of the six come back to a grant that is due, and go
    ground.replica.cancel(&held).await.unwrap();
    assert_eq!(ground.counters(user).await, (10, 0));
    let statement = ground.replica.quota.statement(user, None, None).await.unwrap();
    let rows: Vec<_> =
        statement.rows.iter().map(|row| (row.kind.as_str(), row.amount, row.balance)).collect();
    let expected =
        [("grant", 10, 10), ("grant", 4, 14), ("grant", 3, 17), ("expiry", -3, 14), ("expiry", -4, 10)];
    assert_eq!(rows, expected);
    let left: Vec<_> =
        ground.replica.quota.grants(user, None, 10).await.unwrap().iter().map(|it| it.remaining).collect();
    assert_eq!(left, [0, 0, 10]);
    ground.expect_clean().await;
}

#[actix_web::test]
async fn the_sweep_writes_off_what_is_due_of_everybody() {
    let ground = Ground::start().await;
    let mut users = Vec::new();
    for _ in 0..7 {
        let user = ground.user(10).await;
        ground.replica.grant(grant(user, 1, &format!("lasting {user}"))).await.unwrap();
        users.push(user);
    }
    let due = "update quota_grants set expires_at = clock_timestamp() where amount = 10";
    ground.sql.batch_execute(due).await.unwrap();
    assert_eq!(ground.replica.quota.expire_due(5).await.unwrap(), 5);
    assert_eq!(ground.replica.quota.expire_due(5).await.unwrap(), 2);
    assert_eq!(ground.replica.quota.expire_due(5).await.unwrap(), 0);
    for user in users {
        let row =
            ground.sql.query_one("select quota_remaining from users where id = $1", &[&user]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 1);
        let (_, last) = ground.events(user).await.pop().unwrap();
        assert_eq!(last, json!({ "remaining": 1, "reserved": 0, "reason": "expired" }));
    }
    ground.expect_clean().await;
}

#[actix_web::test]
async fn any_period_of_the_statement_adds_up() {
    let ground = Ground::start().await;
    let user = ground.user(50).await;
    let mut moments = vec![ground.now().await];
    for n in 0..6 {
        let new = task(user, 3);
        ground.replica.reserve(&new).await.unwrap();
        ground.replica.confirm(&new, n % 4).await.unwrap();
        ground.replica.quota.correct(correction(user, 1, &n.to_string())).await.unwrap();
        moments.push(ground.now().await);
    }
    let order = Grant { kind: GrantKind::Purchase, ..grant(user, 5, "order 9") };
    ground.replica.grant(order).await.unwrap();
    moments.push(ground.now().await);
    for (index, from) in moments.iter().enumerate() {
        for to in &moments[index..] {
            let statement = ground.replica.quota.statement(user, Some(*from), Some(*to)).await.unwrap();
            let sum: i64 = statement.rows.iter().map(|row| row.amount).sum();
            assert_eq!(statement.opening + sum, statement.closing);
            assert!(statement.rows.iter().all(|row| (*from..*to).contains(&row.at)));
        }
    }
    let whole = ground.replica.quota.statement(user, None, None).await.unwrap();
    // a grant, six corrections, the charges that were not nothing, an order
    assert_eq!((whole.opening, whole.rows.len()), (0, 1 + 6 + 4 + 1));
    let last = whole.rows.last().unwrap();
    assert_eq!((last.kind.as_str(), last.order.as_deref()), ("grant", Some("order 9")));
    let charge = whole.rows.iter().find(|row| row.kind == "charge").unwrap();
    assert!(charge.task.is_some() && charge.amount < 0);
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_period_with_too_many_rows_is_refused() {
    let ground = Ground::start().await;
    let user = ground.user(1).await;
    let rows = "insert into quota_adjustments (id, user_id, grant_id, kind, amount, reference, ledger_no,
            balance_after)
        select gen_random_uuid(), user_id, id, 'expiry', -1, '', n, 1
        from quota_grants, generate_series(2, 10001) as n";
    ground.sql.batch_execute(rows).await.unwrap();
    let refused = ground.replica.quota.statement(user, None, None).await.unwrap_err();
    assert!(matches!(refused, QuotaError::PeriodTooLong { rows: 10_001, limit: 10_000 }), "{refused}");
}

#[actix_web::test]
async fn pages_go_back_in_time() {
    let ground = Ground::start().await;
    let user = ground.user(10).await;
    let tasks: Vec<NewTask> = (0..5).map(|_| task(user, 1)).collect();
    for task in &tasks {
        ground.replica.reserve(task).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = ground.replica.quota.transactions(user, before, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        seen.extend(page.into_iter().map(|record| record.task));
    }
    let newest_first: Vec<TaskId> = tasks.iter().rev().map(|task| task.id).collect();
    assert_eq!(seen, newest_first);
    let stranger = ground.poor_user().await;
    assert!(ground.replica.quota.transactions(stranger, None, 9).await.unwrap().is_empty());
    let grants = ground.replica.quota.grants(user, None, 9).await.unwrap();
    assert_eq!((grants.len(), grants[0].amount, grants[0].remaining), (1, 10, 5));
    let nobody = ground.replica.quota.quota(UserId::new()).await.unwrap_err();
    assert!(matches!(nobody, QuotaError::UserNotFound), "{nobody}");
}

#[actix_web::test]
async fn falling_below_the_threshold_is_told_once() {
    let settings = QuotaSettings { low: 5, ..QuotaSettings::default() };
    let ground = Ground::with(settings, Turn::Among(FAULTS.read().await)).await;
    let user = ground.user(8).await;
    for _ in 0..3 {
        ground.replica.reserve(&task(user, 2)).await.unwrap();
    }
    let low: Vec<_> = ground.events(user).await.into_iter().filter(|(name, _)| name == "quota.low").collect();
    assert_eq!(low, [("quota.low".to_owned(), json!({ "remaining": 4 }))]);
}
