//! Sessions: refreshed once, closed for good, on whatever replica.

use crate::support::{Client, Reply, Socket, TestApp};
use futures_util::future::join_all;
use greenroom::dev::random_key;
use redis::AsyncCommands;
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

async fn logout(client: &Client, body: Value) {
    assert_eq!(client.post("/api/v1/auth/logout", body).await.status, 204);
}

/// The same phone and password on another device.
async fn device(user: &Client) -> Client {
    user.login(&user.credentials.0, &user.credentials.1).await
}

async fn log_of(user: &Client) -> Vec<String> {
    let log = user.get("/api/v1/users/me/security-log?limit=100").await.expect(200);
    let events = log["items"].as_array().unwrap().iter();
    events.map(|entry| entry["event"].as_str().unwrap().to_owned()).collect()
}

/// Why the server closes the socket, once it does.
async fn close_code(socket: &mut Socket) -> Option<u16> {
    while socket.next().await.is_some() {}
    socket.close_code
}

/// What the refusal of a refresh says.
fn refusal(reply: &Reply) -> (u16, &str) {
    (reply.status, reply.code())
}

const INVALID: (u16, &str) = (401, "REFRESH_TOKEN_INVALID");
const REUSED: (u16, &str) = (401, "REFRESH_TOKEN_REUSED");

#[actix_web::test]
async fn a_refresh_gives_the_next_pair_of_the_same_session() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let tokens = user.refresh().await.expect(200);
    assert_eq!((&tokens["expiresIn"], &tokens["refreshExpiresIn"]), (&json!(900), &json!(604_800)));
    assert_eq!(tokens["isNewUser"], json!(false));
    let next = user.with_tokens(&tokens);
    assert_ne!(next.refresh_token, user.refresh_token);
    assert_eq!(next.id, user.id);
    assert_eq!(next.get("/api/v1/users/me").await.status, 200);
    let sessions = next.get("/api/v1/auth/sessions").await.expect(200);
    assert_eq!(sessions["items"].as_array().unwrap().len(), 1);
    assert_eq!(sessions["items"][0]["current"], json!(true));
    assert_eq!(sessions["items"][0]["address"], json!("127.0.0.1"));
}

#[actix_web::test]
async fn two_hundred_refreshes_at_once_over_two_replicas_end_in_one_good_token() {
    let app = TestApp::start().await;
    let other = app.second_replica().await;
    let user = app.register_user().await;
    let at = [user.clone(), user.at(&other.url)];
    let replies = join_all((0..200).map(|number| at[number % 2].refresh())).await;
    let tokens: BTreeSet<String> = replies
        .into_iter()
        .map(|reply| reply.expect(200)["refreshToken"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(tokens.len(), 1, "each of them gave the same token");
    let mut next = at[1].clone();
    next.refresh_token = tokens.into_iter().next().unwrap();
    next.refresh().await.expect(200);
}

#[actix_web::test]
async fn a_token_that_comes_back_after_its_successor_was_used_closes_the_session() {
    let app = TestApp::start().await;
    let other = app.second_replica().await;
    let first = app.register_user().await;
    let mut socket = Socket::open(&first.at(&other.url)).await;
    let second = first.with_tokens(&first.refresh().await.expect(200));
    let third = second.with_tokens(&second.refresh().await.expect(200));
    assert_eq!(refusal(&first.at(&other.url).refresh().await), REUSED);
    // whoever has the newest one is out too
    assert_eq!(refusal(&third.refresh().await), INVALID);
    assert_eq!(refusal(&first.refresh().await), INVALID);
    assert_eq!(close_code(&mut socket).await, Some(4001));
    let again = device(&first).await;
    assert!(log_of(&again).await.contains(&"token_reused".to_owned()));
}

#[actix_web::test]
async fn a_used_token_is_answered_again_for_ten_seconds_only() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let next = user.refresh().await.expect(200);
    // as if eleven seconds had passed
    let mut redis = app.redis_connection().await;
    let key = format!("{}refresh:{}", app.redis_prefix, user.id);
    let all: HashMap<String, String> = redis.hgetall(&key).await.unwrap();
    for (session, text) in all {
        let mut kept: Value = serde_json::from_str(&text).unwrap();
        kept["rotated"] = json!(kept["rotated"].as_i64().unwrap() - 11_000);
        redis.hset::<_, _, _, ()>(&key, session, kept.to_string()).await.unwrap();
    }
    assert_eq!(refusal(&user.refresh().await), REUSED);
    assert_eq!(refusal(&user.with_tokens(&next).refresh().await), INVALID);
}

#[actix_web::test]
async fn both_secrets_are_changed_and_nobody_is_signed_out() {
    const JWT: [&str; 2] = ["JWT_SECRET", "GREENROOM__AUTH__PREVIOUS_JWT_SECRETS"];
    const KEY: [&str; 2] = ["GREENROOM__SECRETS__KEY", "GREENROOM__SECRETS__PREVIOUS_KEYS"];
    let old = [random_key(), random_key()];
    let new = [random_key(), random_key()];
    let of = |current: &[String; 2], previous: &[String; 2]| {
        let [jwt, key] = current.clone();
        let [previous_jwt, previous_key] = previous.clone();
        [(JWT[0], jwt), (KEY[0], key), (JWT[1], previous_jwt), (KEY[1], previous_key)]
    };
    let mut builder = TestApp::builder();
    // first every replica accepts what the next step makes
    for (name, value) in of(&old, &new) {
        builder = builder.env(name, value);
    }
    let app = builder.start().await;
    let changed = app.another_replica(&of(&new, &old)).await;
    let user = app.register_user().await;
    let idle = device(&user).await;
    assert_eq!(user.at(&changed.url).get("/api/v1/users/me").await.status, 200);
    // the replica of the new secrets gives the next one, and the other the same one again
    let next = user.at(&changed.url).refresh().await.expect(200);
    assert_eq!(user.refresh().await.expect(200)["refreshToken"], next["refreshToken"]);
    let next = user.with_tokens(&next);
    assert_eq!(next.get("/api/v1/users/me").await.status, 200);

    let [jwt, key] = new;
    let none = [(JWT[0], jwt), (KEY[0], key), (JWT[1], String::new()), (KEY[1], String::new())];
    let done = app.another_replica(&none).await;
    assert_eq!(idle.at(&done.url).get("/api/v1/users/me").await.status, 401);
    assert_eq!(refusal(&idle.at(&done.url).refresh().await), INVALID);
    assert_eq!(next.at(&done.url).get("/api/v1/users/me").await.status, 200);
    next.at(&done.url).refresh().await.expect(200);
    // it only was not known there
    idle.refresh().await.expect(200);
}

#[actix_web::test]
async fn what_is_no_token_of_ours_is_refused_and_closes_nothing() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let stranger = app.register_user().await;
    let parts: Vec<&str> = user.refresh_token.split('.').collect();
    let foreign_mac = stranger.refresh_token.rsplit('.').next().unwrap();
    for forged in [
        String::new(),
        "nonsense".to_owned(),
        "x".repeat(10_000),
        user.refresh_token.replacen("gr1", "gr2", 1),
        format!("gr1.{}.{}.{}.{foreign_mac}", parts[1], parts[2], parts[3]),
        format!("gr1.{}.{}.2.{}", parts[1], parts[2], parts[4]),
        format!("{}.", user.refresh_token),
    ] {
        let reply = app.client().post("/api/v1/auth/refresh", json!({ "refreshToken": forged })).await;
        assert_eq!(refusal(&reply), INVALID, "{forged}");
        assert!(reply.header("www-authenticate").starts_with("Bearer"));
    }
    user.refresh().await.expect(200);
}

#[actix_web::test]
async fn whoever_signs_out_is_out_on_every_replica_and_may_say_it_twice() {
    let app = TestApp::start().await;
    let other = app.second_replica().await;
    let user = app.register_user().await;
    let phone = device(&user).await;
    let mut socket = Socket::open(&user.at(&other.url)).await;
    let mut kept = Socket::open(&phone.at(&other.url)).await;
    for _ in 0..2 {
        logout(&app.client(), json!({ "refreshToken": user.refresh_token })).await;
    }
    for client in [user.clone(), user.at(&other.url)] {
        assert_eq!(refusal(&client.refresh().await), INVALID);
    }
    assert_eq!(close_code(&mut socket).await, Some(4001));
    // the other device goes on
    let phone = phone.with_tokens(&phone.refresh().await.expect(200));
    kept.send(json!({ "type": "ping" })).await;
    kept.read_until(|frame| frame["type"] == "pong").await;
    // without a token in the body it is the session of the bearer
    logout(&phone, json!({})).await;
    assert_eq!(refusal(&phone.refresh().await), INVALID);
    let reply = app.client().post("/api/v1/auth/logout", json!({})).await;
    assert_eq!(refusal(&reply), (401, "UNAUTHENTICATED"));
}

#[actix_web::test]
async fn signing_out_everywhere_closes_every_session() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let devices = [device(&user).await, device(&user).await];
    let mut socket = Socket::open(&devices[0]).await;
    logout(&user, json!({ "everywhere": true })).await;
    for client in [&user, &devices[0], &devices[1]] {
        assert_eq!(refusal(&client.refresh().await), INVALID);
    }
    assert_eq!(close_code(&mut socket).await, Some(4001));
    let again = device(&user).await;
    again.refresh().await.expect(200);
    assert!(log_of(&again).await.contains(&"signed_out_everywhere".to_owned()));
}

#[actix_web::test]
async fn a_user_sees_the_devices_and_closes_one() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let other = device(&user).await;
    let list = user.get("/api/v1/auth/sessions").await.expect(200);
    let sessions = list["items"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    let foreign = sessions.iter().find(|session| session["current"] == json!(false)).unwrap();
    let path = format!("/api/v1/auth/sessions/{}", foreign["id"].as_str().unwrap());
    // nobody else's to close
    let stranger = app.register_user().await;
    assert_eq!(stranger.delete(&path).await.status, 404);
    for _ in 0..2 {
        assert_eq!(user.delete(&path).await.status, 204);
    }
    assert_eq!(refusal(&other.refresh().await), INVALID);
    user.refresh().await.expect(200);
    let unknown = format!("/api/v1/auth/sessions/{}", uuid::Uuid::now_v7());
    assert_eq!(user.delete(&unknown).await.status, 404);
    assert_eq!(user.delete("/api/v1/auth/sessions/mine").await.status, 404);
}

#[actix_web::test]
async fn devices_are_listed_in_pages_as_everything_is() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    device(&user).await;
    device(&user).await;
    let list = async |query: &str| user.get(&format!("/api/v1/auth/sessions{query}")).await;
    let all = list("").await.expect(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 3);
    let first = list("?limit=2").await.expect(200);
    let second =
        list(&format!("?limit=2&cursor={}", first["nextCursor"].as_str().unwrap())).await.expect(200);
    assert_eq!(second["nextCursor"], Value::Null);
    let paged = [first["items"].as_array().unwrap().clone(), second["items"].as_array().unwrap().clone()];
    assert_eq!(json!(paged.concat()), all["items"]);
    for (query, path) in [("?limit=0", "/limit"), ("?cursor=none", "/cursor"), ("?order=age", "/order")] {
        let reply = list(query).await;
        assert_eq!((reply.status, &reply.json["errors"][0]["path"]), (400, &json!(path)), "{query}");
    }
}

/// What somebody with nothing but an access token tries to make of it, that would outlast the token.
async fn attempts(client: &Client) -> Vec<(u16, String)> {
    let mut said = Vec::new();
    for (path, body) in [
        ("/api/v1/users/me/api-keys", json!({ "name": "mine", "scopes": ["read"] })),
        ("/api/v1/users/me/phone", json!({ "phone": "13900139000", "code": "123456" })),
        ("/api/v1/users/me/wechat", json!({ "code": "x" })),
        (
            "/api/v1/auth/set-password",
            json!({ "oldPassword": "correct horse", "newPassword": "a new horse" }),
        ),
    ] {
        let reply = client.post_with_key(path, "once", body).await;
        said.push((reply.status, reply.code().to_owned()));
    }
    said
}

#[actix_web::test]
async fn a_token_of_a_closed_session_makes_nothing_that_would_outlast_it() {
    let app = TestApp::start().await;
    let other = app.second_replica().await;
    let user = app.register_user().await;
    for everywhere in [false, true] {
        let stolen = device(&user).await;
        stolen.get("/api/v1/users/me").await.expect(200);
        logout(if everywhere { &user } else { &stolen }, json!({ "everywhere": everywhere })).await;
        stolen.get("/api/v1/users/me").await.expect(200);
        for at in [stolen.clone(), stolen.at(&other.url)] {
            for refused in attempts(&at).await {
                assert_eq!(refused, (401, "UNAUTHENTICATED".to_owned()), "everywhere: {everywhere}");
            }
            assert_eq!(Socket::try_open(&at, "").await.err(), Some(401));
            let ticket = at.post("/api/v1/ws/tickets", json!({})).await.expect(201);
            let query = format!("?ticket={}", ticket["ticket"].as_str().unwrap());
            assert_eq!(Socket::try_open(&app.client().at(&at.url), &query).await.err(), Some(401));
        }
    }
    let admin = app.admin().await;
    let user = device(&user).await;
    admin.patch(&format!("/api/v1/admin/users/{}", user.id), json!({ "banned": true })).await.expect(200);
    for refused in attempts(&user).await {
        assert_eq!(refused, (403, "USER_BANNED".to_owned()));
    }
    assert_eq!(Socket::try_open(&user, "").await.err(), Some(403));
}

#[actix_web::test]
async fn a_socket_does_not_go_on_in_a_session_that_is_closed() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let (closed, open) = (device(&user).await, device(&user).await);
    logout(&closed, json!({})).await;
    let mut socket = Socket::open(&user).await;
    socket.send(json!({ "type": "auth", "accessToken": closed.token })).await;
    let frames = socket.read_until(|frame| frame["type"] == "error").await;
    assert_eq!(frames.last().unwrap()["code"], json!("UNAUTHENTICATED"));
    socket.send(json!({ "type": "auth", "accessToken": open.token })).await;
    socket.read_until(|frame| frame["type"] == "auth.ok").await;
    // it is of the other session now, and ends with it
    logout(&user, json!({})).await;
    socket.send(json!({ "type": "ping" })).await;
    socket.read_until(|frame| frame["type"] == "pong").await;
    logout(&open, json!({})).await;
    assert_eq!(close_code(&mut socket).await, Some(4001));
}

#[actix_web::test]
async fn a_ban_that_redis_could_not_tell_ends_sockets_when_redis_is_back() {
    let app = TestApp::builder().own_redis().start().await;
    let other = app.second_replica().await;
    let (user, admin) = (app.register_user().await, app.admin().await);
    let bystander = app.register_user().await;
    let mut socket = Socket::open(&user.at(&other.url)).await;
    let mut unharmed = Socket::open(&bystander.at(&other.url)).await;
    app.redis.with(|redis| redis.kill()).await;
    admin.patch(&format!("/api/v1/admin/users/{}", user.id), json!({ "banned": true })).await.expect(200);
    app.redis.with(|redis| redis.start_again().unwrap()).await;
    assert_eq!(close_code(&mut socket).await, Some(4001));
    unharmed.send(json!({ "type": "ping" })).await;
    unharmed.read_until(|frame| frame["type"] == "pong").await;
}

#[actix_web::test]
async fn whoever_signs_in_right_after_all_sessions_were_closed_stays_in() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let mut redis = app.redis_connection().await;
    let key = format!("{}refresh:{}", app.redis_prefix, user.id);
    // as one looks that is opened after the closing was committed and before Redis hears of it
    let sessions: HashMap<String, String> = redis.hgetall(&key).await.unwrap();
    let mut newer: Value = serde_json::from_str(sessions.values().next().unwrap()).unwrap();
    newer["generation"] = json!(newer["generation"].as_i64().unwrap() + 1);
    let id = uuid::Uuid::now_v7().to_string();
    redis.hset::<_, _, _, ()>(&key, &id, newer.to_string()).await.unwrap();
    logout(&user, json!({ "everywhere": true })).await;
    let left: HashMap<String, String> = redis.hgetall(&key).await.unwrap();
    assert_eq!(left.into_keys().collect::<Vec<_>>(), [id]);
}

#[actix_web::test]
async fn the_eleventh_device_makes_the_oldest_leave() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let mut devices = vec![user.clone()];
    for _ in 0..10 {
        devices.push(device(&user).await);
    }
    assert_eq!(refusal(&devices[0].refresh().await), INVALID);
    for device in &devices[1..] {
        device.refresh().await.expect(200);
    }
    let list = devices[10].get("/api/v1/auth/sessions").await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 10);
}

#[actix_web::test]
async fn a_new_password_signs_the_other_devices_out() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let other = device(&user).await;
    let set = |old: &str, new: &str| {
        let body = json!({ "oldPassword": old, "newPassword": new });
        let user = user.clone();
        async move { user.post("/api/v1/auth/set-password", body).await }
    };
    let wrong = set("wrong horse", "another horse").await;
    assert_eq!(refusal(&wrong), (422, "PASSWORD_WRONG"));
    assert_eq!(wrong.json["errors"][0]["path"], json!("/oldPassword"));
    let missing = user.post("/api/v1/auth/set-password", json!({ "newPassword": "another horse" })).await;
    assert_eq!(refusal(&missing), (422, "PASSWORD_WRONG"));
    let failed = log_of(&user).await.iter().filter(|event| *event == "sign_in_failed").count();
    assert_eq!(failed, 1, "a wrong password is written down, a missing one is none");
    let weak = set(&user.credentials.1, "short").await;
    assert_eq!(
        (refusal(&weak), &weak.json["errors"][0]["path"]),
        ((422, "PASSWORD_WEAK"), &json!("/newPassword"))
    );
    assert_eq!(set(&user.credentials.1, "another horse").await.status, 204);
    assert_eq!(refusal(&other.refresh().await), INVALID);
    let user = user.with_tokens(&user.refresh().await.expect(200));
    user.refresh().await.expect(200);
    app.client().login(&user.credentials.0, "another horse").await;
    assert!(log_of(&user).await.contains(&"password_set".to_owned()));
}

#[actix_web::test]
async fn whoever_holds_a_token_guesses_no_more_passwords_than_at_the_door() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let set = json!({ "oldPassword": "wrong horse", "newPassword": "another horse" });
    for _ in 0..3 {
        let reply = user.post("/api/v1/auth/set-password", set.clone()).await;
        assert_eq!(refusal(&reply), (422, "PASSWORD_WRONG"));
    }
    let delete = user.request(Method::DELETE, "/api/v1/users/me").json(&json!({ "password": "wrong horse" }));
    assert_eq!(refusal(&user.send(delete).await), (422, "PASSWORD_WRONG"));
    let login = json!({ "phone": user.credentials.0, "password": "wrong horse" });
    assert_eq!(refusal(&app.client().post("/api/v1/auth/login", login).await), (401, "INVALID_CREDENTIALS"));
    let locked = user.post("/api/v1/auth/set-password", set).await;
    assert_eq!(refusal(&locked), (429, "LOGIN_LOCKED"));
    let log = log_of(&user).await;
    let count = |event: &str| log.iter().filter(|entry| *entry == event).count();
    assert_eq!((count("sign_in_failed"), count("sign_in_locked")), (5, 1), "{log:?}");
}

#[actix_web::test]
async fn a_ban_ends_sessions_and_sockets_at_once_and_a_role_counts_from_the_next_refresh() {
    let app = TestApp::start().await;
    let other = app.second_replica().await;
    let admin = app.admin().await;
    let user = app.register_user().await;
    let path = format!("/api/v1/admin/users/{}", user.id);
    admin.patch(&path, json!({ "role": "support" })).await.expect(200);
    assert_eq!(user.get("/api/v1/admin/users").await.status, 403, "its token still says user");
    let user = user.with_tokens(&user.refresh().await.expect(200));
    user.get("/api/v1/admin/users").await.expect(200);
    let mut socket = Socket::open(&user.at(&other.url)).await;
    admin.patch(&path, json!({ "banned": true })).await.expect(200);
    assert_eq!(refusal(&user.refresh().await), (403, "USER_BANNED"));
    assert_eq!(close_code(&mut socket).await, Some(4001));
    admin.patch(&path, json!({ "banned": false })).await.expect(200);
    // what the ban has closed stays closed
    assert_eq!(refusal(&user.refresh().await), INVALID);
    let again = device(&user).await;
    let log = log_of(&again).await;
    for event in ["role_changed", "banned", "unbanned", "signed_in", "registered"] {
        assert!(log.contains(&event.to_owned()), "{event}: {log:?}");
    }
    let own = again.get("/api/v1/users/me/security-log?limit=100").await.expect(200);
    let all = format!("/api/v1/admin/security-log?userId={}&limit=100", user.id);
    let all = admin.get(&all).await.expect(200);
    assert_eq!(all["items"].as_array().unwrap().len(), own["items"].as_array().unwrap().len());
    for entry in all["items"].as_array().unwrap() {
        assert_eq!(entry["userId"], json!(user.id));
    }
    assert_eq!(user.get("/api/v1/admin/security-log").await.status, 200, "support reads it");
}

#[actix_web::test]
async fn a_redis_that_goes_back_revives_nobody() {
    let app = TestApp::start().await;
    let (user, everywhere) = (app.register_user().await, app.register_user().await);
    let setting = app.register_user().await;
    let other = device(&setting).await;
    let mut redis = app.redis_connection().await;
    let key = |user: &Client| format!("{}refresh:{}", app.redis_prefix, user.id);
    let mut before = Vec::new();
    for user in [&user, &everywhere, &setting] {
        let all: Vec<(String, String)> = redis.hgetall(key(user)).await.unwrap();
        before.push((key(user), all));
    }
    logout(&user, json!({})).await;
    logout(&everywhere, json!({ "everywhere": true })).await;
    let password = json!({ "oldPassword": setting.credentials.1, "newPassword": "another horse" });
    assert_eq!(setting.post("/api/v1/auth/set-password", password).await.status, 204);
    for (key, all) in before {
        redis.hset_multiple::<_, _, _, ()>(key, &all).await.unwrap();
    }
    for user in [&user, &everywhere] {
        assert_eq!(refusal(&user.refresh().await), INVALID);
        let list = user.get("/api/v1/auth/sessions").await.expect(200);
        assert_eq!(list["items"], json!([]));
    }
    // not even the session that set the password: what Redis says of it is as old
    for device in [&setting, &other] {
        assert_eq!(refusal(&device.refresh().await), INVALID);
    }
}

#[actix_web::test]
async fn a_redis_that_is_emptied_signs_everybody_out_and_loses_nothing_else() {
    let app = TestApp::builder().own_redis().start().await;
    let user = app.register_user().await;
    app.grant(&user, 5).await;
    let mut redis = app.redis_connection().await;
    redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await.unwrap();
    assert_eq!(refusal(&user.refresh().await), INVALID);
    let again = device(&user).await;
    assert_eq!(again.get("/api/v1/users/me").await.expect(200)["quotaRemaining"], json!(5));
    again.refresh().await.expect(200);
}

#[actix_web::test]
async fn without_redis_nobody_signs_in_and_tokens_go_on() {
    let app = TestApp::builder().own_redis().start().await;
    let user = app.register_user().await;
    app.redis.with(|redis| redis.stop()).await;
    let phone = crate::support::new_phone();
    let password = json!({ "phone": user.credentials.0, "password": user.credentials.1 });
    for (path, body) in [
        ("/api/v1/auth/login", password),
        ("/api/v1/auth/register", json!({ "phone": phone, "password": "correct horse" })),
        ("/api/v1/auth/refresh", json!({ "refreshToken": user.refresh_token })),
        ("/api/v1/auth/logout", json!({ "refreshToken": user.refresh_token })),
    ] {
        let reply = app.client().post(path, body).await;
        assert_eq!((reply.status, reply.code()), (503, "UNAVAILABLE"), "{path}: {reply:?}");
        assert!(!reply.header("retry-after").is_empty(), "{path}");
    }
    assert_eq!(user.get("/api/v1/users/me").await.status, 200);
    app.redis.with(|redis| redis.start_again().unwrap()).await;
    assert_eq!(app.count(&format!("select count(*) from users where phone = '{phone}'")).await, 0);
    // what met a 503 works when repeated, without a restart
    let reply = crate::support::eventually("Redis is heard again", async || {
        let reply = user.refresh().await;
        (reply.status != 503).then_some(reply)
    })
    .await;
    // its sessions are kept or gone, as Redis was stopped with or without its data
    assert!([200, 401].contains(&reply.status), "{reply:?}");
    let again = device(&user).await;
    again.refresh().await.expect(200);
}

#[actix_web::test]
async fn a_refresh_that_met_a_postgres_without_answer_works_when_repeated() {
    let app = TestApp::builder().own_postgres().start().await;
    let user = app.register_user().await;
    app.postgres.with(|postgres| postgres.stop()).await;
    let reply = user.refresh().await;
    assert_eq!((reply.status, reply.code()), (503, "UNAVAILABLE"));
    app.postgres.with(|postgres| postgres.start_again().unwrap()).await;
    crate::support::wait_until("PostgreSQL is back", Duration::from_secs(30), async || {
        (user.refresh().await.status == 200).then_some(())
    })
    .await;
}

#[actix_web::test]
async fn a_refresh_asks_nothing_of_postgres_once_its_token_is_used_up() {
    let app = TestApp::builder()
        .own_postgres()
        .own_redis()
        .env("GREENROOM__LIMITS__REQUESTS_PER_MINUTE", 0)
        .start()
        .await;
    let user = app.register_user().await;
    let mut redis = app.redis_connection().await;
    redis::cmd("CLIENT").arg("PAUSE").arg(60_000).arg("WRITE").exec_async(&mut redis).await.unwrap();
    let outage = async {
        let mut redis = redis.clone();
        crate::support::eventually("the rotation waits for Redis", async || {
            let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut redis).await.unwrap();
            clients.lines().any(|it| it.contains("flags=b") && it.contains("cmd=evalsha")).then_some(())
        })
        .await;
        app.postgres.with(|postgres| postgres.stop()).await;
        redis::cmd("CLIENT").arg("UNPAUSE").exec_async(&mut redis).await.unwrap();
    };
    let (reply, ()) = futures_util::join!(user.refresh(), outage);
    let tokens = reply.expect(200);
    app.postgres.with(|postgres| postgres.start_again().unwrap()).await;
    crate::support::eventually("its successor is good", async || {
        (user.with_tokens(&tokens).refresh().await.status == 200).then_some(())
    })
    .await;
}

#[actix_web::test]
async fn a_replica_that_dies_between_a_rotation_and_its_answer_costs_nobody_the_session() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    // the actor dies when the token is used up; asked again, it says the same successor
    app.client().send(app.client().request(reqwest::Method::POST, "/faults/session.rotated")).await;
    let next = user.with_tokens(&user.refresh().await.expect(200));
    next.refresh().await.expect(200);
}
