//! The signed-in user.

use super::{
    auth::proof,
    error::{ApiError, ErrorCode, FieldError},
    extract::{ClientOrigin, User},
    json::ValidJson,
    language::Text,
    state::State,
};
use actix_web::{HttpResponse, delete, get, patch, web};
use chrono::{DateTime, Utc};
use greenroom_actors::{
    ids::{FileId, SessionId},
    records::users::{Gender, ProfileChange, UserRecord},
    session::{DeleteAccount, Role, SessionError, mask_phone},
};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;
use utoipa::ToSchema;

/// Characters of a nickname at most.
const NICKNAME_MAX: usize = 32;
/// Bytes of an avatar's address at most.
const AVATAR_MAX: usize = 512;

/// A user, as they see themselves.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = User)]
pub(super) struct UserView {
    id: String,
    /// Masked; null for an account without one.
    #[schema(example = "138****8000")]
    pub(super) phone: Option<String>,
    nickname: String,
    /// The id of an own file, or an https address.
    avatar: Option<String>,
    #[schema(value_type = GenderView)]
    gender: &'static str,
    #[schema(value_type = RoleView)]
    role: &'static str,
    /// What friends give when they register.
    invite_code: String,
    referrer_id: Option<String>,
    membership: Membership,
    quota_remaining: i64,
    created_at: DateTime<Utc>,
}

/// A membership, running or not.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Membership {
    active: bool,
    plan_id: Option<String>,
    expires_at: Option<DateTime<Utc>>,
}

/// What somebody says their gender is.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Gender)]
enum GenderView {
    Unknown,
    Male,
    Female,
}

/// What somebody may do.
#[derive(ToSchema)]
#[schema(as = Role, rename_all = "lowercase")]
#[expect(dead_code, reason = "it only describes the role in the contract")]
pub(super) enum RoleView {
    User,
    Support,
    Admin,
}

impl From<&UserRecord> for UserView {
    fn from(user: &UserRecord) -> Self {
        Self {
            id: user.id.to_string(),
            phone: user.phone.as_deref().map(mask_phone),
            nickname: user.nickname.clone(),
            avatar: user.avatar.clone(),
            gender: user.gender.name(),
            role: Role::name(user.role),
            invite_code: user.invite_code.clone(),
            referrer_id: user.referrer.map(|id| id.to_string()),
            membership: Membership {
                active: user.membership_active,
                plan_id: user.membership_plan.map(|id| id.to_string()),
                expires_at: user.membership_expires_at,
            },
            quota_remaining: user.quota_remaining,
            created_at: user.created_at,
        }
    }
}

/// What to change; fields left out stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProfilePatch {
    /// 1 to 32 characters; blanks around it are removed.
    nickname: Option<String>,
    /// The id of an own uploaded picture, or an https address of an allowed host; null for none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    avatar: Option<Option<String>>,
    gender: Option<GenderView>,
}

/// Tells a field that is null from one that is left out.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The signed-in user.
#[utoipa::path(
    tag = "users",
    security(("bearer" = [])),
    responses((status = 200, description = "They themselves.", body = UserView))
)]
#[get("/users/me")]
pub(super) async fn get_me(user: User, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let record = state.users.get(user.id).await?.ok_or_else(gone)?;
    Ok(HttpResponse::Ok().json(UserView::from(&record)))
}

/// Changes the profile.
#[utoipa::path(
    tag = "users",
    security(("bearer" = [])),
    request_body = ProfilePatch,
    responses(
        (status = 200, description = "As it is now.", body = UserView),
        (status = 422, description = "`VALIDATION_FAILED` with the path"),
    )
)]
#[patch("/users/me")]
pub(super) async fn patch_me(
    user: User,
    state: web::Data<State>,
    request: ValidJson<ProfilePatch>,
) -> Result<HttpResponse, ApiError> {
    let change = change_of(request.body, &state.settings.avatar_hosts)?;
    if let Some(Some(Ok(file))) =
        change.avatar.as_ref().map(|avatar| avatar.as_ref().map(|text| text.parse()))
        && !state.users.owns_picture(user.id, file).await?
    {
        let message = Text::new("不是你上传的图片。", "This is no picture that you have uploaded.");
        return Err(ApiError::at(ErrorCode::ValidationFailed, "/avatar", message));
    }
    let record = state.users.change_profile(user.id, &change).await?.ok_or_else(gone)?;
    Ok(HttpResponse::Ok().json(UserView::from(&record)))
}

/// That the account is one's own.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Deletion {
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<SecretString>,
    /// Sent to the phone for the scene `login`.
    #[schema(value_type = Option<String>, example = "123456")]
    code: Option<SecretString>,
}

/// Deletes the account: its sessions, bindings, profile and files; running tasks are cancelled, the ledger is kept.
#[utoipa::path(
    tag = "users",
    security(("bearer" = [])),
    request_body = Deletion,
    responses(
        (status = 204, description = "Deleted."),
        (status = 422, description = "`PASSWORD_WRONG` at `/password`, `CODE_INVALID` at `/code`"),
        (status = 429, description = "`LOGIN_LOCKED` after five wrong passwords"),
    )
)]
#[delete("/users/me")]
pub(super) async fn delete_me(
    user: User,
    origin: ClientOrigin,
    state: web::Data<State>,
    request: ValidJson<Deletion>,
) -> Result<HttpResponse, ApiError> {
    let Deletion { password, code } = request.body;
    let proof = proof(password, code)?;
    let command = DeleteAccount { id: SessionId::new(), user: user.id, proof, origin: origin.0 };
    // not asked twice: the account would not be found the second time
    state.session.delete_account(command).await.map_err(|error| match error {
        SessionError::PasswordWrong => {
            ApiError::at(ErrorCode::PasswordWrong, "/password", ErrorCode::PasswordWrong.meaning())
        }
        SessionError::NotFound => gone(),
        error => error.into(),
    })?;
    state.upkeep.erase(user.id).await;
    Ok(HttpResponse::NoContent().finish())
}

/// The user's invite code, and how many came by it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Invite {
    invite_code: String,
    invited: i64,
}

/// The invite code, and how many users have registered through it.
#[utoipa::path(
    tag = "users",
    security(("bearer" = [])),
    responses((status = 200, description = "The code and the number.", body = Invite))
)]
#[get("/users/me/invite")]
pub(super) async fn get_invite(user: User, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let record = state.users.get(user.id).await?.ok_or_else(gone)?;
    let invited = state.users.invited_by(user.id).await?;
    Ok(HttpResponse::Ok().json(Invite { invite_code: record.invite_code, invited }))
}

/// The token is good and its user is not there any more.
pub(super) fn gone() -> ApiError {
    ApiError::unauthenticated("Bearer realm=\"greenroom\", error=\"invalid_token\"")
}

/// Control characters, and those that turn the direction of the text around them.
fn is_control(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The change that a patch asks for, as far as it can be judged without looking anywhere.
fn change_of(patch: ProfilePatch, avatar_hosts: &[String]) -> Result<ProfileChange, ApiError> {
    let mut errors = Vec::new();
    let mut refuse = |path: &str, message| errors.push(FieldError { path: path.to_owned(), message });
    let nickname = patch.nickname.map(|text| text.trim().to_owned());
    if let Some(text) = &nickname
        && (!(1..=NICKNAME_MAX).contains(&text.chars().count()) || text.chars().any(is_control))
    {
        let message = Text::new(
            "须为 1 到 32 个字符，不含控制字符。",
            "1 to 32 characters without control characters.",
        );
        refuse("/nickname", message);
    }
    if let Some(Some(avatar)) = &patch.avatar
        && !is_file_id(avatar)
        && !is_allowed_address(avatar, avatar_hosts)
    {
        let message = Text::new(
            "须为自己上传的图片 id，或允许的主机上的 https 地址。",
            "The id of an own uploaded picture is expected, or an https address of an allowed host.",
        );
        refuse("/avatar", message);
    }
    if !errors.is_empty() {
        return Err(ApiError::new(ErrorCode::ValidationFailed).with_errors(errors));
    }
    let gender = patch.gender.map(|gender| match gender {
        GenderView::Unknown => Gender::Unknown,
        GenderView::Male => Gender::Male,
        GenderView::Female => Gender::Female,
    });
    Ok(ProfileChange { nickname, avatar: patch.avatar, gender })
}

fn is_file_id(text: &str) -> bool {
    text.len() == 36 && text.parse::<FileId>().is_ok()
}

fn is_allowed_address(text: &str, hosts: &[String]) -> bool {
    text.len() <= AVATAR_MAX
        && Url::parse(text).is_ok_and(|url| {
            url.scheme() == "https"
                && url.username().is_empty()
                && url.password().is_none()
                && url
                    .host_str()
                    .is_some_and(|host| hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::json::parse;

    fn change(body: &str) -> Result<ProfileChange, Vec<String>> {
        let patch = parse::<ProfilePatch>(body.as_bytes()).unwrap().body;
        change_of(patch, &["img.example.com".to_owned()]).map_err(|error| {
            let body: serde_json::Value =
                serde_json::from_slice(&error.body(crate::http::language::Language::English, "")).unwrap();
            let errors = body["errors"].as_array().unwrap();
            errors.iter().map(|error| error["path"].as_str().unwrap().to_owned()).collect()
        })
    }

    #[test]
    fn a_nickname_is_trimmed_and_bounded() {
        assert_eq!(change(r#"{"nickname":"  小明 "}"#).unwrap().nickname.as_deref(), Some("小明"));
        for bad in ["   ", "a\\tb", "a\u{202e}b", &"长".repeat(33)] {
            assert_eq!(change(&format!(r#"{{"nickname":"{bad}"}}"#)).unwrap_err(), ["/nickname"]);
        }
    }

    #[test]
    fn an_avatar_is_a_file_or_an_address_of_an_allowed_host() {
        for good in ["0198c5e4-0000-7000-8000-000000000000", "https://img.example.com/a.png"] {
            let change = change(&format!(r#"{{"avatar":"{good}"}}"#)).unwrap();
            assert_eq!(change.avatar, Some(Some(good.to_owned())));
        }
        for bad in [
            "http://img.example.com/a.png",
            "https://img.example.com@evil.example/a.png",
            "https://evil.example/img.example.com",
            "https://user:pass@img.example.com/a.png",
            "javascript:alert(1)",
            "../../etc/passwd",
            "",
        ] {
            assert_eq!(change(&format!(r#"{{"avatar":"{bad}"}}"#)).unwrap_err(), ["/avatar"], "{bad}");
        }
    }

    #[test]
    fn an_avatar_that_is_null_is_removed_and_one_left_out_is_kept() {
        assert_eq!(change(r#"{"avatar":null}"#).unwrap().avatar, Some(None));
        assert_eq!(change("{}").unwrap().avatar, None);
    }

    #[test]
    fn every_fault_is_named_at_once() {
        assert_eq!(change(r#"{"nickname":"","avatar":""}"#).unwrap_err(), ["/nickname", "/avatar"]);
    }
}
