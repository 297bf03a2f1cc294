//! The ways in beside a password: codes that are sent to phones, and the mini-program.

use crate::support::{Client, FakeSms, FakeWechat, Misbehaviour, Reply, TestApp, eventually, new_phone};
use futures_util::future::join_all;
use redis::AsyncCommands;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A service that sends codes by a stand-in.
async fn with_codes(requires_code: bool) -> (TestApp, FakeSms) {
    let sms = FakeSms::start().await;
    let mut builder = TestApp::builder()
        .env("GREENROOM__AUTH__REGISTER_REQUIRES_CODE", requires_code)
        // so that a phone's own limit is told in its place
        .env("GREENROOM__LIMITS__REQUESTS_PER_MINUTE", 1_000);
    for (name, value) in sms.environment() {
        builder = builder.env(name, value);
    }
    (builder.start().await, sms)
}

async fn with_wechat() -> (TestApp, FakeWechat) {
    let wechat = FakeWechat::start().await;
    let mut builder = TestApp::builder();
    for (name, value) in wechat.environment() {
        builder = builder.env(name, value);
    }
    (builder.start().await, wechat)
}

async fn ask(client: &Client, phone: &str, scene: &str) -> Reply {
    client.post("/api/v1/auth/send-code", json!({ "phone": phone, "scene": scene })).await
}

/// The code that was sent.
async fn code(client: &Client, sms: &FakeSms, phone: &str, scene: &str) -> String {
    let sent = ask(client, phone, scene).await.expect(202);
    assert_eq!(sent, json!({ "expiresIn": 300, "retryAfter": 60 }));
    sms.code_of(phone).unwrap()
}

async fn login(client: &Client, phone: &str, code: &str) -> Reply {
    client.post("/api/v1/auth/login", json!({ "phone": phone, "code": code })).await
}

fn wrong(code: &str) -> String {
    format!("{:06}", (code.parse::<u32>().unwrap() + 1) % 1_000_000)
}

fn refusal(reply: &Reply) -> (u16, &str) {
    (reply.status, reply.code())
}

#[actix_web::test]
async fn a_code_signs_a_new_phone_up_and_a_known_one_in() {
    let (app, sms) = with_codes(true).await;
    let (client, phone) = (app.client(), new_phone());
    let first = login(&client, &phone, &code(&client, &sms, &phone, "login").await).await.expect(200);
    assert_eq!(first["isNewUser"], json!(true));
    // asked for again at once there is none, whatever it is for
    let early = ask(&client, &phone, "register").await;
    assert_eq!(refusal(&early), (429, "RATE_LIMITED"));
    let wait: u64 = early.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    later(&app, &phone).await;
    let again = login(&client, &phone, &code(&client, &sms, &phone, "login").await).await.expect(200);
    assert_eq!(again["isNewUser"], json!(false));
    assert_eq!(again["user"]["id"], first["user"]["id"]);
    assert_eq!(sms.sent()[0].code.len(), 6);
    assert!(sms.sent()[0].code.bytes().all(|digit| digit.is_ascii_digit()));
}

/// As if a minute had passed since the last code for `phone`.
async fn later(app: &TestApp, phone: &str) {
    let mut redis = app.redis_connection().await;
    let key = format!("{}codes_sent:{phone}", app.redis_prefix);
    redis::cmd("HDEL").arg(key).arg("last").query_async::<()>(&mut redis).await.unwrap();
}

#[actix_web::test]
async fn a_code_is_good_once_for_what_it_was_asked_for_and_for_five_tries() {
    let (app, sms) = with_codes(true).await;
    let client = app.client();
    // not for another scene
    let phone = new_phone();
    let sent = code(&client, &sms, &phone, "register").await;
    assert_eq!(refusal(&login(&client, &phone, &sent).await), (401, "INVALID_CREDENTIALS"));
    // once
    let phone = new_phone();
    let sent = code(&client, &sms, &phone, "login").await;
    login(&client, &phone, &sent).await.expect(200);
    assert_eq!(refusal(&login(&client, &phone, &sent).await), (401, "INVALID_CREDENTIALS"));
    // at most five tries
    let phone = new_phone();
    let sent = code(&client, &sms, &phone, "login").await;
    for _ in 0..5 {
        assert_eq!(refusal(&login(&client, &phone, &wrong(&sent)).await), (401, "INVALID_CREDENTIALS"));
    }
    assert_eq!(refusal(&login(&client, &phone, &sent).await), (401, "INVALID_CREDENTIALS"));
    // and four failures leave one
    let phone = new_phone();
    let sent = code(&client, &sms, &phone, "login").await;
    for _ in 0..4 {
        login(&client, &phone, &wrong(&sent)).await;
    }
    login(&client, &phone, &sent).await.expect(200);
}

#[actix_web::test]
async fn what_lies_in_redis_of_identity_ends_by_itself_and_tells_no_secret() {
    let (app, sms) = with_codes(false).await;
    let (client, user, phone) = (app.client(), app.register_user().await, new_phone());
    let sent = code(&client, &sms, &phone, "login").await;
    let wrong = json!({ "phone": phone, "password": "wrong horse" });
    assert_eq!(client.post("/api/v1/auth/login", wrong).await.status, 401);
    let mut redis = app.redis_connection().await;
    const MINUTE: i64 = 60_000;
    for (key, most) in [
        (format!("code:login:{phone}"), 5 * MINUTE),
        (format!("codes_sent:{phone}"), 24 * 60 * MINUTE),
        (format!("login:{phone}"), 15 * MINUTE),
        (format!("refresh:{}", user.id), 7 * 24 * 60 * MINUTE),
    ] {
        let name = format!("{}{key}", app.redis_prefix);
        let left: i64 = redis.pttl(&name).await.unwrap();
        assert!((most - MINUTE..=most).contains(&left), "{key} ends in {left} ms");
        let fields: Vec<(String, String)> = redis.hgetall(&name).await.unwrap();
        assert!(!fields.is_empty(), "{key}");
        for secret in [&sent, "wrong horse", &user.credentials.1, &user.refresh_token] {
            assert!(fields.iter().all(|(_, value)| !value.contains(secret)), "{key}: {fields:?}");
        }
    }
}

#[actix_web::test]
async fn a_code_that_many_show_at_once_lets_one_of_them_in() {
    let (app, sms) = with_codes(true).await;
    let other = app.second_replica().await;
    let phone = new_phone();
    let sent = code(&app.client(), &sms, &phone, "login").await;
    let clients = [app.client(), other.client()];
    let replies = join_all((0..20).map(|number| login(&clients[number % 2], &phone, &sent))).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 1, "{replies:?}");
    assert_eq!(app.count(&format!("select count(*) from users where phone = '{phone}'")).await, 1);
}

#[actix_web::test]
async fn a_registration_brings_its_code_where_one_is_demanded() {
    let (app, sms) = with_codes(true).await;
    let (client, phone) = (app.client(), new_phone());
    let register = |code: Option<String>| {
        let body = json!({ "phone": phone, "password": "correct horse", "code": code });
        let client = client.clone();
        async move { client.post("/api/v1/auth/register", body).await }
    };
    let sent = code(&client, &sms, &phone, "register").await;
    for bad in [None, Some(wrong(&sent)), Some(String::new())] {
        let reply = register(bad).await;
        assert_eq!(refusal(&reply), (422, "CODE_INVALID"));
        assert_eq!(reply.json["errors"][0]["path"], json!("/code"));
    }
    register(Some(sent)).await.expect(201);
    client.login(&phone, "correct horse").await;
}

#[actix_web::test]
async fn two_hundred_registrations_of_one_phone_at_once_make_one_user() {
    let app = TestApp::builder().env("GREENROOM__AUTH__BCRYPT_COST", 10).start().await;
    let other = app.second_replica().await;
    let phone = new_phone();
    let clients = [app.client(), other.client()];
    let body = json!({ "phone": phone, "password": "correct horse" });
    let tries = (0..200).map(|number| clients[number % 2].post("/api/v1/auth/register", body.clone()));
    let replies = join_all(tries).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 1);
    // those that found no thread to hash on were told to come again
    assert!(replies.iter().all(|reply| [201, 409, 503].contains(&reply.status)), "{replies:?}");
    assert_eq!(app.count(&format!("select count(*) from users where phone = '{phone}'")).await, 1);
    clients[1].login(&phone, "correct horse").await;
}

#[actix_web::test]
async fn a_forgotten_password_is_set_anew_and_everybody_is_out() {
    let (app, sms) = with_codes(false).await;
    let user = app.register_user().await;
    let (phone, stranger) = (user.credentials.0.clone(), app.client());
    let reset = |code: String, password: &str| {
        let body = json!({ "phone": phone, "code": code, "newPassword": password });
        let stranger = stranger.clone();
        async move { stranger.post("/api/v1/auth/reset-password", body).await }
    };
    for _ in 0..6 {
        let body = json!({ "phone": phone, "password": "wrong horse" });
        stranger.post("/api/v1/auth/login", body).await;
    }
    let sent = code(&stranger, &sms, &phone, "reset_password").await;
    // the new password is looked at before the code is spent
    let weak = reset(sent.clone(), "short").await;
    assert_eq!(refusal(&weak), (422, "PASSWORD_WEAK"));
    assert_eq!(weak.json["errors"][0]["path"], json!("/newPassword"));
    assert_eq!(refusal(&reset(wrong(&sent), "another horse").await), (422, "CODE_INVALID"));
    let mut redis = app.redis_connection().await;
    let key = format!("{}refresh:{}", app.redis_prefix, user.id);
    let before: Vec<(String, String)> = redis.hgetall(&key).await.unwrap();
    assert_eq!(reset(sent.clone(), "another horse").await.status, 204);
    assert_eq!(refusal(&reset(sent, "a third horse").await), (422, "CODE_INVALID"));
    assert_eq!(refusal(&user.refresh().await), (401, "REFRESH_TOKEN_INVALID"));
    // nor does a Redis that goes back revive anybody
    redis.hset_multiple::<_, _, _, ()>(&key, &before).await.unwrap();
    assert_eq!(refusal(&user.refresh().await), (401, "REFRESH_TOKEN_INVALID"));
    // and the lock of the old password is open
    stranger.login(&phone, "another horse").await;
    // a phone that nobody has is answered alike
    let nobody = new_phone();
    let sent = code(&stranger, &sms, &nobody, "reset_password").await;
    let body = json!({ "phone": nobody, "code": sent, "newPassword": "another horse" });
    assert_eq!(refusal(&stranger.post("/api/v1/auth/reset-password", body).await), (422, "CODE_INVALID"));
}

#[actix_web::test]
async fn a_phone_gets_ten_codes_a_day() {
    let (app, sms) = with_codes(true).await;
    let (client, phone) = (app.client(), new_phone());
    for _ in 0..10 {
        ask(&client, &phone, "login").await.expect(202);
        later(&app, &phone).await;
    }
    let reply = ask(&client, &phone, "login").await;
    assert_eq!(refusal(&reply), (429, "RATE_LIMITED"));
    assert!(reply.header("retry-after").parse::<u64>().unwrap() > 80_000);
    assert_eq!((reply.header("ratelimit-limit"), reply.header("ratelimit-remaining")), ("10", "0"));
    assert_eq!(reply.header("ratelimit-reset"), reply.header("retry-after"));
    assert_eq!(sms.sent().len(), 10);
    let other = new_phone();
    ask(&client, &other, "login").await.expect(202);
    assert_eq!(ask(&client, &other, "login").await.header("ratelimit-limit"), "1", "one a minute");
}

#[actix_web::test]
async fn a_message_service_that_refuses_is_said_so() {
    let (app, sms) = with_codes(true).await;
    let client = app.client();
    sms.refuse_all("LimitExceeded.PhoneNumberDailyLimit");
    assert_eq!(refusal(&ask(&client, &new_phone(), "login").await), (502, "SMS_UNAVAILABLE"));
    sms.refuse_nothing();
    ask(&client, &new_phone(), "login").await.expect(202);
    for (body, status) in [
        (json!({ "phone": "12", "scene": "login" }), 422),
        (json!({ "phone": new_phone(), "scene": "nonsense" }), 400),
        (json!({ "phone": new_phone() }), 400),
    ] {
        assert_eq!(client.post("/api/v1/auth/send-code", body.clone()).await.status, status, "{body}");
    }
    let phone = new_phone();
    sms.refuse_phone(&phone, "FailedOperation.PhoneNumberInBlacklist");
    assert_eq!(refusal(&ask(&client, &phone, "login").await), (502, "SMS_UNAVAILABLE"));
    assert_eq!(sms.code_of(&phone), None);
    // where none is set up nothing is sent
    let without = TestApp::start().await;
    assert_eq!(refusal(&ask(&without.client(), &new_phone(), "login").await), (502, "SMS_UNAVAILABLE"));
}

#[actix_web::test]
async fn a_message_of_which_nothing_is_known_may_have_been_sent() {
    let (app, sms) = with_codes(true).await;
    let client = app.client();
    for how in Misbehaviour::ALL {
        let phone = new_phone();
        sms.misbehave_once(how);
        assert_eq!(refusal(&ask(&client, &phone, "login").await), (502, "SMS_UNAVAILABLE"), "{how:?}");
        // it counts, and was sent once
        assert_eq!(refusal(&ask(&client, &phone, "login").await), (429, "RATE_LIMITED"), "{how:?}");
        let sent: Vec<_> = sms.sent().into_iter().filter(|sent| sent.phone == phone).collect();
        assert_eq!(sent.len(), 1, "{how:?}");
        login(&client, &phone, &sent[0].code).await.expect(200);
    }
}

#[actix_web::test]
async fn a_message_that_was_certainly_not_sent_may_be_asked_for_again() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (app, sms) = with_codes(true).await;
    let name = "GREENROOM__GATEWAYS__SMS__ENDPOINT";
    let cut_off = app.second_replica_with(name, format!("http://{nobody}")).await;
    let phone = new_phone();
    let reply = ask(&cut_off.client(), &phone, "login").await;
    assert_eq!(refusal(&reply), (502, "SMS_UNAVAILABLE"));
    let code = code(&app.client(), &sms, &phone, "login").await;
    login(&app.client(), &phone, &code).await.expect(200);
}

#[actix_web::test]
async fn a_code_is_good_still_where_nothing_was_done_with_it() {
    let sms = FakeSms::start().await;
    let mut builder = TestApp::builder().own_postgres().env("GREENROOM__AUTH__REGISTER_REQUIRES_CODE", true);
    for (name, value) in sms.environment() {
        builder = builder.env(name, value);
    }
    let app = builder.start().await;
    let (client, phone) = (app.client(), new_phone());
    let sent = code(&client, &sms, &phone, "register").await;
    let body = json!({ "phone": phone, "password": "correct horse", "code": sent });
    app.postgres.with(|postgres| postgres.stop()).await;
    let reply = client.post("/api/v1/auth/register", body.clone()).await;
    assert_eq!(refusal(&reply), (503, "UNAVAILABLE"));
    app.postgres.with(|postgres| postgres.start_again().unwrap()).await;
    eventually("PostgreSQL is back", async || {
        let reply = client.post("/api/v1/auth/register", body.clone()).await;
        assert!([201, 503].contains(&reply.status), "{reply:?}");
        (reply.status == 201).then_some(())
    })
    .await;
    // and was good once
    assert_eq!(refusal(&client.post("/api/v1/auth/register", body).await), (422, "CODE_INVALID"));
}

#[actix_web::test]
async fn another_phone_is_taken_with_its_own_code() {
    let (app, sms) = with_codes(false).await;
    let (user, other) = (app.register_user().await, app.register_user().await);
    let change = |phone: String, code: String| {
        let user = user.clone();
        async move { user.post("/api/v1/users/me/phone", json!({ "phone": phone, "code": code })).await }
    };
    let phone = new_phone();
    let sent = code(&user, &sms, &phone, "register").await;
    assert_eq!(refusal(&change(phone.clone(), wrong(&sent)).await), (422, "CODE_INVALID"));
    let changed = change(phone.clone(), sent).await.expect(200);
    assert_eq!(changed["phone"], json!(format!("{}****{}", &phone[..3], &phone[7..])));
    app.client().login(&phone, &user.credentials.1).await;
    let taken = other.credentials.0.clone();
    let sent = code(&user, &sms, &taken, "login").await;
    assert_eq!(refusal(&change(taken, sent).await), (409, "PHONE_TAKEN"));
    // an account without a password is deleted by a code
    let phone = new_phone();
    let tokens = login(&user, &phone, &code(&user, &sms, &phone, "login").await).await.expect(200);
    let guest = user.with_tokens(&tokens);
    later(&app, &phone).await;
    let body = json!({ "code": code(&user, &sms, &phone, "login").await });
    let deleted = guest.send(guest.request(reqwest::Method::DELETE, "/api/v1/users/me").json(&body)).await;
    assert_eq!(deleted.status, 204);
}

async fn wechat_login(client: &Client, body: Value) -> Reply {
    client.post("/api/v1/auth/wechat-login", body).await
}

#[actix_web::test]
async fn the_mini_program_signs_a_new_user_up_and_a_known_one_in() {
    let (app, wechat) = with_wechat().await;
    let (client, host) = (app.client(), app.register_user().await);
    wechat.user("one", "openid-a");
    let first = wechat_login(&client, json!({ "code": "one", "referrer_id": host.id })).await.expect(200);
    assert_eq!((&first["isNewUser"], &first["user"]["phone"]), (&json!(true), &json!(null)));
    assert_eq!(first["user"]["referrerId"], json!(host.id));
    wechat.user("two", "openid-a");
    let again = wechat_login(&client, json!({ "code": "two" })).await.expect(200);
    assert_eq!((&again["isNewUser"], &again["user"]["id"]), (&json!(false), &first["user"]["id"]));
    // a known unionid with a new openid finds its user
    wechat.user_of_union("three", "openid-b", "union-b");
    let union = wechat_login(&client, json!({ "code": "three" })).await.expect(200);
    wechat.user_of_union("four", "openid-c", "union-b");
    let found = wechat_login(&client, json!({ "code": "four" })).await.expect(200);
    assert_eq!(found["user"]["id"], union["user"]["id"]);
    // what opens their data lies sealed
    let sql = app.sql().await;
    let rows =
        sql.query("select wechat_session_key from users where wechat_openid is not null", &[]).await.unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!(row.get::<_, Vec<u8>>(0)[0], 1, "the form of sealed bytes");
    }
}

#[actix_web::test]
async fn whoever_comes_again_by_the_mini_program_is_given_nothing_more() {
    let wechat = FakeWechat::start().await;
    let mut builder = TestApp::builder().env("GREENROOM__INVITATIONS__REFERRER_QUOTA", 5);
    for (name, value) in wechat.environment() {
        builder = builder.env(name, value);
    }
    let app = builder.start().await;
    let (client, host) = (app.client(), app.register_user().await);
    for (code, openid) in [("one", "openid-a"), ("two", "openid-b"), ("three", "openid-b")] {
        wechat.user_of_union(code, openid, "union-a");
        let tokens = wechat_login(&client, json!({ "code": code, "referrer_id": host.id })).await.expect(200);
        assert_eq!(tokens["isNewUser"], json!(true), "{code}");
        let guest = client.with_tokens(&tokens);
        let password = json!({ "newPassword": "correct horse" });
        assert_eq!(guest.post("/api/v1/auth/set-password", password).await.status, 204);
        let deletion = guest.request(reqwest::Method::DELETE, "/api/v1/users/me");
        let gone = guest.send(deletion.json(&json!({ "password": "correct horse" }))).await;
        assert_eq!(gone.status, 204);
    }
    assert_eq!(host.get("/api/v1/users/me").await.expect(200)["quotaRemaining"], json!(5));
}

#[actix_web::test]
async fn first_sign_ins_of_one_wechat_user_at_once_make_one_account() {
    let (app, wechat) = with_wechat().await;
    let other = app.second_replica().await;
    let clients = [app.client(), other.client()];
    for number in 0..20 {
        wechat.user(&format!("code-{number}"), "openid-a");
    }
    let sign_in =
        |number: usize| wechat_login(&clients[number % 2], json!({ "code": format!("code-{number}") }));
    let replies = join_all((0..20).map(sign_in)).await;
    let users: BTreeSet<String> =
        replies.into_iter().map(|reply| reply.expect(200)["user"]["id"].to_string()).collect();
    assert_eq!(users.len(), 1);
}

#[actix_web::test]
async fn every_refusal_of_wechat_has_its_answer() {
    let (app, wechat) = with_wechat().await;
    let client = app.client();
    for (errcode, status, code) in [
        (40029, 401, "WECHAT_CODE_INVALID"),
        (40163, 401, "WECHAT_CODE_INVALID"),
        (45011, 429, "RATE_LIMITED"),
        (40226, 403, "WECHAT_BLOCKED"),
        (-1, 502, "WECHAT_UNAVAILABLE"),
        (40125, 502, "WECHAT_UNAVAILABLE"),
    ] {
        let shown = format!("code{errcode}");
        wechat.refuse(&shown, errcode);
        let reply = wechat_login(&client, json!({ "code": shown })).await;
        assert_eq!(refusal(&reply), (status, code), "{errcode}");
        let limit = if status == 429 { "100" } else { "" };
        assert_eq!(reply.header("ratelimit-limit"), limit, "{errcode}");
    }
    for (shown, field, value, code) in [
        ("x", "inviteCode", "NOBODYS0", "INVITE_CODE_INVALID"),
        ("y", "referrer_id", "nobody", "REFERRER_INVALID"),
    ] {
        wechat.user(shown, "openid-of-a-newcomer");
        let reply = wechat_login(&client, json!({ "code": shown, field: value })).await;
        assert_eq!(refusal(&reply), (422, code));
    }
    // who brought whom matters to newcomers alone
    wechat.user("first", "openid-known");
    wechat_login(&client, json!({ "code": "first" })).await.expect(200);
    wechat.user("again", "openid-known");
    wechat_login(&client, json!({ "code": "again", "inviteCode": "NOBODYS0" })).await.expect(200);
    let without = TestApp::start().await;
    let reply = wechat_login(&without.client(), json!({ "code": "x" })).await;
    assert_eq!(refusal(&reply), (502, "WECHAT_UNAVAILABLE"));
}

#[actix_web::test]
async fn a_wechat_that_says_nothing_of_use_is_asked_once_and_signs_nobody_up() {
    let (app, wechat) = with_wechat().await;
    let client = app.client();
    for (number, how) in Misbehaviour::ALL.into_iter().enumerate() {
        let (lost, good) = (format!("lost-{number}"), format!("good-{number}"));
        wechat.user(&lost, &format!("openid-{number}"));
        wechat.user(&good, &format!("openid-{number}"));
        wechat.misbehave_once(how);
        let reply = wechat_login(&client, json!({ "code": lost })).await;
        assert_eq!(refusal(&reply), (502, "WECHAT_UNAVAILABLE"), "{how:?}");
        assert_eq!(wechat.asked().iter().filter(|code| **code == lost).count(), 1, "{how:?}");
        let signed_in = wechat_login(&client, json!({ "code": good })).await.expect(200);
        assert_eq!(signed_in["isNewUser"], json!(true), "{how:?}");
    }
}

#[actix_web::test]
async fn an_account_binds_one_wechat_user_who_then_signs_in_to_it() {
    let (app, wechat) = with_wechat().await;
    let (user, other) = (app.register_user().await, app.register_user().await);
    let bind = |client: &Client, code: &str| {
        let (client, body) = (client.clone(), json!({ "code": code }));
        async move { client.post("/api/v1/users/me/wechat", body).await }
    };
    for code in ["one", "two", "three", "four"] {
        wechat.user(code, "openid-a");
    }
    bind(&user, "one").await.expect(200);
    bind(&user, "two").await.expect(200);
    assert_eq!(refusal(&bind(&other, "three").await), (409, "WECHAT_TAKEN"));
    let tokens = wechat_login(&app.client(), json!({ "code": "four" })).await.expect(200);
    assert_eq!(tokens["user"]["id"], json!(user.id));
    assert_eq!(refusal(&bind(&user, "unknown").await), (401, "WECHAT_CODE_INVALID"));
    // another one takes the place of both names of the one before
    wechat.user_of_union("five", "openid-b", "union-b");
    wechat.user("six", "openid-c");
    bind(&user, "five").await.expect(200);
    bind(&user, "six").await.expect(200);
    wechat.user_of_union("seven", "openid-b", "union-b");
    let tokens = wechat_login(&app.client(), json!({ "code": "seven" })).await.expect(200);
    assert_eq!(tokens["isNewUser"], json!(true));
}
