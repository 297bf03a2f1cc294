//! Limits of requests, over replicas, addresses and outages.
//!
//! Limits are small, so that what fills again while a slow machine asks is little, and what may have filled is
//! counted.

use crate::support::{Client, Reply, Service, Socket, TestApp, eventually, new_phone};
use futures_util::future::join_all;
use greenroom::dev::servers::send_signal;
use reqwest::Method;
use serde_json::json;
use std::time::{Duration, Instant};

const GENERAL: &str = "GREENROOM__LIMITS__REQUESTS_PER_MINUTE";
const SIGN_IN: &str = "GREENROOM__LIMITS__SIGN_IN_PER_ADDRESS_PER_MINUTE";
const PROXIES: &str = "GREENROOM__SERVER__TRUSTED_PROXIES";
const PLANS: &str = "/api/v1/plans";
const ME: &str = "/api/v1/users/me";
const LOGIN: &str = "/api/v1/auth/login";

/// How many of a limit may have passed since: as many as at once, and what has filled.
fn at_most(limit: usize, since: Instant) -> usize {
    limit + usize::try_from(since.elapsed().as_millis()).unwrap() * limit / 60_000
}

fn passed(replies: &[Reply]) -> usize {
    assert!(replies.iter().all(|reply| [200, 429].contains(&reply.status)), "{replies:#?}");
    replies.iter().filter(|reply| reply.status == 200).count()
}

fn number(reply: &Reply, header: &str) -> u64 {
    reply.header(header).parse().unwrap_or_else(|_| panic!("no {header}: {reply:#?}"))
}

/// Asks for `path` as if a proxy had passed it on.
async fn forwarded(client: &Client, path: &str, forwarded_for: &str) -> Reply {
    client.send(client.request(Method::GET, path).header("X-Forwarded-For", forwarded_for)).await
}

/// Signs in with a body that is refused before anything costly.
async fn guess(client: &Client, path: &str, forwarded_for: &str) -> Reply {
    let request = client.request(Method::POST, path).header("X-Forwarded-For", forwarded_for);
    client.send(request.json(&json!({}))).await
}

/// What is refused says so as every error does, and when to come back.
fn expect_limited(reply: &Reply, limit: u64) {
    assert_eq!((reply.status, reply.code()), (429, "RATE_LIMITED"), "{reply:#?}");
    assert_eq!(reply.header("content-type"), "application/problem+json");
    assert_eq!(reply.json["requestId"], reply.header("x-request-id"));
    assert_eq!((number(reply, "ratelimit-limit"), number(reply, "ratelimit-remaining")), (limit, 0));
    let (wait, reset) = (number(reply, "retry-after"), number(reply, "ratelimit-reset"));
    assert!(1 <= wait && wait <= 60_u64.div_ceil(limit) && wait <= reset && reset <= 60, "{reply:#?}");
}

#[actix_web::test]
async fn exactly_the_limit_passes_over_two_replicas() {
    let app = TestApp::builder().env(GENERAL, 20).start().await;
    let second = app.second_replica().await;
    let user = app.register_user().await;
    let at_both = [user.clone(), user.at(&second.url)];
    let began = Instant::now();
    let replies = join_all((0..60).map(|turn| at_both[turn % 2].get(ME))).await;
    let (passed, most) = (passed(&replies), at_most(20, began));
    assert!((20..=most).contains(&passed), "{passed} of at most {most}");
    for reply in replies.iter().filter(|reply| reply.status == 429) {
        expect_limited(reply, 20);
    }
    let limited = [&app.service, &second].map(|replica| limited(replica, "requests"));
    assert_eq!(join_all(limited).await.iter().sum::<f64>(), (60 - passed) as f64);
}

async fn limited(replica: &Service, limit: &str) -> f64 {
    replica.metric("greenroom_requests_limited_total", &[("limit", limit)]).await
}

#[actix_web::test]
async fn every_answer_under_the_limit_says_where_one_stands() {
    let app = TestApp::builder().env(GENERAL, 4).start().await;
    let client = app.client();
    let answers = [
        client.get(PLANS).await,
        client.get("/api/v1/nothing").await,
        client.get(ME).await,
        client.post(PLANS, json!({})).await,
    ];
    let statuses = answers.each_ref().map(|answer| answer.status);
    assert_eq!(statuses, [200, 404, 401, 405]);
    for (answer, remaining) in answers.iter().zip([3, 2, 1, 0]) {
        let told = (number(answer, "ratelimit-limit"), number(answer, "ratelimit-remaining"));
        assert_eq!(told, (4, remaining));
        let reset = number(answer, "ratelimit-reset");
        assert!(0 < reset && reset <= 15 * (4 - remaining), "{answer:#?}");
    }
    expect_limited(&client.get(PLANS).await, 4);
    // probes, the contract, and what others tell us are under no limit
    for path in ["/health/ready", "/health/live", "/openapi.json"] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.header("ratelimit-limit")), (200, ""), "{path}");
    }
    for path in ["/api/v1/provider-callbacks/nobody", "/api/v1/payments/wechat/notify"] {
        let answer = client.post(path, json!({})).await;
        assert_eq!((answer.status, answer.header("ratelimit-limit")), (404, ""), "{path}");
    }
}

#[actix_web::test]
async fn a_browser_may_read_a_refusal() {
    let origin = "https://app.example.com";
    let app = TestApp::builder().env(GENERAL, 1).env("GREENROOM__SERVER__CORS_ORIGINS", origin).start().await;
    let client = app.client();
    let ask = || client.send(client.request(Method::GET, PLANS).header("Origin", origin));
    assert_eq!(ask().await.status, 200);
    let refused = ask().await;
    expect_limited(&refused, 1);
    assert_eq!(refused.header("access-control-allow-origin"), origin);
    let preflight = client
        .request(Method::OPTIONS, PLANS)
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "GET");
    assert_eq!(client.send(preflight).await.status, 200, "a browser's own question is no request");
}

#[actix_web::test]
async fn whoever_waits_as_long_as_told_passes() {
    let app = TestApp::builder().env(GENERAL, 60).start().await;
    let client = app.client();
    let refused = eventually("the limit is met", async || {
        join_all((0..30).map(|_| client.get(PLANS))).await.into_iter().find(|reply| reply.status == 429)
    })
    .await;
    expect_limited(&refused, 60);
    tokio::time::sleep(Duration::from_secs(number(&refused, "retry-after"))).await;
    assert_eq!(client.get(PLANS).await.status, 200);
}

#[actix_web::test]
async fn who_is_signed_in_is_counted_alone_and_a_bad_token_for_the_address() {
    let app = TestApp::builder().env(GENERAL, 3).start().await;
    // two requests of the address
    let (first, second) = (app.register_user().await, app.register_user().await);
    for _ in 0..3 {
        first.get(ME).await.expect(200);
    }
    expect_limited(&first.get(ME).await, 3);
    second.get(ME).await.expect(200);
    let mut forger = app.client();
    forger.token = Some(format!("{}x", first.token.as_ref().unwrap()));
    let refused = forger.get(ME).await;
    assert_eq!((refused.status, refused.code()), (401, "UNAUTHENTICATED"), "{refused:#?}");
    assert_eq!(refused.header("www-authenticate"), "Bearer realm=\"greenroom\", error=\"invalid_token\"");
    expect_limited(&forger.get(ME).await, 3);
    expect_limited(&app.client().get(PLANS).await, 3);
    second.get(ME).await.expect(200);
}

#[actix_web::test]
async fn a_socket_is_one_request() {
    let app = TestApp::builder().env(GENERAL, 2).start().await;
    let user = app.register_user().await;
    let mut socket = Socket::open(&user).await;
    for id in 0..5 {
        socket.send(json!({ "type": "ping", "id": id })).await;
    }
    user.get(ME).await.expect(200);
    assert_eq!(Socket::try_open(&user, "").await.err(), Some(429));
}

#[actix_web::test]
async fn a_stranger_cannot_choose_an_address() {
    let app = TestApp::builder().env(GENERAL, 2).start().await;
    let client = app.client();
    for host in 0..2 {
        assert_eq!(forwarded(&client, PLANS, &format!("198.51.100.{host}")).await.status, 200);
    }
    expect_limited(&forwarded(&client, PLANS, "198.51.100.9").await, 2);
    assert!(!app.service.log().contains("198.51.100."));
}

#[actix_web::test]
async fn a_trusted_proxy_says_whose_request_it_is() {
    let app = TestApp::builder().env(GENERAL, 1).env(PROXIES, "10.0.0.0/8,127.0.0.1").start().await;
    let client = app.client();
    for (forwarded_for, status) in [
        ("198.51.100.1", 200),
        ("198.51.100.1", 429),
        ("198.51.100.2", 200),
        // what the client put there itself, and an inner proxy
        ("203.0.113.5, 198.51.100.2", 429),
        ("198.51.100.2, 10.1.2.3", 429),
        ("203.0.113.5", 200),
        // a household
        ("2001:db8:0:1::1", 200),
        ("2001:db8:0:1:ffff::2", 429),
        ("2001:db8:0:2::1", 200),
    ] {
        assert_eq!(forwarded(&client, PLANS, forwarded_for).await.status, status, "{forwarded_for}");
    }
    eventually("the log says it", async || app.service.log().contains("peer=198.51.100.2").then_some(()))
        .await;
}

#[actix_web::test]
async fn sign_ins_of_an_address_are_counted_together_and_nothing_else_is() {
    let app = TestApp::builder().env(SIGN_IN, 3).start().await;
    let client = app.client();
    let registered = client.register(&new_phone(), "correct horse").await;
    let (phone, password) = &registered.credentials;
    client.login(phone, password).await;
    // whatever comes of it
    let refused = client.post(LOGIN, json!({})).await;
    assert_eq!(refused.status, 400, "{refused:#?}");
    assert_eq!((number(&refused, "ratelimit-limit"), number(&refused, "ratelimit-remaining")), (3, 0));
    let paths = [
        LOGIN,
        "/api/v1/auth/register",
        "/api/v1/auth/send-code",
        "/api/v1/auth/reset-password",
        "/api/v1/auth/wechat-login",
        // however it is written
        "/api/v1/auth/%6Cogin",
        "/api/v1/%61uth/register",
    ];
    for path in paths {
        expect_limited(&client.post(path, json!({})).await, 3);
    }
    // signed in or not
    expect_limited(&registered.post(LOGIN, json!({})).await, 3);
    assert_eq!(limited(&app.service, "sign_in_address").await, (paths.len() + 1) as f64);
    for _ in 0..10 {
        assert_ne!(client.post("/api/v1/auth/refresh", json!({})).await.status, 429);
        assert_eq!(client.get(PLANS).await.header("ratelimit-limit"), "", "the general limit is off");
    }
}

#[actix_web::test]
async fn a_network_may_sign_in_five_times_as_often_as_an_address() {
    let app = TestApp::builder().env(SIGN_IN, 2).env(PROXIES, "127.0.0.1").start().await;
    let second = app.second_replica().await;
    let at_both = [app.client(), second.client()];
    for host in 0..10 {
        let reply = guess(&at_both[host % 2], LOGIN, &format!("198.51.100.{host}")).await;
        assert_eq!(reply.status, 400, "{reply:#?}");
    }
    expect_limited(&guess(&at_both[0], LOGIN, "198.51.100.200").await, 10);
    // nothing was charged for what was refused, and other networks are not touched
    let other = guess(&at_both[1], LOGIN, "198.51.101.200").await;
    assert_eq!((other.status, number(&other, "ratelimit-remaining")), (400, 1));
    assert_eq!(limited(&app.service, "sign_in_network").await, 1.0);
}

#[actix_web::test]
async fn a_limit_that_is_off_asks_nobody_and_says_nothing() {
    let app = TestApp::start().await;
    let client = app.client();
    for _ in 0..5 {
        assert_eq!(client.get(PLANS).await.header("ratelimit-limit"), "");
        assert_eq!(guess(&client, LOGIN, "").await.header("ratelimit-limit"), "");
    }
    assert_eq!(keys(&app).await, Vec::<String>::new());
}

/// What is counted in Redis.
async fn keys(app: &TestApp) -> Vec<String> {
    let mut redis = app.redis_connection().await;
    let pattern = format!("{}limit:*", app.redis_prefix);
    redis::cmd("KEYS").arg(pattern).query_async(&mut redis).await.unwrap()
}

#[actix_web::test]
async fn without_redis_each_replica_counts_alone_and_nobody_guesses() {
    let app = TestApp::builder()
        .own_redis()
        .env(GENERAL, 6)
        .env(SIGN_IN, 30)
        .env(PROXIES, "127.0.0.1")
        .start()
        .await;
    let second = app.second_replica().await;
    let user = app.register_user().await;
    user.get(ME).await.expect(200);
    app.redis.with(|redis| redis.kill()).await;
    let began = Instant::now();
    for replica in [&app.service, &second] {
        let user = user.at(&replica.url);
        let replies = join_all((0..20).map(|_| user.get(ME))).await;
        let (passed, most) = (passed(&replies), at_most(6, began));
        assert!((6..=most).contains(&passed), "{passed} of at most {most}");
        replies.iter().filter(|reply| reply.status == 429).for_each(|reply| expect_limited(reply, 6));
        // guesses of many addresses are no way in either
        for host in 0..3 {
            let refused = guess(&replica.client(), LOGIN, &format!("198.51.100.{host}")).await;
            assert_eq!((refused.status, refused.code()), (503, "UNAVAILABLE"), "{refused:#?}");
            assert!(number(&refused, "retry-after") >= 1);
        }
    }
    app.redis.with(|redis| redis.start_again().unwrap()).await;
    let (phone, password) = &user.credentials;
    for replica in [&app.service, &second] {
        let client = replica.client();
        let mut address = 0;
        eventually("sign-in works again", async || {
            address += 1;
            let body = json!({ "phone": phone, "password": password });
            let request = client.request(Method::POST, LOGIN);
            let request = request.header("X-Forwarded-For", format!("203.0.{address}.1")).json(&body);
            (client.send(request).await.status == 200).then_some(())
        })
        .await;
        eventually("the replica says that it counts in Redis again", async || {
            address += 1;
            forwarded(&client, PLANS, &format!("203.0.{address}.1")).await;
            replica.log().contains("hold over all replicas again").then_some(())
        })
        .await;
        let log = replica.log();
        for once in ["counted by this process alone", "hold over all replicas again"] {
            assert_eq!(log.matches(once).count(), 1, "{once}");
        }
    }
    user.get(ME).await;
    let counted = keys(&app).await;
    assert!(counted.iter().any(|key| key.ends_with(&format!("user:{}", user.id))), "{counted:?}");
}

#[actix_web::test]
async fn a_redis_that_is_silent_is_as_good_as_none() {
    let app = TestApp::builder()
        .own_redis()
        .env(GENERAL, 6)
        .env(SIGN_IN, 30)
        .env("GREENROOM__REDIS__RESPONSE_TIMEOUT_MS", 200)
        .start()
        .await;
    let user = app.register_user().await;
    let redis = app.redis.with(|redis| redis.pid().unwrap()).await;
    send_signal(redis, "STOP");
    let began = Instant::now();
    let replies = join_all((0..20).map(|_| user.get(ME))).await;
    let (passed, most) = (passed(&replies), at_most(6, began));
    assert!((6..=most).contains(&passed), "{passed} of at most {most}");
    let refused = guess(&app.client(), LOGIN, "").await;
    assert_eq!((refused.status, refused.code()), (503, "UNAVAILABLE"), "{refused:#?}");
    send_signal(redis, "CONT");
    eventually("sign-in is looked at again", async || {
        // refused for its body, or by the general limit of its address, which is counted in Redis
        ([400, 429].contains(&guess(&app.client(), LOGIN, "").await.status)).then_some(())
    })
    .await;
}
