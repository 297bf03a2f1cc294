//! What the rooms below say, turned into problems: the only such place.

use super::{ApiError, ErrorCode, FieldError};
use crate::http::{language::Text, limits};
use actix_web::http::{
    StatusCode,
    header::{HeaderName, HeaderValue},
};
use greenroom_actors::{
    ask::AskError,
    causes,
    database::DatabaseError,
    limits::LimitError,
    object_store::{LinkError, ObjectStoreError},
    pipeline::{Fault, PipelineError},
    quota::{CapPeriod, QuotaError},
    records::{
        api_keys::{ApiKeyError, LIVE_KEYS},
        files::FileError,
        pipelines::PipelineRecordError,
        providers::ProviderError,
    },
    session::{SessionError, WechatError},
    upkeep::UpkeepError,
};
use std::{
    future::Future,
    time::{Duration, Instant},
};

/// When to come back to an actor that has too much to do or is restarting, seconds.
const OVERLOADED_RETRY_S: u64 = 1;
/// When to come back while a store is down, seconds.
const UNAVAILABLE_RETRY_S: u64 = 2;
/// When to come back to a full queue, seconds.
const QUEUE_FULL_RETRY_S: u64 = 5;
/// When to come back to a platform that takes a hundred sign-ins of a user a minute, seconds.
const WECHAT_RETRY_S: u64 = 60;
/// Sign-ins of one user in a minute that the platform lets through (auth.code2Session, 45011).
const WECHAT_A_MINUTE: u32 = 100;
/// How long a command of unknown outcome is asked again: several restarts of an actor.
const ASK_AGAIN: Duration = Duration::from_secs(3);
const ASK_PAUSE: Duration = Duration::from_millis(50);

/// What a failure says of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was looked at and refused.
    Refused,
    /// It was not done, and may be done later.
    NotDone,
    /// It was done or not.
    Unknown,
}

/// A failure of a command.
pub trait Failure {
    /// What it says of the command.
    fn outcome(&self) -> Outcome;
}

impl Failure for AskError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Overloaded(_) | Self::Down(_) => Outcome::NotDone,
            Self::OutcomeUnknown(_) => Outcome::Unknown,
        }
    }
}

impl Failure for DatabaseError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Unanswered(_) => Outcome::Unknown,
            other if other.is_transient() => Outcome::NotDone,
            _ => Outcome::Refused,
        }
    }
}

impl Failure for QuotaError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Ask(error) => error.outcome(),
            Self::Database(error) => error.outcome(),
            _ => Outcome::Refused,
        }
    }
}

impl Failure for PipelineError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Ask(error) => error.outcome(),
            Self::Quota(error) => error.outcome(),
            Self::Database(error) => error.outcome(),
            _ => Outcome::Refused,
        }
    }
}

impl Failure for SessionError {
    fn outcome(&self) -> Outcome {
        match self {
            error if error.is_not_done() => Outcome::NotDone,
            Self::Ask(error) => error.outcome(),
            Self::Database(error) => error.outcome(),
            _ => Outcome::Refused,
        }
    }
}

impl Failure for ApiKeyError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Database(error) => error.outcome(),
            _ => Outcome::Refused,
        }
    }
}

/// Asks, and where the outcome is unknown asks again, for as long as an actor needs to come back. The command must
/// be one that is recognised as a repeat.
///
/// # Errors
/// A definite answer; [`ErrorCode::OutcomeUnknown`] where there is none. What was unknown once is never called "not
/// done" because of what a later try met.
pub async fn asked_twice<R, E, F>(ask: impl Fn() -> F) -> Result<R, ApiError>
where
    F: Future<Output = Result<R, E>>,
    E: Failure + Into<ApiError>,
{
    match ask().await {
        Err(error) if error.outcome() == Outcome::Unknown => {}
        answer => return answer.map_err(Into::into),
    }
    let until = Instant::now() + ASK_AGAIN;
    loop {
        tokio::time::sleep(ASK_PAUSE).await;
        match ask().await {
            Err(error) if error.outcome() != Outcome::Refused => {
                if Instant::now() >= until {
                    tracing::warn!("the outcome of a command is unknown");
                    return Err(ApiError::outcome_unknown());
                }
            }
            answer => return answer.map_err(Into::into),
        }
    }
}

impl From<AskError> for ApiError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Overloaded(actor) | AskError::Down(actor) => {
                tracing::warn!(actor, "command refused: {error}");
                Self::new(ErrorCode::Overloaded).with_retry_after(OVERLOADED_RETRY_S)
            }
            AskError::OutcomeUnknown(actor) => {
                tracing::warn!(actor, "no answer of the actor");
                Self::outcome_unknown()
            }
        }
    }
}

impl From<&DatabaseError> for ApiError {
    fn from(error: &DatabaseError) -> Self {
        match error {
            DatabaseError::Exhausted | DatabaseError::Unavailable(_) => {
                tracing::warn!(error = %causes(error), "request refused: the database is not available");
                Self::unavailable()
            }
            DatabaseError::Unanswered(_) => {
                tracing::warn!(error = %causes(error), "the outcome of a request is not known");
                Self::new(ErrorCode::OutcomeUnknown)
            }
            DatabaseError::Statement(_) | DatabaseError::Miscounted { .. } => {
                tracing::error!(error = %causes(error), "a statement failed");
                Self::new(ErrorCode::Internal)
            }
        }
    }
}

impl From<DatabaseError> for ApiError {
    fn from(error: DatabaseError) -> Self {
        (&error).into()
    }
}

impl From<ObjectStoreError> for ApiError {
    fn from(error: ObjectStoreError) -> Self {
        match error {
            ObjectStoreError::NotFound => Self::not_found(),
            ObjectStoreError::TooLarge { .. } => Self::new(ErrorCode::BodyTooLarge),
            ObjectStoreError::Unavailable(_) => {
                tracing::warn!(error = %causes(&error), "request refused: the object store is not available");
                Self::unavailable()
            }
        }
    }
}

impl From<LinkError> for ApiError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Refused => Self::new(ErrorCode::Forbidden)
                .with_detail(Text::new("链接无效或已过期。", "The link is not valid, or not any more.")),
            LinkError::Exists => Self::new(ErrorCode::Conflict),
            LinkError::WrongSize { expected } => Self::wrong_size(expected),
            LinkError::Interrupted(_) => Self::new(ErrorCode::RequestTimeout),
            LinkError::Store(error) => error.into(),
        }
    }
}

impl From<FileError> for ApiError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::NotFound => Self::not_found(),
            FileError::UploadIncomplete => Self::new(ErrorCode::UploadIncomplete),
            FileError::InUse => Self::new(ErrorCode::Conflict).with_detail(Text::new(
                "尚未结束的任务正在使用该文件。",
                "A task that has not ended uses the file.",
            )),
            FileError::Database(error) => error.into(),
            FileError::Store(error) => error.into(),
        }
    }
}

impl From<ProviderError> for ApiError {
    fn from(error: ProviderError) -> Self {
        match error {
            ProviderError::NotFound => Self::not_found(),
            ProviderError::KindUnknown { known } => {
                let known = known.join(", ");
                let message =
                    Text::new(format!("须为 {known} 之一。"), format!("It must be one of {known}."));
                Self::at(ErrorCode::BadRequest, "/kind", message)
            }
            ProviderError::Invalid(faults) => Self::faults(ErrorCode::ValidationFailed, faults),
            ProviderError::InUse { pipelines } => {
                let names = pipelines.join(", ");
                Self::new(ErrorCode::Conflict).with_detail(Text::new(
                    format!("已发布的流水线正在使用：{names}。"),
                    format!("Published pipelines call it: {names}."),
                ))
            }
            ProviderError::Seal(error) => {
                tracing::error!(%error, "credentials of a provider do not open");
                Self::new(ErrorCode::Internal)
            }
            ProviderError::Database(error) => error.into(),
        }
    }
}

impl From<QuotaError> for ApiError {
    fn from(error: QuotaError) -> Self {
        match error {
            QuotaError::Insufficient { needed, remaining } => Self::new(ErrorCode::QuotaInsufficient)
                .with_detail(Text::new(
                    format!("需要 {needed} 额度，剩余 {remaining}。"),
                    format!("{needed} units are needed and {remaining} are left."),
                )),
            QuotaError::ApiKeyLimit { period, needed, left } => {
                let (chinese, english) = match period {
                    CapPeriod::Day => ("当日", "today"),
                    CapPeriod::Month => ("当月", "this month"),
                };
                Self::new(ErrorCode::ApiKeyLimit).with_detail(Text::new(
                    format!("需要 {needed} 额度，该密钥{chinese}还可使用 {left}。"),
                    format!("{needed} units are needed and the key may spend {left} more {english}."),
                ))
            }
            QuotaError::ApiKeyRevoked => Self::signed_out(ErrorCode::Unauthenticated),
            QuotaError::TooManyQueued => Self::new(ErrorCode::QueueFull).with_retry_after(QUEUE_FULL_RETRY_S),
            QuotaError::UserNotFound => Self::not_found(),
            QuotaError::TaskFinal(status) => task_final(status.name()),
            QuotaError::AlreadyConfirmed | QuotaError::AlreadyCancelled | QuotaError::LeaseLost => {
                Self::new(ErrorCode::Conflict)
            }
            QuotaError::ReferenceReused => Self::new(ErrorCode::Conflict),
            QuotaError::PeriodTooLong { rows, limit } => Self::at(
                ErrorCode::BadRequest,
                "/from",
                Text::new(
                    format!("该时段有 {rows} 条记录，最多 {limit} 条，请缩短时段。"),
                    format!(
                        "The period has {rows} rows, at most {limit} are answered; choose a shorter one."
                    ),
                ),
            ),
            QuotaError::KeyReused => Self::new(ErrorCode::IdempotencyKeyReused),
            QuotaError::Database(error) => (&*error).into(),
            QuotaError::Ask(error) => error.into(),
            QuotaError::NoHold | QuotaError::ChargeExceedsHold { .. } => {
                tracing::error!(%error, "a request met a refusal that only a defect can cause");
                Self::new(ErrorCode::Internal)
            }
        }
    }
}

impl From<ApiKeyError> for ApiError {
    fn from(error: ApiKeyError) -> Self {
        match error {
            ApiKeyError::Invalid | ApiKeyError::UserNotFound => Self::signed_out(ErrorCode::Unauthenticated),
            ApiKeyError::Banned => Self::new(ErrorCode::UserBanned),
            ApiKeyError::NotFound => Self::not_found(),
            ApiKeyError::TooMany => Self::new(ErrorCode::Conflict).with_detail(Text::new(
                format!("最多 {LIVE_KEYS} 个有效密钥，请先吊销一个。"),
                format!("At most {LIVE_KEYS} keys may work at one time; revoke one first."),
            )),
            ApiKeyError::Repeated(made) => Self::new(ErrorCode::Conflict).with_detail(Text::new(
                format!("该 Idempotency-Key 已创建密钥 {made}，密钥只显示一次；如未收到，请吊销后重新创建。"),
                format!(
                    "This Idempotency-Key has made the key {made}, which is shown only once; \
                     if it did not arrive, revoke it and make another."
                ),
            )),
            ApiKeyError::Database(error) => error.into(),
        }
    }
}

impl From<PipelineRecordError> for ApiError {
    fn from(error: PipelineRecordError) -> Self {
        match error {
            PipelineRecordError::NotFound => Self::not_found(),
            PipelineRecordError::VersionNotFound(version) => Self::at(
                ErrorCode::ValidationFailed,
                "/version",
                Text::new(format!("没有版本 {version}。"), format!("There is no version {version}.")),
            ),
            PipelineRecordError::Invalid(faults) => Self::faults(ErrorCode::DefinitionInvalid, faults),
            PipelineRecordError::Database(error) => error.into(),
        }
    }
}

impl From<UpkeepError> for ApiError {
    fn from(error: UpkeepError) -> Self {
        match error {
            UpkeepError::JobNotFound => Self::not_found(),
            UpkeepError::JobRunning => Self::new(ErrorCode::Conflict)
                .with_detail(Text::new("该任务正在运行。", "The job runs already.")),
            UpkeepError::Database(error) => error.into(),
            UpkeepError::Ask(error) => error.into(),
        }
    }
}

impl From<PipelineError> for ApiError {
    fn from(error: PipelineError) -> Self {
        match error {
            PipelineError::PipelineNotFound => Self::new(ErrorCode::PipelineNotFound),
            PipelineError::MembershipRequired => Self::new(ErrorCode::MembershipRequired),
            PipelineError::InputInvalid(faults) => Self::faults(ErrorCode::InputInvalid, faults),
            PipelineError::QueueFull => Self::new(ErrorCode::Overloaded).with_retry_after(QUEUE_FULL_RETRY_S),
            PipelineError::TaskNotFound | PipelineError::CallbackUnknown => Self::not_found(),
            PipelineError::TaskFinal(status) => task_final(status.name()),
            PipelineError::Quota(error) => error.into(),
            PipelineError::Database(error) => error.into(),
            PipelineError::Ask(error) => error.into(),
        }
    }
}

impl From<SessionError> for ApiError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::PhoneInvalid => Self::at(
                ErrorCode::ValidationFailed,
                "/phone",
                Text::new("须为 11 位手机号。", "A mobile number of 11 digits is expected."),
            ),
            SessionError::PasswordWeak => {
                Self::at(ErrorCode::PasswordWeak, "/password", ErrorCode::PasswordWeak.meaning())
            }
            SessionError::PhoneTaken => Self::new(ErrorCode::PhoneTaken),
            SessionError::ReferrerInvalid => {
                Self::at(ErrorCode::ReferrerInvalid, "/referrer_id", ErrorCode::ReferrerInvalid.meaning())
            }
            SessionError::InviteCodeInvalid => {
                Self::at(ErrorCode::InviteCodeInvalid, "/inviteCode", ErrorCode::InviteCodeInvalid.meaning())
            }
            SessionError::PasswordWrong => {
                Self::at(ErrorCode::PasswordWrong, "/oldPassword", ErrorCode::PasswordWrong.meaning())
            }
            SessionError::CodeInvalid => {
                Self::at(ErrorCode::CodeInvalid, "/code", ErrorCode::CodeInvalid.meaning())
            }
            SessionError::WechatTaken => Self::new(ErrorCode::WechatTaken),
            SessionError::InvalidCredentials => Self::signed_out(ErrorCode::InvalidCredentials),
            SessionError::RefreshTokenInvalid => Self::signed_out(ErrorCode::RefreshTokenInvalid),
            SessionError::RefreshTokenReused => Self::signed_out(ErrorCode::RefreshTokenReused),
            SessionError::Unauthenticated => Self::signed_out(ErrorCode::Unauthenticated),
            SessionError::NotFound => Self::not_found(),
            SessionError::TooManyCodes { retry_after_s, most } => {
                Self::rate_limited(limits::headers(most, 0, retry_after_s), retry_after_s)
            }
            // the gateways have logged why
            SessionError::Sms(_) => Self::new(ErrorCode::SmsUnavailable),
            SessionError::Wechat(error) => match error {
                WechatError::CodeInvalid => Self::signed_out(ErrorCode::WechatCodeInvalid),
                WechatError::TooOften => {
                    let headers = limits::headers(WECHAT_A_MINUTE, 0, WECHAT_RETRY_S);
                    Self::rate_limited(headers, WECHAT_RETRY_S)
                }
                WechatError::Blocked => Self::new(ErrorCode::WechatBlocked),
                WechatError::Unavailable => Self::new(ErrorCode::WechatUnavailable),
            },
            SessionError::Seal(error) => {
                tracing::error!(%error, "a session key cannot be sealed");
                Self::new(ErrorCode::Internal)
            }
            SessionError::Banned => Self::new(ErrorCode::UserBanned),
            SessionError::Locked { retry_after_s } => {
                Self::new(ErrorCode::LoginLocked).with_retry_after(retry_after_s)
            }
            SessionError::Busy => Self::new(ErrorCode::Overloaded).with_retry_after(1),
            SessionError::Database(error) => error.into(),
            SessionError::Redis(error) => {
                tracing::warn!(error = %causes(&error), "request refused: Redis is not available");
                Self::unavailable()
            }
            SessionError::Hashing(error) => {
                tracing::error!(error = %causes(&error), "request failed");
                Self::new(ErrorCode::Internal)
            }
            SessionError::Ask(error) => error.into(),
        }
    }
}

impl From<LimitError> for ApiError {
    fn from(error: LimitError) -> Self {
        match error {
            LimitError::Exceeded(standing) => {
                Self::rate_limited(limits::headers_of(&standing), standing.retry_after_s())
            }
            // the limiter has logged it, once for all
            LimitError::Unavailable => Self::unavailable(),
        }
    }
}

impl ApiError {
    /// 401 of a way in, with the challenge that every 401 must have.
    fn signed_out(code: ErrorCode) -> Self {
        Self::new(code).with_challenge("Bearer")
    }

    /// The same, where a password that breaks the rules stands in the field at `path`.
    #[must_use]
    pub fn with_password_at(self, path: &str) -> Self {
        if self.code() == ErrorCode::PasswordWeak {
            return Self::at(ErrorCode::PasswordWeak, path, ErrorCode::PasswordWeak.meaning());
        }
        self
    }

    /// A problem with one entry for each fault.
    #[must_use]
    pub fn faults(code: ErrorCode, faults: Vec<Fault>) -> Self {
        let errors = faults
            .into_iter()
            .map(|fault| FieldError {
                path: if fault.path.is_empty() { "/".to_owned() } else { fault.path },
                message: Text::only(fault.message),
            })
            .collect();
        Self::new(code).with_errors(errors)
    }

    /// 400: other than the promised number of bytes.
    #[must_use]
    pub fn wrong_size(expected: u64) -> Self {
        let message = Text::new(
            format!("须正好为 {expected} 字节。"),
            format!("Exactly {expected} bytes were announced."),
        );
        Self::at(ErrorCode::BadRequest, "/Content-Length", message)
    }

    /// 429 with the `RateLimit-*` of the limit that was met.
    fn rate_limited(headers: [(HeaderName, HeaderValue); 3], retry_after_s: u64) -> Self {
        let refused = Self::new(ErrorCode::RateLimited).with_retry_after(retry_after_s);
        headers.into_iter().fold(refused, |refused, (name, value)| refused.with_header(name, value))
    }

    /// 504: nobody knows whether it was done.
    #[must_use]
    pub fn outcome_unknown() -> Self {
        Self::new(ErrorCode::OutcomeUnknown).with_retry_after(OVERLOADED_RETRY_S)
    }

    /// 503: a store is down; certainly not done.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::new(ErrorCode::Unavailable).with_retry_after(UNAVAILABLE_RETRY_S)
    }

    /// A correction of quota that takes more than is left: the request contradicts what is, and nothing is for sale.
    #[must_use]
    pub fn as_conflict(self) -> Self {
        if self.code() == ErrorCode::QuotaInsufficient {
            self.with_status(StatusCode::CONFLICT)
        } else {
            self
        }
    }
}

fn task_final(status: &str) -> ApiError {
    ApiError::new(ErrorCode::TaskFinal).with_detail(Text::new(
        format!("任务状态已是 {status}，不能取消。"),
        format!("The task is {status} already and cannot be cancelled."),
    ))
}
