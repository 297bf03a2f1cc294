//! Every code an error may carry, with its status and what it says in both languages.
//!
//! A code never changes its meaning. `GET /api/v1/errors` lists this table.

use crate::http::language::{Language, Text};
use actix_web::http::StatusCode;

macro_rules! codes {
    ($($variant:ident = $name:literal, $status:ident,
       $zh_title:literal, $en_title:literal, $zh_meaning:literal, $en_meaning:literal;)*) => {
        /// What went wrong, as clients match on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $(#[doc = $en_meaning] $variant,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name in `code` and at the end of `type`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The status it is answered with, where the route does not say otherwise.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// A few words that never change.
            #[must_use]
            pub const fn title(self, language: Language) -> &'static str {
                match (self, language) {
                    $((Self::$variant, Language::Chinese) => $zh_title,
                      (Self::$variant, Language::English) => $en_title,)*
                }
            }

            /// What it means and what the client can do.
            #[must_use]
            pub fn meaning(self) -> Text {
                match self { $(Self::$variant => Text::new($zh_meaning, $en_meaning),)* }
            }
        }
    };
}

codes! {
    BadRequest = "BAD_REQUEST", BAD_REQUEST, "请求有误", "Bad request",
        "请求的某个字段、参数或请求头无效，见 errors。", "A field, parameter or header of the request is not valid; see errors.";
    MalformedJson = "MALFORMED_JSON", BAD_REQUEST, "JSON 格式错误", "Malformed JSON",
        "请求体不是有效的 UTF-8 JSON。", "The body is not valid JSON in UTF-8.";
    Unauthenticated = "UNAUTHENTICATED", UNAUTHORIZED, "未登录", "Not signed in",
        "缺少访问令牌或 API 密钥，或其无效、已过期。", "There is no access token or API key, or it is invalid or expired.";
    InvalidCredentials = "INVALID_CREDENTIALS", UNAUTHORIZED, "凭证错误", "Wrong credentials",
        "手机号、密码或验证码不正确。", "The phone, the password or the code is wrong.";
    RefreshTokenInvalid = "REFRESH_TOKEN_INVALID", UNAUTHORIZED, "刷新令牌无效", "Refresh token not valid",
        "该会话已结束，请重新登录。", "Its session has ended; sign in again.";
    RefreshTokenReused = "REFRESH_TOKEN_REUSED", UNAUTHORIZED, "刷新令牌已被使用", "Refresh token reused",
        "该刷新令牌已被使用过，会话已被关闭，请重新登录。", "This refresh token was used before, so its session was closed; sign in again.";
    WechatCodeInvalid = "WECHAT_CODE_INVALID", UNAUTHORIZED, "微信登录码无效", "WeChat code not valid",
        "登录码无效、已使用或已过期，请重新调用 wx.login。", "The code is wrong, used or too old; ask wx.login for a new one.";
    QuotaInsufficient = "QUOTA_INSUFFICIENT", PAYMENT_REQUIRED, "额度不足", "Not enough quota",
        "剩余额度不足，未扣除任何额度。", "Too little quota is left; none was taken.";
    ApiKeyLimit = "API_KEY_LIMIT", PAYMENT_REQUIRED, "API 密钥已达上限", "Cap of the API key reached",
        "该 API 密钥当日或当月的额度已用完（按 Asia/Shanghai 计），未扣除任何额度。",
        "The API key may not spend that much more of the day or the month (of Asia/Shanghai); nothing was taken.";
    Forbidden = "FORBIDDEN", FORBIDDEN, "没有权限", "Not allowed",
        "当前角色不能执行此操作。", "Your role may not do this.";
    ScopeMissing = "SCOPE_MISSING", FORBIDDEN, "API 密钥权限不足", "Not for this API key",
        "该 API 密钥没有此操作所需的权限范围；账号与管理操作须使用访问令牌。",
        "The API key is not for this: it lacks the scope, or the account must do it with an access token.";
    UserBanned = "USER_BANNED", FORBIDDEN, "账号已被封禁", "Account banned",
        "该账号已被封禁。", "This account is banned.";
    WechatBlocked = "WECHAT_BLOCKED", FORBIDDEN, "微信已拦截", "Blocked by WeChat",
        "微信认为该用户存在风险。", "WeChat holds this user for a risk.";
    MembershipRequired = "MEMBERSHIP_REQUIRED", FORBIDDEN, "需要会员", "Membership required",
        "该流水线仅限会员使用。", "This pipeline is for members.";
    NotFound = "NOT_FOUND", NOT_FOUND, "未找到", "Not found",
        "地址不存在，或资源不存在，或不属于你。", "There is no such address, no such resource, or it is not yours.";
    PipelineNotFound = "PIPELINE_NOT_FOUND", NOT_FOUND, "流水线不存在", "No such pipeline",
        "没有这个已发布的流水线。", "No published pipeline has this id.";
    MethodNotAllowed = "METHOD_NOT_ALLOWED", METHOD_NOT_ALLOWED, "方法不允许", "Method not allowed",
        "该地址不支持此方法，见 Allow。", "The address exists, the method does not; see Allow.";
    RequestTimeout = "REQUEST_TIMEOUT", REQUEST_TIMEOUT, "请求超时", "Request too slow",
        "请求体到达得太慢。", "The body took too long to arrive.";
    IdempotencyInProgress = "IDEMPOTENCY_IN_PROGRESS", CONFLICT, "请求处理中", "Still in progress",
        "使用同一 Idempotency-Key 的请求仍在处理，请稍后重试。",
        "A request with this Idempotency-Key is still running; repeat it later.";
    PhoneTaken = "PHONE_TAKEN", CONFLICT, "手机号已注册", "Phone taken",
        "该手机号已有账号。", "The phone has an account already.";
    WechatTaken = "WECHAT_TAKEN", CONFLICT, "微信已绑定", "WeChat taken",
        "该微信用户已绑定其他账号。", "This WeChat user has another account.";
    TaskFinal = "TASK_FINAL", CONFLICT, "任务已结束", "Task is final",
        "任务已结束，不能取消。", "The task has ended and cannot be cancelled.";
    UploadIncomplete = "UPLOAD_INCOMPLETE", CONFLICT, "上传未完成", "Upload incomplete",
        "文件内容尚未完整上传。", "The bytes of the file are not there in full.";
    Conflict = "CONFLICT", CONFLICT, "状态冲突", "Conflict",
        "资源当前的状态不允许此操作。", "The resource is in a state that does not allow this.";
    BodyTooLarge = "BODY_TOO_LARGE", PAYLOAD_TOO_LARGE, "请求体过大", "Body too large",
        "请求体超过允许的大小。", "The body is larger than allowed.";
    UriTooLong = "URI_TOO_LONG", URI_TOO_LONG, "地址过长", "Address too long",
        "请求地址过长。", "The address is too long.";
    UnsupportedMediaType = "UNSUPPORTED_MEDIA_TYPE", UNSUPPORTED_MEDIA_TYPE, "媒体类型不支持", "Unsupported media type",
        "请求体的类型不受支持。", "The body is of a type that is not taken here.";
    ValidationFailed = "VALIDATION_FAILED", UNPROCESSABLE_ENTITY, "内容无效", "Not valid",
        "格式正确，但内容不符合要求，见 errors。", "The request is well formed, but what it says is not acceptable; see errors.";
    InputInvalid = "INPUT_INVALID", UNPROCESSABLE_ENTITY, "任务输入无效", "Input not valid",
        "输入不符合流水线的要求，见 errors。", "The input does not fit the pipeline; see errors.";
    DefinitionInvalid = "DEFINITION_INVALID", UNPROCESSABLE_ENTITY, "流水线定义无效", "Definition not valid",
        "流水线定义有误，每处错误见 errors。", "The pipeline definition is faulty; errors names each fault.";
    PasswordWeak = "PASSWORD_WEAK", UNPROCESSABLE_ENTITY, "密码不符合要求", "Password not acceptable",
        "密码须为 8 到 64 个字符，且不超过 71 字节。", "A password has 8 to 64 characters and at most 71 bytes.";
    PasswordWrong = "PASSWORD_WRONG", UNPROCESSABLE_ENTITY, "原密码错误", "Old password wrong",
        "原密码缺失或不正确。", "The old password is missing or wrong.";
    CodeInvalid = "CODE_INVALID", UNPROCESSABLE_ENTITY, "验证码无效", "Code not valid",
        "验证码缺失、错误、已使用或已过期。", "The code is missing, wrong, used or too old.";
    ReferrerInvalid = "REFERRER_INVALID", UNPROCESSABLE_ENTITY, "推荐人无效", "Referrer not valid",
        "推荐人不存在，或与邀请码不一致。", "There is no such referrer, or the invite code names another.";
    InviteCodeInvalid = "INVITE_CODE_INVALID", UNPROCESSABLE_ENTITY, "邀请码无效", "Invite code not valid",
        "没有这个邀请码。", "There is no such invite code.";
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED", UNPROCESSABLE_ENTITY, "幂等键已被使用", "Idempotency key reused",
        "该 Idempotency-Key 已用于另一个请求。", "This Idempotency-Key was used for another request.";
    LoginLocked = "LOGIN_LOCKED", TOO_MANY_REQUESTS, "登录已锁定", "Sign-in locked",
        "失败次数过多，该手机号的密码登录暂时锁定。", "Too many failures; password sign-in of this phone is locked for a while.";
    RateLimited = "RATE_LIMITED", TOO_MANY_REQUESTS, "请求过多", "Too many requests",
        "请求过于频繁，请稍后重试。", "Too many requests; come back later.";
    QueueFull = "QUEUE_FULL", TOO_MANY_REQUESTS, "排队任务过多", "Queue full",
        "排队的任务已达上限，请待其完成后重试。", "As many tasks as may wait are waiting; come back when some are done.";
    Internal = "INTERNAL", INTERNAL_SERVER_ERROR, "内部错误", "Internal error",
        "服务出现错误，已记录。", "A defect of the service; it is in the log under the request id.";
    SmsUnavailable = "SMS_UNAVAILABLE", BAD_GATEWAY, "短信服务不可用", "SMS not available",
        "短信服务拒绝或没有响应，请稍后重试。", "The message service refuses or does not answer; come back later.";
    WechatUnavailable = "WECHAT_UNAVAILABLE", BAD_GATEWAY, "微信不可用", "WeChat not available",
        "微信没有响应，或返回了无法识别的内容，请用新的登录码重试。", "WeChat does not answer, or says what we do not know; try again with a new code.";
    Overloaded = "OVERLOADED", SERVICE_UNAVAILABLE, "服务繁忙", "Overloaded",
        "请求肯定未被执行，请稍后重试。", "Certainly not done; come back later.";
    Unavailable = "UNAVAILABLE", SERVICE_UNAVAILABLE, "服务暂不可用", "Unavailable",
        "所需的服务暂不可用，请求未被执行，请稍后重试。", "Something the service needs is not available; not done, come back later.";
    OutcomeUnknown = "OUTCOME_UNKNOWN", GATEWAY_TIMEOUT, "结果未知", "Outcome unknown",
        "请求可能已执行，请用同一 Idempotency-Key 重试。", "Done or not: repeat with the same Idempotency-Key.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_shouted() {
        let names: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        for name in names {
            assert!(name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{name}");
        }
    }

    #[test]
    fn every_code_is_an_error() {
        for code in ErrorCode::ALL {
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{code:?}");
        }
    }
}
