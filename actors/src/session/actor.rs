//! The glue to actix: each command becomes a future of the actor, as many at once as the mailbox holds.

use super::{
    BindWechat, ChangePhone, CloseSession, DeleteAccount, GiftedKeys, InvitationGifts, OpenedSession,
    Refresh, RefreshKeys, Register, ResetPassword, SendCode, SessionError, SessionOpened, SetPassword,
    SignIn, SignInByWechat, SignOut, SmsSender, WechatLogin, codes::Codes, devices::Devices,
    passwords::Passwords, throttle::Throttle, tools::Tools,
};
use crate::{
    ask::{Ask, Mailbox, Reply},
    database::Database,
    ids::{SessionId, UserId},
    records::users::Users,
    redis_client::RedisClient,
    sealer::Sealer,
    signals::Signals,
    stream::StreamHandle,
    supervisor::{ChildSpec, Drain, Supervisor},
};
use actix::{Actor, ActorContext, ActorFutureExt, ArbiterHandle, AsyncContext, Context, Handler, WrapFuture};
use std::{future::Future, sync::Arc, time::Duration};

/// Unanswered commands at most. Those that wait for a password to be hashed are bounded for themselves.
const CAPACITY: usize = 1024;
/// How long a caller waits.
const DEADLINE: Duration = Duration::from_secs(30);

type Answer<C> = Result<<C as Command>::Done, SessionError>;

/// Something the actor does.
trait Command: Send + 'static {
    type Done: Send + 'static;

    fn run(self, tools: Tools) -> impl Future<Output = Answer<Self>> + 'static
    where
        Self: Sized;
}

macro_rules! commands {
    ($($command:ident => $done:ty: $method:ident),* $(,)?) => {
        $(impl Command for $command {
            type Done = $done;

            async fn run(self, tools: Tools) -> Answer<Self> {
                tools.$method(self).await
            }
        })*
    };
}

/// The sessions of a user.
struct ListSessions(UserId);

/// Something must be done in a session that is open.
struct RequireOpen(UserId, SessionId);

/// Something must be done in a session that nobody has closed.
struct RequireNotClosed(UserId, SessionId);

commands! {
    SendCode => (): send_code,
    Register => SessionOpened: register,
    SignIn => SessionOpened: sign_in,
    SignInByWechat => SessionOpened: sign_in_by_wechat,
    Refresh => SessionOpened: refresh,
    SignOut => (): sign_out,
    CloseSession => (): close_one,
    SetPassword => (): set_password,
    ResetPassword => (): reset_password,
    ChangePhone => (): change_phone,
    BindWechat => (): bind_wechat,
    DeleteAccount => (): delete_account,
}

impl Command for ListSessions {
    type Done = Vec<OpenedSession>;

    async fn run(self, tools: Tools) -> Answer<Self> {
        tools.list(self.0).await
    }
}

impl Command for RequireNotClosed {
    type Done = ();

    async fn run(self, tools: Tools) -> Answer<Self> {
        tools.must_not_be_closed(self.0, self.1).await.map(drop)
    }
}

impl Command for RequireOpen {
    type Done = ();

    async fn run(self, tools: Tools) -> Answer<Self> {
        tools.must_be_open(self.0, self.1).await
    }
}

struct Session {
    tools: Tools,
    working: usize,
    draining: bool,
}

impl Session {
    fn work<C: Command>(&mut self, context: &mut Context<Self>, command: C, reply: Reply<Answer<C>>) {
        self.working += 1;
        let work = command.run(self.tools.clone());
        let answered = async move { reply.send(work.await) };
        context.spawn(answered.into_actor(self).map(|(), session, context| {
            session.working -= 1;
            session.stop_when_drained(context);
        }));
    }

    fn stop_when_drained(&self, context: &mut Context<Self>) {
        if self.draining && self.working == 0 {
            context.stop();
        }
    }
}

impl Actor for Session {
    type Context = Context<Self>;
}

impl<C: Command> Handler<Ask<C, Answer<C>>> for Session {
    type Result = ();

    fn handle(&mut self, ask: Ask<C, Answer<C>>, context: &mut Self::Context) {
        let (command, reply) = ask.into_parts();
        self.work(context, command, reply);
    }
}

impl Handler<Drain> for Session {
    type Result = ();

    fn handle(&mut self, _: Drain, context: &mut Self::Context) {
        self.draining = true;
        self.stop_when_drained(context);
    }
}

/// How sessions are made.
#[derive(Clone)]
pub struct SessionSettings {
    /// Cost of a password's hash; each step doubles the time.
    pub bcrypt_cost: u32,
    /// How long a session lasts that is not refreshed.
    pub refresh_lifetime: Duration,
    /// Whether a registration must bring a code that was sent to the phone.
    pub register_requires_code: bool,
    /// What invitations give.
    pub gifts: InvitationGifts,
    /// Know again whom they have given something.
    pub gifted_keys: GiftedKeys,
    /// Derive refresh tokens.
    pub refresh_keys: RefreshKeys,
    /// Hashes codes; random and used for nothing else.
    pub code_key: [u8; 32],
}

/// What the actor needs around it.
#[derive(Clone)]
pub struct SessionParts {
    /// Accounts and closed sessions.
    pub database: Database,
    /// Open sessions, codes and throttles.
    pub redis: RedisClient,
    /// Tells all replicas of closed sessions.
    pub signals: Signals,
    /// Tells users of their gifts.
    pub stream: StreamHandle,
    /// Who sends codes; none where that is not set up.
    pub sms: Option<Arc<dyn SmsSender>>,
    /// Who knows the mini-program's users; nobody where that is not set up.
    pub wechat: Option<Arc<dyn WechatLogin>>,
    /// Seals their session keys.
    pub sealer: Arc<dyn Sealer>,
}

/// The way to the session actor. Clones share it.
#[derive(Clone)]
pub struct SessionHandle(Mailbox<Session>);

impl SessionHandle {
    /// Starts the actor on `arbiter`.
    #[must_use]
    pub fn start(
        supervisor: &Supervisor,
        arbiter: &ArbiterHandle,
        parts: SessionParts,
        settings: SessionSettings,
    ) -> Self {
        let spec = ChildSpec { name: "session", shard: None, capacity: CAPACITY };
        let SessionParts { database, redis, signals, stream, sms, wechat, sealer } = parts;
        let tools = Tools {
            users: Users::new(database.clone(), signals.clone()),
            database,
            signals,
            // the bound on hashing threads outlives the actor: so do hashes under way
            passwords: Passwords::new(settings.bcrypt_cost),
            throttle: Throttle::new(redis.clone()),
            devices: Devices::new(redis.clone(), settings.refresh_lifetime),
            codes: Codes::new(redis, settings.code_key),
            refresh_keys: settings.refresh_keys,
            sms,
            wechat,
            sealer,
            register_requires_code: settings.register_requires_code,
            gifts: settings.gifts,
            gifted_keys: settings.gifted_keys,
            stream,
        };
        Self(supervisor.start(arbiter, spec, move |_| Session {
            tools: tools.clone(),
            working: 0,
            draining: false,
        }))
    }

    async fn ask<C: Command>(&self, command: C) -> Answer<C> {
        self.0.ask(command, DEADLINE).await?
    }

    /// Sends a code to a phone, whether or not it has an account.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn send_code(&self, command: SendCode) -> Result<(), SessionError> {
        self.ask(command).await
    }

    /// Makes an account and opens its first session.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn register(&self, command: Register) -> Result<SessionOpened, SessionError> {
        self.ask(command).await
    }

    /// Opens a session by password or code.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn sign_in(&self, command: SignIn) -> Result<SessionOpened, SessionError> {
        self.ask(command).await
    }

    /// Opens a session by the mini-program. Not to be repeated: its code works once.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn sign_in_by_wechat(&self, command: SignInByWechat) -> Result<SessionOpened, SessionError> {
        self.ask(command).await
    }

    /// Takes a refresh token for its successor; the same one within ten seconds gives the same one again.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn refresh(&self, command: Refresh) -> Result<SessionOpened, SessionError> {
        self.ask(command).await
    }

    /// Closes a session or all; what is closed already is no fault.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn sign_out(&self, command: SignOut) -> Result<(), SessionError> {
        self.ask(command).await
    }

    /// The open sessions of a user, newest first: at most ten.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn list(&self, user: UserId) -> Result<Vec<OpenedSession>, SessionError> {
        self.ask(ListSessions(user)).await
    }

    /// Closes one of a user's sessions.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn close(&self, command: CloseSession) -> Result<(), SessionError> {
        self.ask(command).await
    }

    /// That a session is open now, for what must not be done by an access token alone.
    ///
    /// # Errors
    /// [`SessionError::Unauthenticated`] where it is closed, [`SessionError::Banned`]; PostgreSQL and Redis.
    pub async fn must_be_open(&self, user: UserId, session: SessionId) -> Result<(), SessionError> {
        self.ask(RequireOpen(user, session)).await
    }

    /// That nobody has closed a session, for a socket that follows it. One that Redis has lost lives as long as its access
    /// token.
    ///
    /// # Errors
    /// [`SessionError::Unauthenticated`] where it is closed, [`SessionError::Banned`]; PostgreSQL.
    pub async fn must_not_be_closed(&self, user: UserId, session: SessionId) -> Result<(), SessionError> {
        self.ask(RequireNotClosed(user, session)).await
    }

    /// Sets a password and closes the other sessions.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn set_password(&self, command: SetPassword) -> Result<(), SessionError> {
        self.ask(command).await
    }

    /// Sets a password that was forgotten and closes all sessions.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn reset_password(&self, command: ResetPassword) -> Result<(), SessionError> {
        self.ask(command).await
    }

    /// Takes another phone.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn change_phone(&self, command: ChangePhone) -> Result<(), SessionError> {
        self.ask(command).await
    }

    /// Deletes an account and closes its sessions. What it has beside its identity is upkeep's to remove.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn delete_account(&self, command: DeleteAccount) -> Result<(), SessionError> {
        self.ask(command).await
    }

    /// Binds the mini-program's user to an account. Not to be repeated: its code works once.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn bind_wechat(&self, command: BindWechat) -> Result<(), SessionError> {
        self.ask(command).await
    }
}
