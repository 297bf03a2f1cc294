//! Signing up and in, and who may do what.

use crate::support::{Client, TestApp, eventually, new_phone, servers};
use futures_util::future::join_all;
use greenroom_actors::session::{Role, create_account};
use redis::AsyncCommands;
use reqwest::Method;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

async fn register(client: &Client, body: Value) -> crate::support::Reply {
    client.post("/api/v1/auth/register", body).await
}

#[actix_web::test]
async fn a_registration_signs_in_and_answers_as_the_contract_says() {
    let app = TestApp::start().await;
    let phone = new_phone();
    let body = json!({ "phone": format!("+86{phone}"), "password": "correct horse" });
    let tokens = register(&app.client(), body).await.expect(201);
    assert_eq!((&tokens["tokenType"], &tokens["expiresIn"]), (&json!("Bearer"), &json!(900)));
    assert_eq!(tokens["isNewUser"], json!(true));
    let user = &tokens["user"];
    assert_eq!(user["phone"], json!(format!("{}****{}", &phone[..3], &phone[7..])));
    for (member, value) in [
        ("nickname", json!("")),
        ("avatar", json!(null)),
        ("gender", json!("unknown")),
        ("role", json!("user")),
        ("referrerId", json!(null)),
        ("membership", json!({ "active": false, "planId": null, "expiresAt": null })),
        ("quotaRemaining", json!(0)),
    ] {
        assert_eq!(user[member], value, "{member}");
    }
    let again = app.client().login(&phone, "correct horse").await;
    assert_eq!(again.get("/api/v1/users/me").await.expect(200), *user);
}

#[actix_web::test]
async fn a_phone_registers_once_however_often_it_is_tried_at_once() {
    let app = TestApp::start().await;
    let (client, phone) = (app.client(), new_phone());
    let tries = (0..8).map(|_| register(&client, json!({ "phone": phone, "password": "correct horse" })));
    let replies = join_all(tries).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 1);
    assert!(replies.iter().all(|reply| reply.status == 201 || reply.code() == "PHONE_TAKEN"), "{replies:?}");
}

#[actix_web::test]
async fn what_cannot_be_registered_is_said_by_path() {
    let app = TestApp::start().await;
    let client = app.client();
    let phone = new_phone();
    for (body, status, code, path) in [
        (json!({ "phone": "12", "password": "correct horse" }), 422, "VALIDATION_FAILED", "/phone"),
        (json!({ "phone": phone, "password": "1234567" }), 422, "PASSWORD_WEAK", "/password"),
        (json!({ "phone": phone, "password": "1234567\u{0}8" }), 422, "PASSWORD_WEAK", "/password"),
        (json!({ "phone": phone, "password": "密".repeat(24) }), 422, "PASSWORD_WEAK", "/password"),
        (json!({ "phone": phone, "password": 12_345_678 }), 400, "BAD_REQUEST", "/password"),
        (json!({ "phone": phone }), 400, "BAD_REQUEST", "/password"),
        (
            json!({ "phone": phone, "password": "correct horse", "referrer_id": "nobody" }),
            422,
            "REFERRER_INVALID",
            "/referrer_id",
        ),
        (
            json!({ "phone": phone, "password": "correct horse", "referrer_id": uuid::Uuid::now_v7() }),
            422,
            "REFERRER_INVALID",
            "/referrer_id",
        ),
        (
            json!({ "phone": phone, "password": "correct horse", "inviteCode": "NOBODYS0" }),
            422,
            "INVITE_CODE_INVALID",
            "/inviteCode",
        ),
    ] {
        let reply = register(&client, body.clone()).await;
        let path_said = reply.json["errors"][0]["path"].as_str();
        assert_eq!((reply.status, reply.code(), path_said), (status, code, Some(path)), "{body}");
    }
}

#[actix_web::test]
async fn whoever_brings_a_friend_is_remembered() {
    let app = TestApp::start().await;
    let (host, other) = (app.register_user().await, app.register_user().await);
    let code = host.get("/api/v1/users/me/invite").await.expect(200)["inviteCode"].clone();
    let friend = |body: Value| {
        let mut body = body;
        body["phone"] = json!(new_phone());
        body["password"] = json!("correct horse");
        let client = app.client();
        async move { register(&client, body).await }
    };
    let lower = code.as_str().unwrap().to_lowercase();
    for body in
        [json!({ "inviteCode": lower }), json!({ "referrer_id": host.id }), json!({ "referrerId": host.id })]
    {
        assert_eq!(friend(body).await.expect(201)["user"]["referrerId"], json!(host.id));
    }
    let both = friend(json!({ "inviteCode": code, "referrer_id": host.id })).await;
    assert_eq!(both.status, 201, "{both:?}");
    let torn = friend(json!({ "inviteCode": code, "referrer_id": other.id })).await;
    assert_eq!((torn.status, torn.code()), (422, "REFERRER_INVALID"));
    app.admin()
        .await
        .patch(&format!("/api/v1/admin/users/{}", other.id), json!({ "banned": true }))
        .await
        .expect(200);
    let banned = friend(json!({ "referrer_id": other.id })).await;
    assert_eq!((banned.status, banned.code()), (422, "REFERRER_INVALID"));
    let invite = host.get("/api/v1/users/me/invite").await.expect(200);
    assert_eq!(invite, json!({ "inviteCode": code, "invited": 4 }));
}

#[actix_web::test]
async fn the_fifth_failure_is_still_a_failure_and_the_next_is_locked_out() {
    let app = TestApp::start().await;
    let known = app.register_user().await;
    let (phone, password) = known.credentials.clone();
    for phone in [phone.clone(), new_phone()] {
        let wrong = json!({ "phone": phone, "password": "wrong horse" });
        for _ in 0..5 {
            let reply = app.client().post("/api/v1/auth/login", wrong.clone()).await;
            assert_eq!((reply.status, reply.code()), (401, "INVALID_CREDENTIALS"));
        }
        let reply = app.client().post("/api/v1/auth/login", wrong).await;
        assert_eq!((reply.status, reply.code()), (429, "LOGIN_LOCKED"));
        let retry_after: u64 = reply.header("retry-after").parse().unwrap();
        assert!((800..=900).contains(&retry_after), "{retry_after}");
    }
    let right = json!({ "phone": phone, "password": password });
    assert_eq!(app.client().post("/api/v1/auth/login", right).await.code(), "LOGIN_LOCKED");
}

#[actix_web::test]
async fn what_is_written_down_of_guesses_is_bounded_however_many_there_are() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let (phone, other) = (user.credentials.0.clone(), app.register_user().await);
    let guess = |body: Value| {
        let client = app.client();
        async move { client.post("/api/v1/auth/login", body).await }
    };
    for _ in 0..20 {
        guess(json!({ "phone": phone, "password": "wrong horse" })).await;
        // no code was sent, so none can be guessed
        guess(json!({ "phone": phone, "code": "123456" })).await;
    }
    let log = user.get("/api/v1/users/me/security-log?limit=100").await.expect(200);
    let count =
        |event: &str| log["items"].as_array().unwrap().iter().filter(|entry| entry["event"] == event).count();
    assert_eq!((count("sign_in_failed"), count("sign_in_locked")), (5, 1), "{log}");
    // and nobody else is locked out
    app.client().login(&other.credentials.0, &other.credentials.1).await;
}

#[actix_web::test]
async fn a_thousand_guesses_from_many_addresses_lock_one_phone_and_the_lock_ends_by_itself() {
    let app = TestApp::builder()
        .env("GREENROOM__SERVER__TRUSTED_PROXIES", "127.0.0.1")
        .env("GREENROOM__LIMITS__SIGN_IN_PER_ADDRESS_PER_MINUTE", 30)
        .start()
        .await;
    let other = app.second_replica().await;
    let clients = [app.client(), other.client()];
    let (victim, bystander) = (app.register_user().await, app.register_user().await);
    let (phone, password) = victim.credentials.clone();
    let guess = |number: usize| {
        let client = &clients[number % 2];
        // each from a network of its own
        let address = format!("100.{}.{}.7", 64 + number / 256, number % 256);
        let request = client.request(Method::POST, "/api/v1/auth/login").header("x-forwarded-for", address);
        let request = request.json(&json!({ "phone": phone, "password": format!("wrong horse {number}") }));
        async move {
            let reply = client.send(request).await;
            (reply.status, reply.code().to_owned())
        }
    };
    let mut refusals: BTreeMap<(u16, String), usize> = BTreeMap::new();
    for hundred in 0..10 {
        for refusal in join_all((hundred * 100..(hundred + 1) * 100).map(guess)).await {
            *refusals.entry(refusal).or_default() += 1;
        }
    }
    let invalid = refusals.remove(&(401, "INVALID_CREDENTIALS".to_owned()));
    assert_eq!((invalid, refusals.len()), (Some(5), 1), "{refusals:?}");
    assert!(refusals.contains_key(&(429, "LOGIN_LOCKED".to_owned())), "{refusals:?}");
    let right = json!({ "phone": phone, "password": password });
    for client in &clients {
        let locked = client.post("/api/v1/auth/login", right.clone()).await;
        assert_eq!((locked.status, locked.code()), (429, "LOGIN_LOCKED"));
        client.login(&bystander.credentials.0, &bystander.credentials.1).await;
    }
    // as if its quarter of an hour were nearly over: nobody has to open it
    let mut redis = app.redis_connection().await;
    let key = format!("{}login:{phone}", app.redis_prefix);
    let left: i64 = redis.pttl(&key).await.unwrap();
    assert!((800_000..=900_000).contains(&left), "{left}");
    redis.pexpire::<_, ()>(&key, 20).await.unwrap();
    eventually("the lock ends", async || {
        (clients[1].post("/api/v1/auth/login", right.clone()).await.status == 200).then_some(())
    })
    .await;
}

#[actix_web::test]
async fn a_success_forgets_earlier_failures() {
    let app = TestApp::start().await;
    let (phone, password) = app.register_user().await.credentials;
    for _ in 0..2 {
        for _ in 0..4 {
            let wrong = json!({ "phone": phone, "password": "wrong horse" });
            assert_eq!(app.client().post("/api/v1/auth/login", wrong).await.status, 401);
        }
        app.client().login(&phone, &password).await;
    }
}

#[actix_web::test]
async fn a_hash_is_made_anew_at_the_next_sign_in_when_the_cost_was_raised() {
    let app = TestApp::start().await;
    let (phone, password) = app.register_user().await.credentials;
    let dearer = app.second_replica_with("GREENROOM__AUTH__BCRYPT_COST", 11).await;
    let costs = async |cost: u32| {
        let sql = format!(
            "select count(*) from users where phone = '{phone}' and password_hash like '$2b${cost}$%'"
        );
        app.count(&sql).await == 1
    };
    assert!(costs(10).await);
    let wrong = json!({ "phone": phone, "password": "wrong horse" });
    assert_eq!(dearer.client().post("/api/v1/auth/login", wrong).await.status, 401);
    assert!(costs(10).await);
    dearer.client().login(&phone, &password).await;
    assert!(costs(11).await);
    app.client().login(&phone, &password).await;
    assert!(costs(11).await, "and no cheaper one takes its place");
}

#[actix_web::test]
async fn a_hundred_guesses_at_once_are_no_more_than_five() {
    let app = TestApp::start().await;
    let other = app.second_replica().await;
    let (phone, password) = app.register_user().await.credentials;
    let guess = |number: usize| {
        let client = if number.is_multiple_of(2) { app.client() } else { other.client() };
        let body = json!({ "phone": phone, "password": "wrong horse" });
        async move { client.post("/api/v1/auth/login", body).await.status }
    };
    let statuses = join_all((0..100).map(guess)).await;
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 5, "{statuses:?}");
    assert!(statuses.iter().all(|status| [401, 429, 503].contains(status)), "{statuses:?}");
    let right = json!({ "phone": phone, "password": password });
    assert_eq!(other.client().post("/api/v1/auth/login", right).await.code(), "LOGIN_LOCKED");
}

#[actix_web::test]
async fn the_owner_of_many_devices_signs_in_on_all_of_them_at_once() {
    let app = TestApp::start().await;
    let (phone, password) = app.register_user().await.credentials;
    let client = app.client();
    join_all((0..12).map(|_| client.login(&phone, &password))).await;
}

#[actix_web::test]
async fn without_a_good_token_there_is_a_challenge_and_nothing_else_is_looked_at() {
    let app = TestApp::start().await;
    let mut stranger = app.client();
    for token in [None, Some("nonsense"), Some("a.b.c")] {
        stranger.token = token.map(str::to_owned);
        // a body and an id that are wrong too
        let reply = stranger.patch("/api/v1/users/me", json!({ "nickname": 7 })).await;
        assert_eq!((reply.status, reply.code()), (401, "UNAUTHENTICATED"));
        assert!(reply.header("www-authenticate").starts_with("Bearer"), "{reply:?}");
        assert_eq!(stranger.get("/api/v1/admin/users/not-an-id").await.status, 401);
    }
    let user = app.register_user().await;
    for (reply, action) in [
        (user.get("/api/v1/admin/users/not-an-id").await, "read"),
        (user.post("/api/v1/admin/users/not-an-id/grants", json!([])).await, "write"),
    ] {
        assert_eq!((reply.status, reply.code()), (403, "FORBIDDEN"), "{action}");
    }
}

#[actix_web::test]
async fn support_reads_and_does_not_write_and_a_banned_user_stays_out() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let user = app.register_user().await;
    let path = format!("/api/v1/admin/users/{}", user.id);
    admin.patch(&path, json!({ "role": "support" })).await.expect(200);
    // the old token still says user
    assert_eq!(user.get("/api/v1/admin/users").await.status, 403);
    let support = app.client().login(&user.credentials.0, &user.credentials.1).await;
    let found = support.get(&format!("/api/v1/admin/users?query={}", user.credentials.0)).await.expect(200);
    assert_eq!((&found["items"][0]["id"], &found["items"][0]["role"]), (&json!(user.id), &json!("support")));
    assert_eq!(found["items"][0]["phone"], json!(user.credentials.0), "admins see the whole phone");
    assert_eq!(support.patch(&path, json!({ "role": "admin" })).await.code(), "FORBIDDEN");
    admin.patch(&path, json!({ "banned": true })).await.expect(200);
    let body = json!({ "phone": user.credentials.0, "password": user.credentials.1 });
    let reply = app.client().post("/api/v1/auth/login", body).await;
    assert_eq!((reply.status, reply.code()), (403, "USER_BANNED"));
    let own = format!("/api/v1/admin/users/{}", admin.id);
    assert_eq!(admin.patch(&own, json!({ "banned": true })).await.code(), "CONFLICT");
    let log = admin.get("/api/v1/admin/audit-log").await.expect(200);
    assert_eq!(log["items"][0]["action"], json!("user.access"));
    assert_eq!(log["items"][0]["actorId"], json!(admin.id));
    assert_eq!(log["items"].as_array().unwrap().len(), 2, "refused writes leave nothing: {log}");
}

#[actix_web::test]
async fn the_session_actor_works_again_after_a_panic_and_nothing_is_doubled() {
    let app = TestApp::start().await;
    app.client().send(app.client().request(reqwest::Method::POST, "/faults/session.registered")).await;
    let (client, phone) = (app.client(), new_phone());
    // the account was made when the actor died; asked again, it is recognised
    client.register(&phone, "correct horse").await;
    assert_eq!(app.count(&format!("select count(*) from users where phone = '{phone}'")).await, 1);
    let actors = app.admin().await.get("/api/v1/admin/actors").await.expect(200);
    let session =
        actors["items"].as_array().unwrap().iter().find(|actor| actor["kind"] == "session").unwrap();
    assert_eq!((&session["restarts"], &session["state"]), (&json!(1), &json!("running")));
    assert!(session["lastPanic"].as_str().unwrap().contains("session.registered"), "{session}");
}

#[actix_web::test]
async fn a_profile_is_changed_in_part() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let changed = user.patch("/api/v1/users/me", json!({ "nickname": " 小明 " })).await.expect(200);
    assert_eq!(changed["nickname"], json!("小明"));
    let changed = user.patch("/api/v1/users/me", json!({ "gender": "female" })).await.expect(200);
    assert_eq!((&changed["nickname"], &changed["gender"]), (&json!("小明"), &json!("female")));
    let stranger = app.register_user().await;
    let foreign = stranger.upload("image/png", b"no picture".to_vec()).await;
    for foreign in [uuid::Uuid::now_v7().to_string(), foreign] {
        let reply = user.patch("/api/v1/users/me", json!({ "avatar": foreign })).await;
        assert_eq!((reply.status, &reply.json["errors"][0]["path"]), (422, &json!("/avatar")));
    }
    assert_eq!(user.get("/api/v1/users/me").await.expect(200), changed);
    let own = user.upload("image/png", b"no picture".to_vec()).await;
    let changed = user.patch("/api/v1/users/me", json!({ "avatar": own })).await.expect(200);
    assert_eq!(changed["avatar"], json!(own));
    user.delete(&format!("/api/v1/files/{own}")).await.expect(204);
    assert_eq!(user.get("/api/v1/users/me").await.expect(200)["avatar"], json!(null));
}

#[actix_web::test]
async fn ten_thousand_invite_codes_drawn_by_eight_writers_on_two_replicas_are_all_different() {
    let app = TestApp::start().await;
    let other = app.second_replica().await;
    let admin = app.admin().await;
    let fill = async |at: &str| {
        let run = admin.at(at).post("/api/v1/admin/jobs/fill-invite-codes/run", json!({})).await;
        // or the timetable, or the other replica, is just doing it
        assert!([200, 409].contains(&run.status), "{run:?}");
    };
    fill(&app.service.url).await;
    let pools = [servers::pool(&app.database_url), servers::pool(&app.database_url)];
    let writer = |number: usize| {
        let database = pools[number % 2].clone();
        async move {
            for account in 0..1_250 {
                let phone = format!("13{number}{account:08}");
                // the cheapest hash: it is not what is looked at
                create_account(&database, &phone, "correct horse".into(), Role::User, 4).await.unwrap();
            }
        }
    };
    let drawn = join_all((0..8).map(writer));
    let filled = async {
        loop {
            fill(&app.service.url).await;
            fill(&other.url).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        _ = drawn => {}
        () = filled => unreachable!("it is filled for ever"),
    }
    let users = app.count("select count(*) from users where phone like '13%'").await;
    assert!(users >= 10_000, "{users}");
    assert_eq!(app.count("select count(*) - count(distinct invite_code) from users").await, 0);
    let left = "select count(*) from invite_codes join users on invite_code = code";
    assert_eq!(app.count(left).await, 0, "what is in the pool is nobody's");
}

#[actix_web::test]
async fn an_invitation_gives_to_both_sides_once_with_the_account() {
    let app = TestApp::builder()
        .env("GREENROOM__INVITATIONS__NEWCOMER_QUOTA", 3)
        .env("GREENROOM__INVITATIONS__REFERRER_QUOTA", 5)
        .start()
        .await;
    let host = app.register_user().await;
    assert_eq!(
        host.get("/api/v1/users/me").await.expect(200)["quotaRemaining"],
        json!(0),
        "nobody brought them"
    );
    let mut socket = crate::support::Socket::open(&host).await;
    let phone = new_phone();
    let body = json!({ "phone": phone, "password": "correct horse", "referrer_id": host.id });
    let tries = join_all((0..4).map(|_| register(&host, body.clone()))).await;
    assert_eq!(tries.iter().filter(|reply| reply.status == 201).count(), 1);
    let friend = app.client().login(&phone, "correct horse").await;
    for (user, amount) in [(&friend, 3), (&host, 5)] {
        let grants = user.get("/api/v1/users/me/quota/grants").await.expect(200);
        assert_eq!(grants["items"].as_array().unwrap().len(), 1, "{grants}");
        assert_eq!(
            (&grants["items"][0]["kind"], &grants["items"][0]["amount"]),
            (&json!("gift"), &json!(amount))
        );
        assert_eq!(user.get("/api/v1/users/me").await.expect(200)["quotaRemaining"], json!(amount));
    }
    let told = socket.read_until(|frame| frame["event"] == "quota.changed").await;
    assert_eq!(told.last().unwrap()["data"]["remaining"], json!(5));
    // nobody is new twice
    let deletion = friend.request(reqwest::Method::DELETE, "/api/v1/users/me");
    let gone = friend.send(deletion.json(&json!({ "password": "correct horse" }))).await;
    assert_eq!(gone.status, 204);
    let again = register(&host, body).await.expect(201);
    assert_eq!(again["user"]["quotaRemaining"], json!(0));
    assert_eq!(again["user"]["referrerId"], json!(host.id));
    assert_eq!(host.get("/api/v1/users/me").await.expect(200)["quotaRemaining"], json!(5));
}

#[actix_web::test]
async fn who_may_do_what_is_known_without_a_question_to_postgres() {
    let app = TestApp::builder().own_postgres().start().await;
    let (admin, user) = (app.admin().await, app.register_user().await);
    app.postgres.with(|postgres| postgres.stop()).await;
    // with PostgreSQL away the role is still known, and so is a body that does not fit
    for (client, status) in [(&admin, 400), (&user, 403), (&app.client(), 401)] {
        assert_eq!(client.post("/api/v1/admin/plans", json!({ "name": 7 })).await.status, status);
    }
    app.postgres.with(|postgres| postgres.start_again().unwrap()).await;
}
