//! Sign-ins asked of a stand-in that speaks the platform's wire format and checks what it is asked.

use super::super::{
    address_guard::AddressGuard,
    testing::{Log, Server, answer, nobody, silent},
};
use super::*;
use serde_json::{Value, json};

const SECRET: &str = "4f1c9d0f3a7e48b2a6c5d8e7f9012345";
const CODE: &str = "0a3bQ1Ga1kZ9xJ0&=%+x";
const SESSION_KEY: &str = "HyVFkGl5F5OQWJZZaNzBBg==";
const SOON: Duration = Duration::from_secs(10);

fn login(base_url: &str, within: Duration) -> WechatMiniProgram {
    let base_url = Url::parse(base_url).unwrap();
    let program = MiniProgram { base_url, appid: "wx1234567890abcdef".to_owned(), secret: SECRET.into() };
    WechatMiniProgram::new(program, Arc::new(OutsideClient::new(AddressGuard::new(true))), within)
}

async fn ask(base_url: &str) -> Result<WechatUser, WechatError> {
    login(base_url, SOON).exchange(&CODE.into()).await
}

/// A stand-in that says `body` to a right question, and what the platform says to all else.
async fn platform(body: Value) -> Server {
    Server::start(move |request, _| {
        let body = match fault_of(request) {
            None => body.clone(),
            Some(errcode) => json!({"errcode": errcode, "errmsg": "no"}),
        };
        answer("200 OK", "content-type: text/plain\r\n", &body.to_string())
    })
    .await
}

fn fault_of(request: &str) -> Option<i64> {
    let line = request.lines().next().unwrap();
    let Some(path) = line.strip_prefix("GET ").and_then(|line| line.strip_suffix(" HTTP/1.1")) else {
        return Some(43001);
    };
    let url = Url::parse(&format!("http://platform{path}")).unwrap();
    let parameters: Vec<_> = url.query_pairs().collect();
    let value = |name: &str| {
        let mut found = parameters.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_ref());
        found.next().filter(|_| found.next().is_none())
    };
    if url.path() != "/sns/jscode2session" || value("grant_type") != Some("authorization_code") {
        return Some(40002);
    }
    match (value("appid"), value("secret"), value("js_code")) {
        (Some("wx1234567890abcdef"), Some(SECRET), Some(CODE)) => None,
        (Some("wx1234567890abcdef"), Some(SECRET), _) => Some(40029),
        (Some("wx1234567890abcdef"), ..) => Some(40125),
        _ => Some(40013),
    }
}

fn shown(user: &WechatUser) -> (&str, Option<&str>, &str) {
    let unionid = user.unionid.as_ref().map(ExposeSecret::expose_secret);
    (user.openid.expose_secret(), unionid, user.session_key.expose_secret())
}

#[tokio::test]
async fn a_code_names_its_user() {
    let server = platform(json!({"openid": "o6_bm", "session_key": SESSION_KEY, "unionid": "u-1"})).await;
    let user = ask(&server.url).await.unwrap();
    assert_eq!(shown(&user), ("o6_bm", Some("u-1"), SESSION_KEY));
    assert_eq!(server.seen().len(), 1);
    for hidden in ["o6_bm", "u-1", SESSION_KEY] {
        assert!(!format!("{user:?}").contains(hidden));
    }
}

#[tokio::test]
async fn errcode_zero_is_no_error_and_a_union_is_optional() {
    for unionid in [Value::Null, json!("")] {
        let body =
            json!({"errcode": 0, "errmsg": "ok", "openid": "o", "session_key": "k", "unionid": unionid});
        let server = platform(body).await;
        assert_eq!(shown(&ask(&server.url).await.unwrap()), ("o", None, "k"));
    }
}

#[tokio::test]
async fn a_base_address_may_have_a_path() {
    let server = platform(json!({})).await;
    for base in ["", "/", "/proxy", "/proxy/"] {
        let _ = ask(&format!("{}{base}", server.url)).await;
    }
    let paths: Vec<_> =
        server.seen().iter().map(|request| request.split(['?', ' ']).nth(1).unwrap().to_owned()).collect();
    let (plain, proxied) = ("/sns/jscode2session", "/proxy/sns/jscode2session");
    assert_eq!(paths, [plain, plain, proxied, proxied]);
}

#[tokio::test]
async fn every_error_of_the_platform_has_its_meaning() {
    for (errcode, meaning) in [
        (40029, WechatError::CodeInvalid),
        (40163, WechatError::CodeInvalid),
        (45011, WechatError::TooOften),
        (40226, WechatError::Blocked),
        (-1, WechatError::Unavailable),
        (40013, WechatError::Unavailable),
        (40125, WechatError::Unavailable),
        (41008, WechatError::Unavailable),
        (99999, WechatError::Unavailable),
    ] {
        // an error counts also where somebody is named
        let body = json!({"errcode": errcode, "errmsg": "no", "openid": "o", "session_key": "k"});
        let server = platform(body).await;
        assert_eq!(ask(&server.url).await.unwrap_err(), meaning, "{errcode}");
        assert_eq!(server.seen().len(), 1, "{errcode}");
    }
}

#[tokio::test]
async fn what_cannot_be_understood_is_unavailable_and_not_repeated() {
    let fine = json!({"openid": "o", "session_key": "k"}).to_string();
    let oversized = format!("{}{fine}", " ".repeat(64 * 1024));
    let endless = [&b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"[..], oversized.as_bytes()].concat();
    let text = |body: &str| answer("200 OK", "content-type: text/plain\r\n", body);
    for (what, bytes) in [
        ("garbage", text("<html>")),
        ("nothing", text("")),
        ("no user", text("{}")),
        ("errcode 0 without a user", text(r#"{"errcode":0,"errmsg":"ok"}"#)),
        ("an openid with a NUL", text(r#"{"openid":"a\u0000b","session_key":"k"}"#)),
        ("a unionid of two lines", text(r#"{"openid":"o","unionid":"a\nb","session_key":"k"}"#)),
        ("an empty openid", text(r#"{"openid":"","session_key":"k"}"#)),
        ("an empty session key", text(r#"{"openid":"o","session_key":""}"#)),
        ("no session key", text(r#"{"openid":"o"}"#)),
        ("an openid that is no text", text(r#"{"openid":7,"session_key":"k"}"#)),
        ("a user with another status", answer("201 Created", "", &fine)),
        ("an error with another status", answer("500 Oh", "", r#"{"errcode":40029}"#)),
        ("too much, announced", text(&oversized)),
        ("too much, unannounced", endless),
        ("a closed connection", Vec::new()),
    ] {
        let server = Server::start(move |_, _| bytes.clone()).await;
        assert_eq!(ask(&server.url).await.unwrap_err(), WechatError::Unavailable, "{what}");
        assert_eq!(server.seen().len(), 1, "{what}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = platform(json!({"openid": "o", "session_key": "k"})).await;
    let header = format!("location: {}/sns/jscode2session\r\n", elsewhere.url);
    let server = Server::start(move |_, _| answer("302 Found", &header, "")).await;
    assert_eq!(ask(&server.url).await.unwrap_err(), WechatError::Unavailable);
    assert_eq!((server.seen().len(), elsewhere.seen().len()), (1, 0));
}

#[tokio::test]
async fn silence_and_absence_are_unavailable() {
    let (_listener, url) = silent().await;
    let login = login(&url, Duration::from_millis(100));
    assert_eq!(login.exchange(&CODE.into()).await.unwrap_err(), WechatError::Unavailable);
    assert_eq!(ask(&nobody().await).await.unwrap_err(), WechatError::Unavailable);
}

#[tokio::test]
async fn what_is_no_code_is_not_asked_about() {
    let server = platform(json!({"openid": "o", "session_key": "k"})).await;
    for code in ["", "two words", "line\n", "模", &"x".repeat(CODE_BYTES + 1)] {
        let asked = login(&server.url, SOON).exchange(&code.into()).await;
        assert_eq!(asked.unwrap_err(), WechatError::CodeInvalid);
    }
    assert_eq!(server.seen().len(), 0);
}

#[tokio::test]
async fn an_operator_reads_why_and_nobody_reads_a_secret() {
    let log = Log::capture();
    let said = |errcode: i64| {
        let errmsg = format!("invalid appsecret {SECRET} of {CODE}\n, rid: 6250-1");
        platform(json!({"errcode": errcode, "errmsg": errmsg}))
    };
    for server in [said(40125).await, said(40013).await, said(-1).await] {
        ask(&server.url).await.unwrap_err();
    }
    let echo = Server::start(|request, _| answer("200 OK", "", request)).await;
    ask(&echo.url).await.unwrap_err();
    let wrong = format!(r#"{{"openid":"o","session_key":["{SESSION_KEY}"]}}"#);
    let wrong = Server::start(move |_, _| answer("200 OK", "", &wrong)).await;
    ask(&wrong.url).await.unwrap_err();
    let broken = Server::start(|_, _| Vec::new()).await;
    ask(&broken.url).await.unwrap_err();
    let elsewhere = Server::start(|_, _| answer("404 Not Found", "", "")).await;
    ask(&elsewhere.url).await.unwrap_err();
    let (_listener, url) = silent().await;
    let _ = login(&url, Duration::from_millis(50)).exchange(&CODE.into()).await;
    ask(&nobody().await).await.unwrap_err();

    let text = log.text();
    for words in [
        "check gateways.wechat.secret errcode=40125",
        "check gateways.wechat.appid errcode=40013",
        "it is busy errcode=-1",
        "rid: 6250-1",
        "is not JSON as it should be",
        "broke the connection",
        "404 Not Found",
        "did not answer in time",
        "cannot be reached",
    ] {
        let line = text.lines().find(|line| line.contains(words));
        assert!(line.is_some_and(|line| line.contains(" WARN ")), "{words} in {text}");
    }
    for hidden in [SECRET, "0a3bQ1Ga1kZ9xJ0", "js_code", SESSION_KEY] {
        assert!(!text.contains(hidden), "{hidden} in {text}");
    }
}

#[tokio::test]
async fn an_error_in_the_users_hands_warns_nobody() {
    let log = Log::capture();
    for errcode in [40029, 40163, 45011, 40226] {
        let server = platform(json!({"errcode": errcode, "errmsg": "no"})).await;
        ask(&server.url).await.unwrap_err();
    }
    assert!(!log.text().contains(" WARN "), "{}", log.text());
}

#[test]
fn nothing_shows_a_secret() {
    let login = login(WECHAT_ADDRESS, WECHAT_TIME_LIMIT);
    let shown = format!("{login:?} {:?}", login.program);
    assert!(shown.contains("wx1234567890abcdef") && !shown.contains(SECRET), "{shown}");
    for error in [WechatError::Unavailable, WechatError::CodeInvalid, WechatError::Blocked] {
        assert!(!format!("{error:?} {error}").contains(SECRET));
    }
}
