//! What the commands work with, and the opening of a session, in which every sign-in ends.

use super::{
    GiftedKeys, InvitationGifts, NewIds, Origin, Phone, RefreshKeys, Scene, SessionError, SessionOpened,
    SmsSender, WechatLogin,
    codes::Codes,
    devices::{Device, Devices},
    passwords::Passwords,
    store::{self, Identity},
    throttle::{Guess, Throttle},
};
use crate::{
    database::Database,
    ids::{SessionId, UserId},
    records::{
        security_log::{NewEntry, SecurityEvent},
        users::Users,
    },
    sealer::Sealer,
    signals::{Signal, Signals},
    stream::StreamHandle,
};
use std::{future::Future, sync::Arc};
use uuid::Uuid;

/// What the commands work with; cheap to clone into their futures.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) database: Database,
    pub(super) users: Users,
    pub(super) signals: Signals,
    pub(super) passwords: Passwords,
    pub(super) throttle: Throttle,
    pub(super) devices: Devices,
    pub(super) codes: Codes,
    pub(super) refresh_keys: RefreshKeys,
    pub(super) sms: Option<Arc<dyn SmsSender>>,
    pub(super) wechat: Option<Arc<dyn WechatLogin>>,
    pub(super) sealer: Arc<dyn Sealer>,
    pub(super) register_requires_code: bool,
    pub(super) gifts: InvitationGifts,
    pub(super) gifted_keys: GiftedKeys,
    pub(super) stream: StreamHandle,
}

impl Tools {
    /// Opens a session of somebody who has shown who they are. It is written down first, so that none is open that the
    /// log does not know.
    pub(super) async fn sign_in_as(
        &self,
        identity: &Identity,
        ids: NewIds,
        how: &'static str,
        origin: &Origin,
    ) -> Result<SessionOpened, SessionError> {
        if identity.banned {
            return Err(SessionError::Banned);
        }
        let user = self.users.get(identity.user).await?.ok_or(SessionError::InvalidCredentials)?;
        let entry = NewEntry::of(identity.user, SecurityEvent::SignedIn, origin)
            .in_session(ids.session)
            .with(serde_json::json!({ "by": how }));
        store::log(&self.database, &entry).await?;
        let token = self.open(identity.user, ids.session, identity.generation, origin).await?;
        Ok(SessionOpened { user, session: ids.session, refresh_token: token, is_new_user: false })
    }

    /// That a session is open, for what outlasts it: an access token of one that was closed speaks for its user until it
    /// ends, and must not change what they sign in with or make a key.
    pub(super) async fn must_be_open(&self, user: UserId, session: SessionId) -> Result<(), SessionError> {
        let device = self.devices.find(user, session).await?;
        let generation = self.must_not_be_closed(user, session).await?;
        if device.is_none_or(|device| device.generation != generation) {
            return Err(SessionError::Unauthenticated);
        }
        Ok(())
    }

    /// That nobody has closed a session, as far as PostgreSQL knows: one that Redis has lost lives as long as its access
    /// token. Answers the generation that holds now.
    pub(super) async fn must_not_be_closed(
        &self,
        user: UserId,
        session: SessionId,
    ) -> Result<i64, SessionError> {
        let standing = store::standing(&self.database, user, session).await?;
        match standing {
            Some(standing) if standing.user.banned_at.is_some() => Err(SessionError::Banned),
            Some(standing) if !standing.is_closed => Ok(standing.generation),
            _ => Err(SessionError::Unauthenticated),
        }
    }

    /// Does what a code was used for, which gives it back where certainly nothing was done.
    pub(super) async fn with_code<T>(
        &self,
        (phone, scene, by): (&Phone, Scene, Uuid),
        work: impl Future<Output = Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        let done = work.await;
        if done.as_ref().is_err_and(SessionError::is_not_done) {
            self.codes.give_back(phone, scene, by).await;
        }
        done
    }

    /// Counts a wrong password and writes it down, and the lock where it is the one that closes.
    pub(super) async fn guess_failed(&self, guess: Guess, failure: NewEntry<'_>) -> Result<(), SessionError> {
        let closes = self.throttle.failed(guess).await?;
        self.log_failure(&failure).await;
        if closes {
            self.log_failure(&NewEntry { event: SecurityEvent::SignInLocked, ..failure }).await;
        }
        Ok(())
    }

    /// A failure that cannot be written down is a failure all the same.
    pub(super) async fn log_failure(&self, failure: &NewEntry<'_>) {
        if let Err(error) = store::log(&self.database, failure).await {
            tracing::warn!(error = %crate::causes(&error), "a failed sign-in is not written down");
        }
    }

    /// Opens a session in Redis; the oldest makes room where there are too many.
    pub(super) async fn open(
        &self,
        user: UserId,
        session: SessionId,
        generation: i64,
        origin: &Origin,
    ) -> Result<secrecy::SecretString, SessionError> {
        let device = Device::new(self.refresh_keys.current_id(), generation, origin);
        let (device, left) = self.devices.open(user, session, &device).await?;
        if !left.is_empty() {
            // they are out of Redis already; PostgreSQL only keeps an older Redis from bringing them back
            let log = Some((SecurityEvent::SessionClosed, origin));
            let closed = self.close_in_postgres(user, &left, log).await;
            if let Err(error) = closed {
                tracing::warn!(error = %crate::causes(&error), "sessions that made room are not written down");
            }
            left.iter().for_each(|session| self.signal_closed(user, *session));
        }
        let token = self.refresh_keys.token(&device.kid, (user, session), &device.nonce, device.n);
        token.ok_or(SessionError::RefreshTokenInvalid)
    }

    /// Writes down that sessions are closed, so that they are refreshed no more.
    pub(super) async fn close_in_postgres(
        &self,
        user: UserId,
        sessions: &[SessionId],
        log: Option<(SecurityEvent, &Origin)>,
    ) -> Result<(), SessionError> {
        Ok(store::close_sessions(&self.database, user, sessions, self.devices.lifetime(), log).await?)
    }

    /// Has the sockets of a session closed, on every replica.
    pub(super) fn signal_closed(&self, user: UserId, session: SessionId) {
        self.signals.send(Signal::SessionClosed { user, session });
    }
}
