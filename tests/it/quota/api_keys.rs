//! What API keys spend: exact over replicas, refused without harm to others, and given back.

use super::{Ground, task};
use futures_util::future::join_all;
use greenroom_actors::{
    ids::{ApiKeyId, UserId},
    pipeline::NewTask,
    quota::{CapPeriod, QuotaError},
};

impl Ground {
    /// A key of `user` with these caps.
    async fn api_key(&self, user: UserId, daily: Option<i64>, monthly: Option<i64>) -> ApiKeyId {
        let key = ApiKeyId::new();
        let insert = "insert into api_keys (id, user_id, name, key_hash, scopes, daily_quota, monthly_quota)
            values ($1, $2, 'k', sha256($1::uuid::text::bytea), '{tasks}', $3, $4)";
        self.sql.execute(insert, &[&key, &user, &daily, &monthly]).await.unwrap();
        key
    }

    /// What the key has spent, by day, of which there is mostly one.
    async fn spent(&self, key: ApiKeyId) -> Vec<i64> {
        let select = "select amount from api_key_usage where key_id = $1 order by day";
        self.sql.query(select, &[&key]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// Lets what the key has spent have been spent at another time: `when` is SQL for a day, of `today`.
    async fn spent_at(&self, key: ApiKeyId, when: &str) {
        let day = format!(
            "(select {when} from (select (clock_timestamp() at time zone 'Asia/Shanghai')::date as today) t)"
        );
        let both = format!(
            "update api_key_usage set day = {day} where key_id = '{key}';
            update quota_transactions set spent_on = {day} where api_key_id = '{key}'"
        );
        self.sql.batch_execute(&both).await.unwrap();
    }
}

fn by(key: ApiKeyId, user: UserId, cost: i64) -> NewTask {
    NewTask { api_key: Some(key), ..task(user, cost) }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, QuotaError>) -> (CapPeriod, i64) {
    match answer {
        Err(QuotaError::ApiKeyLimit { period, left, .. }) => (period, left),
        other => panic!("{other:?}"),
    }
}

#[actix_web::test]
async fn a_cap_is_exact_over_replicas_and_refuses_nobody_else() {
    let ground = Ground::start().await;
    let second = ground.second_replica().await;
    let (user, neighbour) = (ground.user(1_000).await, ground.user(1_000).await);
    let key = ground.api_key(user, Some(21), None).await;
    let tasks: Vec<NewTask> = (0..150)
        .map(|number| match number % 3 {
            0 => by(key, user, 2),
            1 => task(user, 2),
            _ => task(neighbour, 2),
        })
        .collect();
    let start = |(number, task)| {
        let replica = if number % 2 == 0 { &ground.replica } else { &second };
        replica.reserve(task)
    };
    let answers = join_all(tasks.iter().enumerate().map(start)).await;
    let mut held = 0;
    for (task, answer) in tasks.iter().zip(answers) {
        match (task.api_key, answer) {
            (_, Ok(_)) => held += i64::from(task.api_key.is_some()),
            (Some(_), refusal) => assert_eq!(refused(refusal), (CapPeriod::Day, 1)),
            (None, refusal) => panic!("{refusal:?}"),
        }
    }
    assert_eq!((held, ground.spent(key).await), (10, vec![20]));
    assert_eq!(ground.counters(user).await, (1_000 - 120, 120));
    assert_eq!(ground.counters(neighbour).await, (900, 100));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn what_is_not_charged_can_be_spent_again() {
    let ground = Ground::start().await;
    let user = ground.user(100).await;
    let key = ground.api_key(user, Some(10), Some(10)).await;
    let (part, gone, over) = (by(key, user, 6), by(key, user, 4), by(key, user, 1));
    ground.replica.reserve(&part).await.unwrap();
    ground.replica.reserve(&gone).await.unwrap();
    assert_eq!(refused(ground.replica.reserve(&over).await), (CapPeriod::Day, 0));
    // again is the same, and counts once
    ground.replica.reserve(&part).await.unwrap();
    for _ in 0..2 {
        assert_eq!(ground.replica.confirm(&part, 1).await.unwrap(), (1, 5));
        assert_eq!(ground.replica.cancel(&gone).await.unwrap(), 4);
    }
    assert_eq!(ground.spent(key).await, [1]);
    assert_eq!(refused(ground.replica.reserve(&by(key, user, 10)).await), (CapPeriod::Day, 9));
    ground.replica.reserve(&by(key, user, 9)).await.unwrap();
    assert_eq!(ground.spent(key).await, [10]);
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_month_is_the_sum_of_its_days_and_what_returns_goes_to_its_day() {
    let ground = Ground::start().await;
    let user = ground.user(100).await;
    let key = ground.api_key(user, Some(5), Some(8)).await;
    let first = by(key, user, 5);
    ground.replica.reserve(&first).await.unwrap();
    // another day of the same month
    let other_day = "case when extract(day from today) > 1 then date_trunc('month', today::timestamp)::date
        else today + 1 end";
    ground.spent_at(key, other_day).await;
    let second = by(key, user, 3);
    ground.replica.reserve(&second).await.unwrap();
    assert_eq!(refused(ground.replica.reserve(&by(key, user, 1)).await), (CapPeriod::Month, 0));
    ground.replica.cancel(&first).await.unwrap();
    let mut spent = ground.spent(key).await;
    spent.sort_unstable();
    assert_eq!(spent, [0, 3], "it was taken off the day that it was counted on");
    assert_eq!(refused(ground.replica.reserve(&by(key, user, 3)).await), (CapPeriod::Day, 2));
    ground.replica.reserve(&by(key, user, 2)).await.unwrap();
    ground.expect_clean().await;

    // last month
    let late = ground.api_key(user, Some(5), Some(5)).await;
    let task = by(late, user, 5);
    ground.replica.reserve(&task).await.unwrap();
    ground.spent_at(late, "date_trunc('month', today::timestamp)::date - 1").await;
    ground.replica.reserve(&by(late, user, 5)).await.unwrap();
    ground.replica.cancel(&task).await.unwrap();
    assert_eq!(ground.spent(late).await, [0, 5]);
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_key_that_is_revoked_or_anothers_spends_nothing() {
    let ground = Ground::start().await;
    let (user, other) = (ground.user(10).await, ground.user(10).await);
    let (foreign, revoked) =
        (ground.api_key(other, None, None).await, ground.api_key(user, None, None).await);
    let kept = by(revoked, user, 1);
    ground.replica.reserve(&kept).await.unwrap();
    let revoke = "update api_keys set revoked_at = clock_timestamp() where id = $1";
    ground.sql.execute(revoke, &[&revoked]).await.unwrap();
    for key in [foreign, revoked, ApiKeyId::new()] {
        let refusal = ground.replica.reserve(&by(key, user, 1)).await.unwrap_err();
        assert!(matches!(refusal, QuotaError::ApiKeyRevoked), "{refusal:?}");
    }
    // what it has started goes on
    ground.replica.reserve(&kept).await.unwrap();
    ground.replica.confirm(&kept, 1).await.unwrap();
    assert_eq!((ground.spent(revoked).await, ground.counters(user).await), (vec![1], (9, 0)));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn under_a_cap_of_nothing_what_is_free_can_be_had() {
    let ground = Ground::start().await;
    let user = ground.user(10).await;
    let key = ground.api_key(user, Some(0), None).await;
    assert_eq!(refused(ground.replica.reserve(&by(key, user, 1)).await), (CapPeriod::Day, 0));
    let free = by(key, user, 0);
    ground.replica.reserve(&free).await.unwrap();
    ground.replica.cancel(&free).await.unwrap();
    assert_eq!(ground.spent(key).await, Vec::<i64>::new());
    ground.expect_clean().await;
}
