//! What must hold whatever happens at once, and the audit that says when it does not.

use super::*;
use greenroom_actors::audit::{breaches_seen_by, names};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::collections::BTreeSet;

#[actix_web::test]
async fn two_replicas_that_hammer_the_same_users_keep_the_identities() {
    let ground = Ground::start().await;
    let second = ground.second_replica().await;
    let mut users = Vec::new();
    for _ in 0..4 {
        users.push(ground.user(200).await);
    }
    let strand = |seed: u64| {
        let replica = if seed.is_multiple_of(2) { &ground.replica } else { &second };
        let (quota, users) = (replica.quota.clone(), users.clone());
        async move {
            let mut random = StdRng::seed_from_u64(seed);
            for round in 0..25 {
                let user = users[random.random_range(0..users.len())];
                let new = task(user, random.random_range(0..8));
                let held = quota.reserve(Reserve { task: new.clone(), idempotency: None }).await;
                if held.is_ok() {
                    let (id, charge) = (new.id, random.random_range(0..=new.quota_cost));
                    if random.random_bool(0.6) {
                        let ending = succeeded(None);
                        quota.confirm(Confirm { user, task: id, charge, ending }).await.unwrap();
                    } else {
                        quota
                            .cancel(Cancel { user, task: id, ending: cancelled(), audit: None })
                            .await
                            .unwrap();
                    }
                }
                if random.random_bool(0.1) {
                    let expires_at = random.random_bool(0.5).then_some(chrono::DateTime::UNIX_EPOCH);
                    let more = grant(user, random.random_range(1..20), &format!("{seed} {round}"));
                    quota.grant(Grant { expires_at, ..more }).await.unwrap();
                }
                if random.random_bool(0.1) {
                    let less = correction(user, random.random_range(1..5), &format!("{seed} {round}"));
                    drop(quota.correct(less).await);
                }
            }
        }
    };
    let all = futures_util::future::join_all((0..16).map(strand));
    // the audit is right in the middle of it, too
    let watch = async {
        for _ in 0..5 {
            ground.expect_clean().await;
        }
    };
    tokio::join!(all, watch);
    ground.expect_clean().await;
    for user in users {
        let statement = ground.replica.quota.statement(user, None, None).await.unwrap();
        let sum: i64 = statement.rows.iter().map(|row| row.amount).sum();
        assert_eq!(statement.opening + sum, statement.closing);
        let (remaining, reserved) = ground.counters(user).await;
        assert_eq!(statement.closing, remaining + reserved);
    }
}

#[actix_web::test]
async fn the_audit_names_what_was_bent_by_hand() {
    let ground = Ground::start().await;
    let user = ground.user(20).await;
    let (open, done, gone) = (task(user, 2), task(user, 3), task(user, 4));
    for task in [&open, &done, &gone] {
        ground.replica.reserve(task).await.unwrap();
    }
    ground.replica.confirm(&done, 2).await.unwrap();
    ground.replica.cancel(&gone).await.unwrap();
    ground.replica.quota.correct(correction(user, 1, "c")).await.unwrap();
    ground
        .sql
        .batch_execute(
            "insert into providers (id, kind, config) values ('draw', 'http', '{}');
            insert into api_keys (id, user_id, name, key_hash, scopes)
                select gen_random_uuid(), id, 'k', sha256('k'), '{tasks}' from users",
        )
        .await
        .unwrap();
    ground.expect_clean().await;

    let attempt = "insert into task_steps (task_id, node_id, type, status)
            select task_id, 'n', 'provider', 'running' from quota_transactions where phase = 'cancelled';
        insert into step_attempts (id, task_id, node_id, attempt, provider_id, idempotency_key, cause, status,
            owner, lease_no, deadline_at)
            select gen_random_uuid(), task_id, 'n', 1, 'draw', 'k', 'first', ";
    let overdue = format!(
        "{attempt} 'running', gen_random_uuid(), 1, clock_timestamp() - interval '1 hour'
            from quota_transactions where phase = 'cancelled'"
    );
    let held_by_finished = format!(
        "{attempt} 'succeeded', gen_random_uuid(), 1, clock_timestamp() from quota_transactions where phase = 'cancelled';
        insert into provider_slots select 'draw', 0, id, clock_timestamp() + interval '1 hour' from step_attempts"
    );
    let held_twice = format!(
        "{attempt} 'running', gen_random_uuid(), 1, clock_timestamp() from quota_transactions where phase = 'cancelled';
        insert into provider_slots select 'draw', n, id, clock_timestamp() + interval '1 hour'
            from step_attempts, generate_series(0, 1) as n"
    );
    let bends: &[(&str, &str)] = &[
        ("user_remaining", "update users set quota_remaining = quota_remaining + 1"),
        ("user_reserved", "update users set quota_reserved = quota_reserved + 1"),
        ("grant_amount", "update quota_grants set remaining = remaining - 1"),
        ("grant_amount", "update quota_transactions set taken = '[]' where phase = 'confirmed'"),
        ("hold_parts", "update quota_transactions set amount = amount + 1 where phase = 'cancelled'"),
        ("hold_parts", "update quota_transactions set charged = 0 where phase = 'confirmed'"),
        ("task_transaction", "delete from quota_transactions where phase = 'cancelled'"),
        ("task_transaction", "delete from tasks where status = 'queued'"),
        ("task_transaction", "update tasks set quota_cost = 9 where status = 'queued'"),
        ("task_settled", "update tasks set status = 'failed' where status = 'queued'"),
        ("task_settled", "update tasks set status = 'cancelled' where status = 'succeeded'"),
        ("task_settled", "update quota_transactions set phase = 'cancelled' where phase = 'reserved'"),
        ("task_times", "update tasks set finished_at = null where status = 'succeeded'"),
        ("ledger_numbers", "update users set ledger_no = ledger_no + 1"),
        ("ledger_numbers", "delete from quota_adjustments"),
        ("ledger_numbers", "update quota_adjustments set ledger_no = ledger_no + 1"),
        ("ledger_balances", "update quota_adjustments set balance_after = balance_after + 1"),
        ("ledger_balances", "update quota_grants set balance_after = balance_after + 1"),
        ("charge_in_ledger", "update quota_transactions set ledger_no = null where phase = 'confirmed'"),
        ("api_key_usage", "insert into api_key_usage select id, '2026-01-01', user_id, 1 from api_keys"),
        (
            "api_key_usage",
            "update quota_transactions set api_key_id = (select id from api_keys), spent_on = '2026-01-01'",
        ),
        (
            "api_key_owner",
            "update quota_transactions set api_key_id = gen_random_uuid(), spent_on = '2026-01-01'",
        ),
        ("final_numbers", "delete from final_events where final_no = 2"),
        ("final_numbers", "update users set final_no = final_no + 1"),
        ("task_told", "delete from final_events where event = 'task.finished'"),
        ("attempt_open", &overdue),
        ("slot_held", &held_by_finished),
        (
            "slot_held",
            "insert into provider_slots values ('draw', 0, gen_random_uuid(), clock_timestamp() + interval '1 hour')",
        ),
        ("slot_twice", &held_twice),
        (
            "step_orphaned",
            "insert into task_steps (task_id, node_id, type, status) values (gen_random_uuid(), 'n', 'end', 'pending')",
        ),
        ("idempotency_answer", "insert into idempotency_keys select id, 'k', '', 500, '{}' from users"),
    ];
    let client = ground.database.client().await.unwrap();
    for (check, bend) in bends {
        client.batch_execute("begin").await.unwrap();
        client.batch_execute(bend).await.unwrap_or_else(|error| panic!("{bend}: {error:?}"));
        let breaches = breaches_seen_by(&client).await.unwrap();
        client.batch_execute("rollback").await.unwrap();
        let named = breaches.iter().any(|breach| breach.check == *check && !breach.detail.is_empty());
        assert!(named, "{check} is silent about: {bend}\n{breaches:#?}");
    }
    let bent: BTreeSet<_> = bends.iter().map(|(check, _)| *check).collect();
    let unbent: Vec<_> = names().filter(|name| !bent.contains(name)).collect();
    assert!(unbent.is_empty(), "no bend shows that these work: {unbent:?}");
}
