//! Messages sent to a stand-in that speaks the cloud's wire format and checks the signature of what it got.

use super::super::{
    address_guard::AddressGuard,
    tencent::{SignedParts, authorization},
    testing::{Log, Server, answer, nobody, ok, silent},
};
use super::*;
use chrono::{DateTime, Utc};
use greenroom_actors::clock::SystemClock;
use serde_json::{Value, json};

const SECRET_KEY: &str = "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE";
const CODE: &str = "246810";
const DIGITS: &str = "13800138000";
const SOON: Duration = Duration::from_secs(10);

fn sender(endpoint: &str, within: Duration) -> TencentSms {
    let account = SmsAccount {
        endpoint: Url::parse(endpoint).unwrap(),
        region: "ap-guangzhou".to_owned(),
        key: key(),
        sdk_app_id: "1400006666".to_owned(),
        sign_name: "绿房间".to_owned(),
        template_id: "449739".to_owned(),
    };
    let client = Arc::new(OutsideClient::new(AddressGuard::new(true)));
    TencentSms::new(account, client, Arc::new(SystemClock), within)
}

fn key() -> TencentKey {
    TencentKey { id: "AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE".to_owned(), secret: SECRET_KEY.into() }
}

async fn send_to(endpoint: &str) -> Result<(), SmsError> {
    send_within(endpoint, SOON).await
}

async fn send_within(endpoint: &str, within: Duration) -> Result<(), SmsError> {
    let phone = Phone::parse(DIGITS).unwrap();
    sender(endpoint, within).send_code(&phone, &CODE.into(), Duration::from_secs(330)).await
}

/// A stand-in that says `body` to what is signed rightly, and what the cloud says to all else.
async fn cloud(body: Value) -> Server {
    Server::start(move |request, _| match fault_of(request) {
        None => ok(&body),
        Some(code) => ok(&json!({"Response": {"Error": {"Code": code, "Message": "no"}, "RequestId": "r"}})),
    })
    .await
}

fn fault_of(request: &str) -> Option<&'static str> {
    let (head, body) = request.split_once("\r\n\r\n")?;
    let header = |name: &str| {
        let mut found = head.lines().filter_map(|line| line.split_once(": ")).filter(|(key, _)| *key == name);
        let (_, value) = found.next()?;
        found.next().is_none().then_some(value)
    };
    if !head.starts_with("POST / HTTP/1.1\r\n") || header("x-tc-action") != Some("SendSms") {
        return Some("InvalidAction");
    }
    if header("x-tc-version") != Some("2021-01-11") || header("x-tc-region") != Some("ap-guangzhou") {
        return Some("UnsupportedRegion");
    }
    let at = DateTime::from_timestamp(header("x-tc-timestamp")?.parse().unwrap(), 0).unwrap();
    if (SystemClock.now() - at).num_minutes().abs() > 5 {
        return Some("AuthFailure.SignatureExpire");
    }
    let parts = SignedParts {
        service: "sms",
        host: header("host").unwrap_or_default(),
        content_type: header("content-type").unwrap_or_default(),
        body: body.as_bytes(),
        at,
    };
    let right = header("authorization") == Some(&authorization(&key(), &parts));
    (!right).then_some("AuthFailure.SignatureFailure")
}

fn of_numbers(codes: &[&str]) -> Value {
    let status = |code: &&str| {
        json!({
            "SerialNo": "2028:f825e6d16e23f73f4123", "PhoneNumber": "+8613800138000", "Fee": 1,
            "SessionContext": "", "Code": code, "Message": "why, of 13800138000", "IsoCode": "CN",
        })
    };
    let statuses: Vec<_> = codes.iter().map(status).collect();
    json!({"Response": {"SendStatusSet": statuses, "RequestId": "a0aabda6-cf91-4f3e-a81f-9198114a2279"}})
}

fn error(code: &str) -> Value {
    json!({"Response": {"Error": {"Code": code, "Message": "no, 246810"}, "RequestId": "ed93f3cb"}})
}

#[tokio::test]
async fn a_code_is_sent_signed_as_the_cloud_wants_it() {
    let server = cloud(of_numbers(&["Ok"])).await;
    assert_eq!(send_to(&server.url).await, Ok(()));
    let [request] = &server.seen()[..] else { panic!("not one request") };
    let host = server.url.strip_prefix("http://").unwrap();
    assert!(request.contains(&format!("\r\nhost: {host}\r\n")), "{request}");
    let body: Value = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
    let expected = json!({
        "PhoneNumberSet": ["+8613800138000"],
        "SmsSdkAppId": "1400006666",
        "TemplateId": "449739",
        "SignName": "绿房间",
        "TemplateParamSet": ["246810", "5"],
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn the_stand_in_refuses_another_key() {
    let server = cloud(of_numbers(&["Ok"])).await;
    let mut sender = sender(&server.url, SOON);
    sender.account.key.secret = "another".into();
    let sent = sender.send_code(&Phone::parse(DIGITS).unwrap(), &CODE.into(), SOON).await;
    assert_eq!(sent, Err(SmsError::Refused("AuthFailure.SignatureFailure".to_owned())));
}

/// A clock that is six minutes late.
struct LateClock;

impl Clock for LateClock {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now() - chrono::TimeDelta::minutes(6)
    }
}

#[tokio::test]
async fn a_wrong_clock_is_the_clouds_to_refuse() {
    let server = cloud(of_numbers(&["Ok"])).await;
    let mut sender = sender(&server.url, SOON);
    sender.clock = Arc::new(LateClock);
    let sent = sender.send_code(&Phone::parse(DIGITS).unwrap(), &CODE.into(), SOON).await;
    assert_eq!(sent, Err(SmsError::Refused("AuthFailure.SignatureExpire".to_owned())));
}

#[tokio::test]
async fn a_refusal_of_the_number_or_of_the_request_has_its_code() {
    for code in [
        "LimitExceeded.PhoneNumberThirtySecondLimit",
        "LimitExceeded.PhoneNumberOneHourLimit",
        "LimitExceeded.PhoneNumberDailyLimit",
        "LimitExceeded.PhoneNumberSameContentDailyLimit",
        "FailedOperation.PhoneNumberInBlacklist",
        "FailedOperation.TemplateParamSetNotMatchApprovedTemplate",
        "FailedOperation.SignatureIncorrectOrUnapproved",
        "FailedOperation.InsufficientBalanceInSmsPackage",
        "AuthFailure.SecretIdNotFound",
        "RequestLimitExceeded",
    ] {
        for body in [of_numbers(&[code]), of_numbers(&["Ok", code]), error(code)] {
            let server = cloud(body).await;
            assert_eq!(send_to(&server.url).await, Err(SmsError::Refused(code.to_owned())));
            assert_eq!(server.seen().len(), 1, "{code}");
        }
    }
}

#[tokio::test]
async fn an_error_of_the_whole_counts_also_beside_numbers_and_on_other_statuses() {
    let mut both = of_numbers(&["Ok"]);
    both["Response"]["Error"] = json!({"Code": "UnauthorizedOperation"});
    for status in ["200 OK", "403 Forbidden", "503 Service Unavailable"] {
        let body = both.to_string();
        let server = Server::start(move |_, _| answer(status, "", &body)).await;
        let refused = Err(SmsError::Refused("UnauthorizedOperation".to_owned()));
        assert_eq!(send_to(&server.url).await, refused, "{status}");
    }
}

#[tokio::test]
async fn what_the_cloud_does_not_know_itself_may_have_been_sent() {
    for code in ["InternalError", "InternalError.Timeout", "InternalError.SendAndRecvFail"] {
        for body in [of_numbers(&[code]), error(code)] {
            let server = cloud(body).await;
            assert_eq!(send_to(&server.url).await, Err(SmsError::Unknown), "{code}");
            assert_eq!(server.seen().len(), 1, "{code}");
        }
    }
}

#[tokio::test]
async fn what_says_nothing_of_the_message_leaves_it_unknown_and_is_not_repeated() {
    let fine = of_numbers(&["Ok"]).to_string();
    let oversized = "x".repeat(64 * 1024 + 1);
    let endless = [&b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"[..], oversized.as_bytes()].concat();
    let cut = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{fine}", fine.len() + 1);
    for (what, bytes) in [
        ("garbage", answer("200 OK", "", "<html>")),
        ("nothing", answer("200 OK", "", "")),
        ("another shape", ok(&json!({"Response": {"RequestId": "r"}}))),
        ("no response", ok(&json!({"Error": {"Code": "x"}}))),
        ("no numbers", ok(&of_numbers(&[]))),
        ("a code that is no text", ok(&json!({"Response": {"SendStatusSet": [{"Code": 0}]}}))),
        ("a bad gateway", answer("502 Bad Gateway", "", "<html>")),
        ("success with another status", answer("500 Internal Server Error", "", &fine)),
        ("too much, announced", answer("200 OK", "", &oversized)),
        ("too much, unannounced", endless),
        ("half an answer", cut.into_bytes()),
        ("a closed connection", Vec::new()),
    ] {
        let server = Server::start(move |_, _| bytes.clone()).await;
        assert_eq!(send_to(&server.url).await, Err(SmsError::Unknown), "{what}");
        assert_eq!(server.seen().len(), 1, "{what}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = cloud(of_numbers(&["Ok"])).await;
    for status in ["302 Found", "307 Temporary Redirect"] {
        let header = format!("location: {}/\r\n", elsewhere.url);
        let body = error("LimitExceeded").to_string();
        let server = Server::start(move |_, _| answer(status, &header, &body)).await;
        assert_eq!(send_to(&server.url).await, Err(SmsError::Unknown), "{status}");
    }
    assert_eq!(elsewhere.seen().len(), 0);
}

#[tokio::test]
async fn silence_leaves_it_unknown() {
    let (_listener, url) = silent().await;
    assert_eq!(send_within(&url, Duration::from_millis(100)).await, Err(SmsError::Unknown));
}

#[tokio::test]
async fn nobody_there_means_nothing_was_sent() {
    assert_eq!(send_to(&nobody().await).await, Err(SmsError::Unreachable));
}

#[tokio::test]
async fn what_cannot_be_signed_is_not_sent() {
    let server = cloud(of_numbers(&["Ok"])).await;
    let mut sender = sender(&server.url, SOON);
    sender.account.key.id = "two\nlines".to_owned();
    let sent = sender.send_code(&Phone::parse(DIGITS).unwrap(), &CODE.into(), SOON).await;
    assert_eq!((sent, server.seen().len()), (Err(SmsError::Unreachable), 0));
}

#[tokio::test]
async fn a_short_lifetime_is_a_minute() {
    let server = cloud(of_numbers(&["Ok"])).await;
    let phone = Phone::parse(DIGITS).unwrap();
    sender(&server.url, SOON).send_code(&phone, &CODE.into(), Duration::from_secs(20)).await.unwrap();
    assert!(server.seen()[0].contains(r#""TemplateParamSet":["246810","1"]"#));
}

#[tokio::test]
async fn an_operator_reads_why_and_nobody_reads_a_code_a_number_or_a_key() {
    let log = Log::capture();
    let refusals = [
        cloud(error("AuthFailure.SecretIdNotFound")).await,
        cloud(of_numbers(&["FailedOperation.TemplateIncorrectOrUnapproved"])).await,
        cloud(of_numbers(&["LimitExceeded.PhoneNumberDailyLimit"])).await,
        Server::start(|request, _| answer("500 Oh", "", request)).await,
    ];
    for server in &refusals {
        send_to(&server.url).await.unwrap_err();
    }
    let (_listener, url) = silent().await;
    send_within(&url, Duration::from_millis(50)).await.unwrap_err();
    send_to(&nobody().await).await.unwrap_err();

    let text = log.text();
    let level_of =
        |words: &str| text.lines().find(|line| line.contains(words)).map(|line| line.contains(" WARN "));
    for (words, warns) in [
        ("AuthFailure.SecretIdNotFound", true),
        ("FailedOperation.TemplateIncorrectOrUnapproved", true),
        ("LimitExceeded.PhoneNumberDailyLimit", false),
        ("says nothing of our message", true),
        ("did not answer in time", true),
        ("cannot be reached", true),
    ] {
        assert_eq!(level_of(words), Some(warns), "{words} in {text}");
    }
    assert!(text.contains("ed93f3cb"), "the id of the request is for the platform's support: {text}");
    for hidden in [CODE, DIGITS, SECRET_KEY] {
        assert!(!text.contains(hidden), "{hidden} in {text}");
    }
}

#[test]
fn nothing_shows_a_key() {
    let sender = sender(SMS_ADDRESS, SMS_TIME_LIMIT);
    let shown = format!("{sender:?} {:?}", sender.account);
    assert!(shown.contains("1400006666") && !shown.contains(SECRET_KEY), "{shown}");
}
