//! The gateways to other platforms against stand-ins that refuse what the real ones refuse.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use greenroom::gateways::address_guard::AddressGuard;
use greenroom::gateways::http_client::OutsideClient;
use greenroom::gateways::sms::{SMS_TIME_LIMIT, SmsAccount, TencentSms};
use greenroom::gateways::tencent::TencentKey;
use greenroom::gateways::wechat_login::{MiniProgram, WECHAT_TIME_LIMIT, WechatMiniProgram};
use greenroom_actors::clock::SystemClock;
use greenroom_actors::session::{Phone, SmsError, SmsSender, WechatError, WechatLogin};
use secrecy::ExposeSecret;

use crate::support::{FakeSms, FakeWechat, SentSms};

const FIVE_MINUTES: Duration = Duration::from_secs(300);

fn client() -> Arc<OutsideClient> {
    Arc::new(OutsideClient::new(AddressGuard::new(true)))
}

/// A mini-program as the variables of a service say it.
fn wechat(variables: Vec<(&str, String)>) -> WechatMiniProgram {
    let set: BTreeMap<_, _> = variables.into_iter().collect();
    let program = MiniProgram {
        base_url: set["GREENROOM__GATEWAYS__WECHAT__BASE_URL"].parse().unwrap(),
        appid: set["WECHAT_APPID"].clone(),
        secret: set["WECHAT_SECRET"].clone().into(),
    };
    WechatMiniProgram::new(program, client(), WECHAT_TIME_LIMIT)
}

/// A sender as the variables of a service say it.
fn sms(variables: Vec<(&str, String)>) -> TencentSms {
    let set: BTreeMap<_, _> = variables.into_iter().collect();
    let value = |name: &str| set[&*format!("GREENROOM__GATEWAYS__SMS__{name}")].clone();
    let account = SmsAccount {
        endpoint: value("ENDPOINT").parse().unwrap(),
        region: value("REGION"),
        key: TencentKey { id: value("SECRET_ID"), secret: value("SECRET_KEY").into() },
        sdk_app_id: value("SDK_APP_ID"),
        sign_name: value("SIGN_NAME"),
        template_id: value("TEMPLATE_ID"),
    };
    TencentSms::new(account, client(), Arc::new(SystemClock), SMS_TIME_LIMIT)
}

#[tokio::test]
async fn a_mini_programs_code_names_its_user_once() {
    let platform = FakeWechat::start().await;
    platform.user("code-a", "openid-a");
    platform.user_of_union("code-b", "openid-b", "union-b");
    platform.refuse("code-c", 40226);
    let login = wechat(platform.environment());
    let exchange = async |code: &str| {
        let user = login.exchange(&code.into()).await?;
        let unionid = user.unionid.map(|id| id.expose_secret().to_owned());
        Ok::<_, WechatError>((user.openid.expose_secret().to_owned(), unionid))
    };
    assert_eq!(exchange("code-a").await, Ok(("openid-a".to_owned(), None)));
    assert_eq!(exchange("code-a").await, Err(WechatError::CodeInvalid));
    assert_eq!(exchange("code-b").await, Ok(("openid-b".to_owned(), Some("union-b".to_owned()))));
    assert_eq!(exchange("code-c").await, Err(WechatError::Blocked));
    assert_eq!(exchange("unheard-of").await, Err(WechatError::CodeInvalid));
    assert_eq!(platform.asked(), ["code-a", "code-a", "code-b", "code-c", "unheard-of"]);
}

#[tokio::test]
async fn the_platform_refuses_another_secret() {
    let platform = FakeWechat::start().await;
    platform.user("code-a", "openid-a");
    let mut variables = platform.environment();
    variables.push(("WECHAT_SECRET", "another".to_owned()));
    let refused = wechat(variables).exchange(&"code-a".into()).await;
    assert_eq!((refused.unwrap_err(), platform.asked().len()), (WechatError::Unavailable, 0));
}

#[tokio::test]
async fn a_code_reaches_its_phone() {
    let cloud = FakeSms::start().await;
    let sender = sms(cloud.environment());
    let (one, other) = ("13800138000", "13900139000");
    cloud.refuse_phone(other, "LimitExceeded.PhoneNumberDailyLimit");
    let send = async |phone, code: &str| {
        sender.send_code(&Phone::parse(phone).unwrap(), &code.into(), FIVE_MINUTES).await
    };
    assert_eq!(send(one, "135790").await, Ok(()));
    assert_eq!(send(one, "246810").await, Ok(()));
    let refused = Err(SmsError::Refused("LimitExceeded.PhoneNumberDailyLimit".to_owned()));
    assert_eq!(send(other, "111111").await, refused);
    assert_eq!((cloud.code_of(one).as_deref(), cloud.code_of(other)), (Some("246810"), None));
    let first = SentSms { phone: one.to_owned(), code: "135790".to_owned(), minutes: "5".to_owned() };
    assert_eq!((cloud.sent().len(), &cloud.sent()[0]), (2, &first));

    cloud.refuse_all("RequestLimitExceeded");
    assert_eq!(send(one, "333333").await, Err(SmsError::Refused("RequestLimitExceeded".to_owned())));
    cloud.refuse_nothing();
    assert_eq!(send(other, "444444").await, Ok(()));
}

#[tokio::test]
async fn the_cloud_refuses_what_is_signed_with_another_key() {
    let cloud = FakeSms::start().await;
    let mut variables = cloud.environment();
    variables.push(("GREENROOM__GATEWAYS__SMS__SECRET_KEY", "another".to_owned()));
    let phone = Phone::parse("13800138000").unwrap();
    let refused = sms(variables).send_code(&phone, &"135790".into(), FIVE_MINUTES).await;
    assert_eq!(refused, Err(SmsError::Refused("AuthFailure.SignatureFailure".to_owned())));
    assert_eq!(cloud.sent(), []);
}
