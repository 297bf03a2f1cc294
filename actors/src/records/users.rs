//! People as they and the admins see them: profile, membership, what they can spend.
//!
//! Who may sign in is the session actor's; quota is the quota actor's. Here it is only read.

use crate::{
    database::{Database, DatabaseError, commit},
    ids::{FileId, UserId},
    quota::AuditEntry,
    records::{
        audit_log,
        security_log::{self, NewEntry, SecurityEvent},
    },
    session::{Origin, Role},
    signals::{Signal, Signals},
};
use chrono::{DateTime, Utc};
use serde_json::json;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

/// What somebody says their gender is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gender {
    /// Not said.
    Unknown,
    /// Male.
    Male,
    /// Female.
    Female,
}

impl Gender {
    /// Every gender that can be said.
    pub const ALL: [Self; 3] = [Self::Unknown, Self::Male, Self::Female];

    /// The name in the API and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Male => "male",
            Self::Female => "female",
        }
    }

    /// The gender of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|gender| gender.name() == name)
    }
}

/// A user's row.
#[derive(Clone, Debug, PartialEq)]
pub struct UserRecord {
    /// Their id.
    pub id: UserId,
    /// 11 digits; none for an account without a phone.
    pub phone: Option<String>,
    /// As they call themselves.
    pub nickname: String,
    /// The id of a file of theirs, or an https address.
    pub avatar: Option<String>,
    /// As they say.
    pub gender: Gender,
    /// What they may do.
    pub role: Role,
    /// What others give when they register through them.
    pub invite_code: String,
    /// Who brought them.
    pub referrer: Option<UserId>,
    /// Since when they are banned.
    pub banned_at: Option<DateTime<Utc>>,
    /// The plan of their membership, also of one that has ended.
    pub membership_plan: Option<Uuid>,
    /// When it ends or ended.
    pub membership_expires_at: Option<DateTime<Utc>>,
    /// Whether it is running now.
    pub membership_active: bool,
    /// Units they can spend now; what has expired is left out.
    pub quota_remaining: i64,
    /// When they registered.
    pub created_at: DateTime<Utc>,
}

/// What to change of a profile; `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub struct ProfileChange {
    /// The new nickname.
    pub nickname: Option<String>,
    /// The new avatar, or none.
    pub avatar: Option<Option<String>>,
    /// The new gender.
    pub gender: Option<Gender>,
}

/// Which users to list.
#[derive(Clone, Debug, Default)]
pub struct UserFilter {
    /// Part of a phone or nickname, or a whole id or invite code.
    pub query: Option<String>,
    /// Only those of this role.
    pub role: Option<Role>,
    /// Only those who are banned, or who are not.
    pub banned: Option<bool>,
}

/// What to change of somebody's access; `None` leaves it as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct AccessChange {
    /// The new role.
    pub role: Option<Role>,
    /// Whether they are banned from now on.
    pub banned: Option<bool>,
}

impl AccessChange {
    fn events(self) -> impl Iterator<Item = SecurityEvent> {
        let banned = self.banned.map(|is| if is { SecurityEvent::Banned } else { SecurityEvent::Unbanned });
        self.role.map(|_| SecurityEvent::RoleChanged).into_iter().chain(banned)
    }
}

/// The users. Clones share the pool.
#[derive(Clone)]
pub struct Users {
    database: Database,
    signals: Signals,
}

/// What [`from_row`] reads of `users u`.
pub(crate) const COLUMNS: &str = "u.id, u.phone, u.nickname, u.avatar, u.gender, u.role, u.invite_code, u.referrer_id, \
     u.banned_at, u.membership_plan_id, u.membership_expires_at, \
     coalesce(u.membership_expires_at > clock_timestamp(), false) as membership_active, \
     greatest(u.quota_remaining - coalesce((select sum(g.remaining) from quota_grants g where g.user_id = u.id \
        and g.live and g.expires_at <= clock_timestamp()), 0), 0)::bigint as quota_left, u.created_at";

impl Users {
    /// The users of `database`; sockets of those who are banned hear of it by `signals`.
    #[must_use]
    pub fn new(database: Database, signals: Signals) -> Self {
        Self { database, signals }
    }

    /// The user of that id, unless they were deleted.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub async fn get(&self, user: UserId) -> Result<Option<UserRecord>, DatabaseError> {
        let sql = format!("select {COLUMNS} from users u where u.id = $1 and u.deleted_at is null");
        self.one(&sql, &[&user]).await
    }

    /// Changes a profile and answers how it is now; `None` where there is no such user.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub async fn change_profile(
        &self,
        user: UserId,
        change: &ProfileChange,
    ) -> Result<Option<UserRecord>, DatabaseError> {
        let sql = format!(
            "update users u set nickname = coalesce($2, nickname), \
             avatar = case when $3 then $4 else avatar end, gender = coalesce($5, gender), \
             updated_at = clock_timestamp() \
             where u.id = $1 and u.deleted_at is null returning {COLUMNS}"
        );
        let sets_avatar = change.avatar.is_some();
        let avatar = change.avatar.clone().flatten();
        let gender = change.gender.map(Gender::name);
        self.one(&sql, &[&user, &change.nickname, &sets_avatar, &avatar, &gender]).await
    }

    /// Changes what somebody may do, and remembers who did it; `None` where there is no such user. Who is banned is
    /// signed out.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub async fn change_access(
        &self,
        user: UserId,
        change: AccessChange,
        audit: &AuditEntry,
    ) -> Result<Option<UserRecord>, DatabaseError> {
        let sql = format!(
            "update users u set role = coalesce($2, role), banned_at = case $3::boolean \
                when true then coalesce(banned_at, clock_timestamp()) when false then null else banned_at end, \
             session_generation = session_generation + case when $3 then 1 else 0 end, \
             updated_at = clock_timestamp() \
             where u.id = $1 and u.deleted_at is null returning {COLUMNS}"
        );
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached(&sql).await?;
        let role = change.role.map(Role::name);
        let Some(row) = transaction.query_opt(&statement, &[&user, &role, &change.banned]).await? else {
            return Ok(None);
        };
        audit_log::insert(&transaction, std::slice::from_ref(audit)).await?;
        for event in change.events() {
            let nowhere = Origin::default();
            let detail = json!({ "by": audit.actor, "role": change.role });
            security_log::insert(&transaction, &NewEntry::of(user, event, &nowhere).with(detail)).await?;
        }
        commit(transaction).await?;
        if change.banned == Some(true) {
            self.signals.send(Signal::SessionsClosed { user, kept: None });
        }
        from_row(&row).map(Some)
    }

    /// Whether `file` is a picture that `user` has uploaded.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub async fn owns_picture(&self, user: UserId, file: FileId) -> Result<bool, DatabaseError> {
        let client = self.database.client().await?;
        let statement = client
            .prepare_cached(
                "select 1 from files where id = $1 and user_id = $2 and completed_at is not null \
                 and content_type like 'image/%'",
            )
            .await?;
        Ok(client.query_opt(&statement, &[&file, &user]).await?.is_some())
    }

    /// How many users `user` has brought.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub async fn invited_by(&self, user: UserId) -> Result<i64, DatabaseError> {
        let client = self.database.client().await?;
        let statement = client.prepare_cached("select count(*) from users where referrer_id = $1").await?;
        Ok(client.query_one(&statement, &[&user]).await?.try_get(0)?)
    }

    /// At most `limit` users, newest first, from those registered before `before`.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub async fn list(
        &self,
        filter: &UserFilter,
        before: Option<UserId>,
        limit: i64,
    ) -> Result<Vec<UserRecord>, DatabaseError> {
        let sql = format!(
            "select {COLUMNS} from users u where u.deleted_at is null \
             and ($1::uuid is null or u.id < $1) \
             and ($2::text is null or strpos(u.phone, $2) > 0 or strpos(lower(u.nickname), lower($2)) > 0 \
                  or u.id::text = lower($2) or u.invite_code = upper($2)) \
             and ($3::text is null or u.role = $3) \
             and ($4::boolean is null or (u.banned_at is not null) = $4) \
             order by u.id desc limit $5"
        );
        let client = self.database.client().await?;
        let statement = client.prepare_cached(&sql).await?;
        let role = filter.role.map(Role::name);
        let rows = client.query(&statement, &[&before, &filter.query, &role, &filter.banned, &limit]).await?;
        rows.iter().map(from_row).collect()
    }

    async fn one(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<UserRecord>, DatabaseError> {
        let client = self.database.client().await?;
        let statement = client.prepare_cached(sql).await?;
        client.query_opt(&statement, parameters).await?.as_ref().map(from_row).transpose()
    }
}

/// The user in a row of [`COLUMNS`].
pub(crate) fn from_row(row: &Row) -> Result<UserRecord, DatabaseError> {
    Ok(UserRecord {
        id: row.try_get("id")?,
        phone: row.try_get("phone")?,
        nickname: row.try_get("nickname")?,
        avatar: row.try_get("avatar")?,
        // the columns have checks: other names cannot be there
        gender: Gender::named(row.try_get("gender")?).unwrap_or(Gender::Unknown),
        role: Role::named(row.try_get("role")?).unwrap_or(Role::User),
        invite_code: row.try_get("invite_code")?,
        referrer: row.try_get("referrer_id")?,
        banned_at: row.try_get("banned_at")?,
        membership_plan: row.try_get("membership_plan_id")?,
        membership_expires_at: row.try_get("membership_expires_at")?,
        membership_active: row.try_get("membership_active")?,
        quota_remaining: row.try_get("quota_left")?,
        created_at: row.try_get("created_at")?,
    })
}
