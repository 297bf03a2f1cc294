//! The rule of limits in Redis, held against the same rule in a process.

use greenroom_actors::limits::{Buckets, Charge, RedisBuckets, Verdict, WithoutRedis};
use greenroom_actors::redis_client::{RedisClient, RedisSettings};
use rand::seq::SliceRandom;
use std::time::Duration;

use crate::support::servers;

/// From what never fills again in a test to what fills again between two requests.
const LIMITS: [u32; 6] = [1, 7, 100, 60_000, 600_000, 1_000_000];

struct Ground {
    client: RedisClient,
    connection: redis::aio::MultiplexedConnection,
}

async fn ground() -> Ground {
    let url = servers::shared().await.redis.with(|redis| redis.url()).await;
    let connection = redis::Client::open(url.as_str()).unwrap();
    let connection = connection.get_multiplexed_async_connection().await.unwrap();
    let patience = Duration::from_secs(20);
    let key_prefix = format!("{}:", uuid::Uuid::new_v4());
    let settings = RedisSettings { url: url.into(), key_prefix, connect: patience, response: patience };
    Ground { client: RedisClient::new(&settings).unwrap(), connection }
}

fn charge(subject: impl ToString, per_minute: u32) -> Charge {
    let subject = subject.to_string();
    Charge { limit: "tests", subject, per_minute, without_redis: WithoutRedis::CountHere }
}

#[tokio::test]
async fn redis_decides_as_the_process_would_at_that_time() {
    let Ground { client, .. } = ground().await;
    let redis = RedisBuckets::new(client);
    let mut process = Buckets::new(1_000);
    // two subjects of each limit, asked for alone and together
    let subjects: Vec<Charge> = (0..12).map(|number| charge(number, LIMITS[number % 6])).collect();
    let (mut granted, mut refused) = (0, 0);
    for _ in 0..2_000 {
        // as many as requests have; many together would all be refused
        let mut asked: Vec<&Charge> = subjects.iter().collect();
        asked.shuffle(&mut rand::rng());
        let asked = &asked[..rand::random_range(1..=3)];
        let decided = redis.charge(asked).await.unwrap();
        assert_eq!(decided.verdict, process.charge(asked, decided.at_us), "{asked:?} at {}", decided.at_us);
        match decided.verdict {
            Some(Verdict::Granted(_)) => granted += 1,
            Some(Verdict::Refused(_)) => refused += 1,
            None => panic!("no verdict"),
        }
    }
    assert!(granted > 100 && refused > 100, "{granted} granted, {refused} refused");
}

#[tokio::test]
async fn a_bucket_lives_until_it_is_full() {
    let Ground { client, mut connection } = ground().await;
    let redis = RedisBuckets::new(client.clone());
    let guest = charge("guest", 4);
    for requests in 1..=6_u64 {
        redis.charge(&[&guest]).await.unwrap();
        let key = client.key("limit:tests:guest");
        let left: u64 = redis::cmd("PTTL").arg(key).query_async(&mut connection).await.unwrap();
        let full = 15_000 * requests.min(4);
        assert!(left <= full && left > 0, "{left} ms after {requests} requests");
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_locks_nobody_out() {
    let Ground { client, mut connection } = ground().await;
    let redis = RedisBuckets::new(client.clone());
    let key = client.key("limit:tests:guest");
    let far = "9000000000000000";
    redis::cmd("SET").arg(key).arg(far).exec_async(&mut connection).await.unwrap();
    let Some(Verdict::Refused(standing)) = redis.charge(&[&charge("guest", 60)]).await.unwrap().verdict
    else {
        panic!("granted")
    };
    assert_eq!((standing.retry_after_s(), standing.reset_s()), (1, 60));
}
