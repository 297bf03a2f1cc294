//! Who a mini-program's user is: `jscode2session` of the WeChat platform.
//!
//! The secret of the mini-program travels in the address, so no address is ever logged or shown. A code works once,
//! so nothing is repeated: where the outcome is not known, the client asks `wx.login` for a new one.
//!
//! | `errcode` | outcome |
//! |---|---|
//! | none or 0, with an `openid` and a `session_key` | the user |
//! | 40029 invalid code, 40163 code used | `CodeInvalid` |
//! | 45011 too often | `TooOften` |
//! | 40226 blocked for a risk | `Blocked` |
//! | anything else, no answer, or one that cannot be understood | `Unavailable` |

#[cfg(test)]
mod tests;

use super::{
    http_client::{OutsideClient, OutsideError, read_body},
    platform_words,
};
use async_trait::async_trait;
use greenroom_actors::{
    causes,
    session::{WechatError, WechatLogin, WechatUser},
};
use reqwest::{Method, Request, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::{fmt, sync::Arc, time::Duration};
use url::Url;

/// The platform's address.
pub const WECHAT_ADDRESS: &str = "https://api.weixin.qq.com";

/// How long a sign-in may wait for the platform.
pub const WECHAT_TIME_LIMIT: Duration = Duration::from_secs(5);

/// An answer is a few hundred bytes.
const ANSWER_BYTES: u64 = 64 << 10;

/// Codes have 32 letters and digits today.
const CODE_BYTES: usize = 256;
/// An openid or unionid has some 28 characters.
const ID_BYTES: usize = 128;

/// Our mini-program at the platform.
#[derive(Clone, Debug)]
pub struct MiniProgram {
    /// Where the platform stands.
    pub base_url: Url,
    /// The mini-program's id.
    pub appid: String,
    /// Its secret.
    pub secret: SecretString,
}

/// Asks the platform about the users of a mini-program.
pub struct WechatMiniProgram {
    program: MiniProgram,
    client: Arc<OutsideClient>,
    within: Duration,
}

/// Says which mini-program it is, and no secret.
impl fmt::Debug for WechatMiniProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WechatMiniProgram").field("program", &self.program).finish_non_exhaustive()
    }
}

impl WechatMiniProgram {
    /// For `program`; each answer must be there `within` ([`WECHAT_TIME_LIMIT`]).
    #[must_use]
    pub fn new(program: MiniProgram, client: Arc<OutsideClient>, within: Duration) -> Self {
        Self { program, client, within }
    }

    /// The address that is asked. It holds the secret and the code.
    fn address(&self, code: &str) -> Url {
        let MiniProgram { base_url, appid, secret } = &self.program;
        let mut url = base_url.clone();
        // an http address always has a path
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["sns", "jscode2session"]);
        }
        url.query_pairs_mut()
            .clear()
            .append_pair("appid", appid)
            .append_pair("secret", secret.expose_secret())
            .append_pair("js_code", code)
            .append_pair("grant_type", "authorization_code");
        url
    }

    /// What the platform says. JSON, whatever its content type claims.
    async fn ask(&self, code: &str) -> Option<Answer> {
        let request = Request::new(Method::GET, self.address(code));
        let exchange = async {
            let response = self.client.send(request, self.within).await?;
            let status = response.status();
            Ok::<_, OutsideError>((status, read_body(response, ANSWER_BYTES).await?))
        };
        match exchange.await {
            Ok((StatusCode::OK, body)) => {
                let answer = serde_json::from_slice(&body).ok();
                if answer.is_none() {
                    // what serde says of it quotes it, and it may hold a session key
                    tracing::warn!("WeChat's answer to a sign-in is not JSON as it should be");
                }
                answer
            }
            Ok((status, _)) => {
                tracing::warn!(%status, "WeChat answers a sign-in with this status");
                None
            }
            Err(error) => {
                tracing::warn!(error = %causes(&error), "WeChat does not answer a sign-in");
                None
            }
        }
    }
}

#[async_trait]
impl WechatLogin for WechatMiniProgram {
    async fn exchange(&self, code: &SecretString) -> Result<WechatUser, WechatError> {
        let code = code.expose_secret();
        if !may_be_a_code(code) {
            return Err(WechatError::CodeInvalid);
        }
        let answer = self.ask(code).await.ok_or(WechatError::Unavailable)?;
        match answer.errcode.unwrap_or(0) {
            0 => answer.user().ok_or_else(|| {
                tracing::warn!("WeChat names no user and no error in its answer to a sign-in");
                WechatError::Unavailable
            }),
            40029 | 40163 => Err(WechatError::CodeInvalid),
            45011 => Err(WechatError::TooOften),
            40226 => Err(WechatError::Blocked),
            errcode => {
                let hidden = [self.program.secret.expose_secret(), code];
                let errmsg = platform_words::text(&answer.errmsg.unwrap_or_default(), &hidden);
                tracing::warn!(errcode, errmsg, "WeChat refuses a sign-in{}", remedy(errcode));
                Err(WechatError::Unavailable)
            }
        }
    }
}

/// Both shapes of an answer: a user, or an error.
#[derive(Deserialize)]
struct Answer {
    errcode: Option<i64>,
    errmsg: Option<String>,
    openid: Option<SecretString>,
    unionid: Option<SecretString>,
    session_key: Option<SecretString>,
}

impl Answer {
    fn user(self) -> Option<WechatUser> {
        let said = |value: Option<SecretString>| value.filter(|value| !value.expose_secret().is_empty());
        let is_id = |value: &SecretString| is_word(value.expose_secret(), ID_BYTES);
        let unionid = said(self.unionid);
        if unionid.as_ref().is_some_and(|unionid| !is_id(unionid)) {
            return None;
        }
        Some(WechatUser {
            openid: said(self.openid).filter(is_id)?,
            unionid,
            session_key: said(self.session_key)?,
        })
    }
}

/// Whether the platform could have made this code; anything else needs no question.
fn may_be_a_code(code: &str) -> bool {
    is_word(code, CODE_BYTES)
}

fn is_word(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What an operator can do about an error of the platform.
fn remedy(errcode: i64) -> &'static str {
    match errcode {
        40013 | 41002 => ": check gateways.wechat.appid",
        40125 | 41004 => ": check gateways.wechat.secret",
        -1 => ": it is busy",
        _ => "",
    }
}
