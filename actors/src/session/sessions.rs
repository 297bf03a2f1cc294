//! Sessions that are open: refreshed, listed and closed.

use super::{
    CloseSession, OpenedSession, Origin, Refresh, SessionError, SessionOpened, SignOut,
    devices::{Device, Rotation},
    refresh::ClaimedToken,
    store,
    tools::Tools,
};
use crate::{
    faults,
    ids::{SessionId, UserId},
    records::security_log::{NewEntry, SecurityEvent},
    signals::Signal,
};
use secrecy::SecretString;

impl Tools {
    pub(super) async fn refresh(&self, command: Refresh) -> Result<SessionOpened, SessionError> {
        let Refresh { token, origin } = command;
        let claimed = ClaimedToken::parse(&token).ok_or(SessionError::RefreshTokenInvalid)?;
        let (user, session) = (claimed.user, claimed.session);
        let device = self.genuine(&claimed).await?.ok_or(SessionError::RefreshTokenInvalid)?;
        // before the token is used up: who meets a failure here can come again with the same one
        let standing = store::standing(&self.database, user, session).await?;
        let store::Standing { user: record, generation, is_closed } =
            standing.ok_or(SessionError::RefreshTokenInvalid)?;
        if record.banned_at.is_some() {
            return Err(SessionError::Banned);
        }
        if is_closed {
            return Err(SessionError::RefreshTokenInvalid);
        }
        let next_key_id = self.refresh_keys.current_id();
        let rotation = self
            .devices
            .rotate((user, session), &device, generation, claimed.number, next_key_id, &origin)
            .await?;
        faults::point("session.rotated");
        let next = match rotation {
            Rotation::Next(number, key_id) => {
                self.refresh_keys.token(&key_id, (user, session), &device.nonce, number)
            }
            Rotation::Gone => return Err(SessionError::RefreshTokenInvalid),
            Rotation::Reused => {
                tracing::warn!(%user, %session, "a refresh token was used twice; its session is closed");
                self.signal_closed(user, session);
                let log = Some((SecurityEvent::TokenReused, &origin));
                self.close_in_postgres(user, &[session], log).await?;
                return Err(SessionError::RefreshTokenReused);
            }
        };
        let refresh_token = next.ok_or(SessionError::RefreshTokenInvalid)?;
        Ok(SessionOpened { user: record, session, refresh_token, is_new_user: false })
    }

    /// The session of a token that was derived from it.
    async fn genuine(&self, claimed: &ClaimedToken) -> Result<Option<Device>, SessionError> {
        let device = self.devices.find(claimed.user, claimed.session).await?;
        Ok(device.filter(|device| self.refresh_keys.prove(claimed, &device.nonce)))
    }

    /// Closes what is open; nothing to close is no fault.
    pub(super) async fn sign_out(&self, command: SignOut) -> Result<(), SessionError> {
        let SignOut { token, bearer, everywhere, origin } = command;
        if token.is_none() && bearer.is_none() {
            return Err(SessionError::Unauthenticated);
        }
        let by_token = match &token {
            Some(token) => self.session_of(token).await?,
            None => None,
        };
        let Some((user, session)) = by_token.or(bearer) else { return Ok(()) };
        if everywhere {
            let entry = NewEntry::of(user, SecurityEvent::SignedOutEverywhere, &origin).in_session(session);
            // where Redis is away nothing is done
            self.devices.find(user, session).await?;
            let generation = store::close_all_sessions(&self.database, user, &entry).await?;
            self.forget_before(user, generation, None).await;
            return Ok(());
        }
        self.close(user, session, SecurityEvent::SignedOut, &origin).await
    }

    async fn session_of(&self, token: &SecretString) -> Result<Option<(UserId, SessionId)>, SessionError> {
        let Some(claimed) = ClaimedToken::parse(token) else { return Ok(None) };
        let device = self.genuine(&claimed).await?;
        Ok(device.map(|_| (claimed.user, claimed.session)))
    }

    /// Closes a session, in PostgreSQL first: what Redis forgets it may bring back.
    async fn close(
        &self,
        user: UserId,
        session: SessionId,
        event: SecurityEvent,
        origin: &Origin,
    ) -> Result<(), SessionError> {
        // where Redis is away nothing is done
        self.devices.find(user, session).await?;
        self.close_in_postgres(user, &[session], Some((event, origin))).await?;
        self.signal_closed(user, session);
        Ok(self.devices.close(user, session).await?)
    }

    /// Forgets the sessions of a user that PostgreSQL has closed: `generation` holds now, and `kept` goes on in it. It is
    /// done whatever becomes of this, for no session of an earlier generation is refreshed.
    pub(super) async fn forget_before(&self, user: UserId, generation: Option<i64>, kept: Option<SessionId>) {
        let Some(generation) = generation else { return };
        self.signals.send(Signal::SessionsClosed { user, kept });
        let forgotten = async {
            let closed = self.devices.close_before(user, generation, kept).await?;
            // so that their access tokens open no socket
            self.close_in_postgres(user, &closed, None).await
        };
        if let Err(error) = forgotten.await {
            tracing::warn!(error = %crate::causes(&error), %user, "closed sessions are not forgotten");
        }
    }

    pub(super) async fn list(&self, user: UserId) -> Result<Vec<OpenedSession>, SessionError> {
        let devices = self.devices.list(user).await?;
        let ids: Vec<SessionId> = devices.iter().map(|(id, _)| *id).collect();
        let identity = store::identity_of_user(&self.database, user).await?.ok_or(SessionError::NotFound)?;
        let closed = store::closed_among(&self.database, &ids).await?;
        let is_open = |(id, device): &(SessionId, Device)| {
            device.generation == identity.generation && !closed.contains(id)
        };
        let view = |(id, device): (SessionId, Device)| OpenedSession {
            id,
            created_at: Device::time(device.created),
            used_at: Device::time(device.used),
            expires_at: Device::time(device.expires),
            user_agent: device.agent,
            address: device.address,
        };
        let mut sessions: Vec<_> = devices.into_iter().filter(is_open).map(view).collect();
        sessions.sort_by_key(|session| std::cmp::Reverse(session.id));
        Ok(sessions)
    }

    /// Closes one of the sessions of a user; one that was closed before is closed.
    pub(super) async fn close_one(&self, command: CloseSession) -> Result<(), SessionError> {
        let CloseSession { user, session, origin } = command;
        if self.devices.find(user, session).await?.is_none() {
            let is_closed = store::is_closed_of(&self.database, user, session).await?;
            return if is_closed { Ok(()) } else { Err(SessionError::NotFound) };
        }
        self.close(user, session, SecurityEvent::SessionClosed, &origin).await
    }
}
