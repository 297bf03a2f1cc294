//! Other people's platforms: WeChat's sign-in and Tencent Cloud's short messages, in their wire formats. They refuse
//! what the real ones refuse, and do what the test says with the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use actix_web::{HttpRequest, HttpResponse, http::header::LOCATION, web};
use chrono::DateTime;
use greenroom_actors::clock::{Clock, SystemClock};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::serving::serve;

const APPID: &str = "wx0123456789abcdef";
const APP_SECRET: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const SECRET_ID: &str = "AKIDofTheTestsAndOfNobodyElse";
const SECRET_KEY: &str = "keyOfTheTestsAndOfNobodyElse";
const REGION: &str = "ap-guangzhou";
const SDK_APP_ID: &str = "1400000001";
const SIGN_NAME: &str = "绿房间";
const TEMPLATE_ID: &str = "100001";

/// What a platform does for once in place of a good answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misbehaviour {
    /// Takes the question and says nothing.
    Silence,
    /// Says what is none of its answers.
    Garbage,
    /// Sends to the same address again, where a good answer waits.
    Redirect,
    /// Says more than anybody wants to read.
    Oversized,
    /// Has a failure of its own.
    Failure,
}

impl Misbehaviour {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Silence, Self::Garbage, Self::Redirect, Self::Oversized, Self::Failure];

    async fn answer(self, request: &HttpRequest) -> HttpResponse {
        match self {
            Self::Silence => std::future::pending().await,
            Self::Garbage => HttpResponse::Ok().body("<html>Welcome!</html>"),
            Self::Redirect => HttpResponse::TemporaryRedirect()
                .insert_header((LOCATION, request.uri().to_string()))
                .finish(),
            Self::Oversized => HttpResponse::Ok().body(vec![b' '; 16 << 20]),
            Self::Failure => HttpResponse::InternalServerError().finish(),
        }
    }
}

/// The WeChat platform with one mini-program. A code it does not know is invalid, and each works once.
#[derive(Clone)]
pub struct FakeWechat {
    state: Arc<Mutex<Wechat>>,
    /// Its origin.
    pub url: String,
}

#[derive(Default)]
struct Wechat {
    answers: BTreeMap<String, Value>,
    used: BTreeSet<String>,
    asked: Vec<String>,
    misbehaviour: Option<Misbehaviour>,
}

impl FakeWechat {
    /// One that knows no code yet.
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(Wechat::default()));
        let url = serve(Arc::clone(&state), || web::to(jscode2session)).await;
        Self { state, url }
    }

    /// The variables of a service that uses it, for `env` of a test's app.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("GREENROOM__GATEWAYS__WECHAT__BASE_URL", self.url.clone()),
            ("WECHAT_APPID", APPID.to_owned()),
            ("WECHAT_SECRET", APP_SECRET.to_owned()),
        ]
    }

    /// From now on `code` is one that the user `openid` got.
    pub fn user(&self, code: &str, openid: &str) {
        self.answer(code, json!({"openid": openid, "session_key": "HyVFkGl5F5OQWJZZaNzBBg=="}));
    }

    /// As [`Self::user`], of a user whom the owner's other applications know as `unionid`.
    pub fn user_of_union(&self, code: &str, openid: &str, unionid: &str) {
        let session_key = "HyVFkGl5F5OQWJZZaNzBBg==";
        self.answer(code, json!({"openid": openid, "unionid": unionid, "session_key": session_key}));
    }

    /// From now on `code` is answered with an error.
    pub fn refuse(&self, code: &str, errcode: i64) {
        self.answer(code, json!({"errcode": errcode, "errmsg": "refused by the test"}));
    }

    /// Its next answer is none.
    pub fn misbehave_once(&self, how: Misbehaviour) {
        self.state().misbehaviour = Some(how);
    }

    /// The codes it was asked about, in order.
    pub fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    fn answer(&self, code: &str, answer: Value) {
        let mut state = self.state();
        state.used.remove(code);
        state.answers.insert(code.to_owned(), answer);
    }

    fn state(&self) -> MutexGuard<'_, Wechat> {
        self.state.lock().unwrap()
    }
}

async fn jscode2session(
    request: HttpRequest,
    query: web::Query<BTreeMap<String, String>>,
    state: web::Data<Mutex<Wechat>>,
) -> HttpResponse {
    let misbehaviour = state.lock().unwrap().misbehaviour.take();
    let answer = said_of_code(&request, &query, &mut state.lock().unwrap());
    match misbehaviour {
        Some(how) => how.answer(&request).await,
        None => answer,
    }
}

fn said_of_code(request: &HttpRequest, query: &BTreeMap<String, String>, state: &mut Wechat) -> HttpResponse {
    let Wechat { answers, used, asked, .. } = state;
    let given = |name: &str| query.get(name).map_or("", String::as_str);
    let code = given("js_code");
    let errcode = if request.method() != "GET" {
        Some(43001)
    } else if request.path() != "/sns/jscode2session" {
        return HttpResponse::NotFound().finish();
    } else if given("appid") != APPID {
        Some(40013)
    } else if given("secret") != APP_SECRET {
        Some(40125)
    } else if given("grant_type") != "authorization_code" {
        Some(40002)
    } else if code.is_empty() {
        Some(41008)
    } else {
        asked.push(code.to_owned());
        match answers.get(code) {
            None => Some(40029),
            Some(answer) if answer.get("openid").is_none() => answer["errcode"].as_i64(),
            Some(_) if !used.insert(code.to_owned()) => Some(40163),
            Some(_) => None,
        }
    };
    let answer = match errcode {
        Some(errcode) => json!({"errcode": errcode, "errmsg": "no, rid: 1"}),
        None => answers[code].clone(),
    };
    // the platform says that its JSON is text
    HttpResponse::Ok().content_type("text/plain").body(answer.to_string())
}

/// A message that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentSms {
    /// Its phone, eleven digits.
    pub phone: String,
    /// Its code.
    pub code: String,
    /// For how many minutes it says that the code is good.
    pub minutes: String,
}

/// Tencent Cloud's short messages. It refuses what is not signed with its key for its account.
#[derive(Clone)]
pub struct FakeSms {
    state: Arc<Mutex<Sms>>,
    /// Its origin.
    pub url: String,
}

#[derive(Default)]
struct Sms {
    sent: Vec<SentSms>,
    phones: BTreeMap<String, String>,
    error: Option<String>,
    misbehaviour: Option<Misbehaviour>,
}

impl FakeSms {
    /// One that sends everything that is in order.
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(Sms::default()));
        let url = serve(Arc::clone(&state), || web::to(send_sms)).await;
        Self { state, url }
    }

    /// The variables of a service that uses it, for `env` of a test's app.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let set = |name, value: &str| (name, value.to_owned());
        vec![
            set("GREENROOM__GATEWAYS__SMS__ENDPOINT", &self.url),
            set("GREENROOM__GATEWAYS__SMS__REGION", REGION),
            set("GREENROOM__GATEWAYS__SMS__SECRET_ID", SECRET_ID),
            set("GREENROOM__GATEWAYS__SMS__SECRET_KEY", SECRET_KEY),
            set("GREENROOM__GATEWAYS__SMS__SDK_APP_ID", SDK_APP_ID),
            set("GREENROOM__GATEWAYS__SMS__SIGN_NAME", SIGN_NAME),
            set("GREENROOM__GATEWAYS__SMS__TEMPLATE_ID", TEMPLATE_ID),
        ]
    }

    /// From now on messages to `phone` are refused with a code such as `LimitExceeded.PhoneNumberDailyLimit`.
    pub fn refuse_phone(&self, phone: &str, code: &str) {
        self.state().phones.insert(phone.to_owned(), code.to_owned());
    }

    /// From now on every request is refused as a whole, with a code such as `RequestLimitExceeded`.
    pub fn refuse_all(&self, code: &str) {
        self.state().error = Some(code.to_owned());
    }

    /// It sends the next message, and says nothing of it that can be understood.
    pub fn misbehave_once(&self, how: Misbehaviour) {
        self.state().misbehaviour = Some(how);
    }

    /// From now on nothing is refused that is in order.
    pub fn refuse_nothing(&self) {
        let mut state = self.state();
        (state.error, state.phones) = (None, BTreeMap::new());
    }

    /// The messages that were sent, in order.
    pub fn sent(&self) -> Vec<SentSms> {
        self.state().sent.clone()
    }

    /// The newest code of a phone.
    pub fn code_of(&self, phone: &str) -> Option<String> {
        self.state().sent.iter().rfind(|sent| sent.phone == phone).map(|sent| sent.code.clone())
    }

    fn state(&self) -> MutexGuard<'_, Sms> {
        self.state.lock().unwrap()
    }
}

async fn send_sms(request: HttpRequest, body: web::Bytes, state: web::Data<Mutex<Sms>>) -> HttpResponse {
    let misbehaviour = state.lock().unwrap().misbehaviour.take();
    let answer = said_of_message(&request, &body, &mut state.lock().unwrap());
    match misbehaviour {
        Some(how) => how.answer(&request).await,
        None => answer,
    }
}

fn said_of_message(request: &HttpRequest, body: &[u8], state: &mut Sms) -> HttpResponse {
    let message: Value = serde_json::from_slice(body).unwrap_or_default();
    let fault = fault_of(request, body, &message).map(str::to_owned);
    let response = match fault.or_else(|| state.error.clone()) {
        Some(code) => json!({"Error": {"Code": code, "Message": "no"}, "RequestId": "r-1"}),
        None => {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let number = text(&message["PhoneNumberSet"][0]);
            let phone = number.strip_prefix("+86").unwrap_or_default().to_owned();
            let refusal = state.phones.get(&phone).cloned();
            if refusal.is_none() {
                let [code, minutes] = [0, 1].map(|at| text(&message["TemplateParamSet"][at]));
                state.sent.push(SentSms { phone, code, minutes });
            }
            let code = refusal.unwrap_or_else(|| "Ok".to_owned());
            let status = json!({
                "SerialNo": "2028:1", "PhoneNumber": number, "Fee": 1, "SessionContext": "",
                "Code": code, "Message": "", "IsoCode": "CN",
            });
            json!({"SendStatusSet": [status], "RequestId": "r-1"})
        }
    };
    HttpResponse::Ok().json(json!({"Response": response}))
}

/// What the cloud would refuse of a request, as its code.
fn fault_of(request: &HttpRequest, body: &[u8], message: &Value) -> Option<&'static str> {
    let header =
        |name: &str| request.headers().get(name).map_or("", |value| value.to_str().unwrap_or_default());
    if request.method() != "POST" || header("x-tc-action") != "SendSms" {
        return Some("InvalidAction");
    }
    if header("x-tc-version") != "2021-01-11" {
        return Some("NoSuchVersion");
    }
    if header("x-tc-region") != REGION {
        return Some("UnsupportedRegion");
    }
    let timestamp = header("x-tc-timestamp");
    let at = timestamp.parse().ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let Some(at) = at.filter(|at| (SystemClock.now() - at).num_seconds().abs() <= 300) else {
        return Some("AuthFailure.SignatureExpire");
    };
    let expected = signature(
        &at.format("%Y-%m-%d").to_string(),
        timestamp,
        header("content-type"),
        header("host"),
        request.uri().path(),
        body,
    );
    if header("authorization") != expected {
        return Some("AuthFailure.SignatureFailure");
    }
    if message["SmsSdkAppId"] != SDK_APP_ID {
        return Some("UnauthorizedOperation.SmsSdkAppIdVerifyFail");
    }
    if message["SignName"] != SIGN_NAME {
        return Some("FailedOperation.SignatureIncorrectOrUnapproved");
    }
    let parameters = message["TemplateParamSet"].as_array().map_or(0, Vec::len);
    if message["TemplateId"] != TEMPLATE_ID || parameters != 2 {
        return Some("FailedOperation.TemplateIncorrectOrUnapproved");
    }
    let numbers = message["PhoneNumberSet"].as_array().map_or(&[][..], Vec::as_slice);
    match numbers {
        [Value::String(number)] if number.starts_with("+861") && number.len() == 14 => None,
        _ => Some("InvalidParameterValue.IncorrectPhoneNumber"),
    }
}

/// `Authorization` as the cloud computes it from what it got; nothing of the service's own is used.
fn signature(date: &str, timestamp: &str, content_type: &str, host: &str, path: &str, body: &[u8]) -> String {
    let hash = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let mac = |key: &[u8], text: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    let headers = format!("content-type:{content_type}\nhost:{host}\n");
    let canonical = ["POST", path, "", &headers, "content-type;host", &hash(body)].join("\n");
    let scope = format!("{date}/sms/tc3_request");
    let to_sign = ["TC3-HMAC-SHA256", timestamp, &scope, &hash(canonical.as_bytes())].join("\n");
    let start = format!("TC3{SECRET_KEY}").into_bytes();
    let key = [date, "sms", "tc3_request"].iter().fold(start, |key, text| mac(&key, text));
    let signature = hex::encode(mac(&key, &to_sign));
    format!(
        "TC3-HMAC-SHA256 Credential={SECRET_ID}/{scope}, SignedHeaders=content-type;host, Signature={signature}"
    )
}
