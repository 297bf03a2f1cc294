//! The glue to actix: each command becomes a future of the actor, as many at once as the mailbox holds.

use super::{
    Register, SessionError, SessionOpened, SignIn, accounts::Accounts, passwords::Passwords,
    throttle::Throttle,
};
use crate::{
    ask::{Ask, Mailbox, Reply},
    database::Database,
    redis_client::RedisClient,
    supervisor::{ChildSpec, Drain, Supervisor},
};
use actix::{Actor, ActorContext, ActorFutureExt, ArbiterHandle, AsyncContext, Context, Handler, WrapFuture};
use std::{future::Future, time::Duration};

/// Unanswered commands at most. At bcrypt's cost of 12 one core works some 40 s on them.
const CAPACITY: usize = 128;
/// How long a caller waits.
const DEADLINE: Duration = Duration::from_secs(30);

type Opened = Result<SessionOpened, SessionError>;

struct Session {
    accounts: Accounts,
    working: usize,
    draining: bool,
}

impl Session {
    fn work(
        &mut self,
        context: &mut Context<Self>,
        reply: Reply<Opened>,
        work: impl Future<Output = Opened> + 'static,
    ) {
        self.working += 1;
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

impl Handler<Ask<Register, Opened>> for Session {
    type Result = ();

    fn handle(&mut self, ask: Ask<Register, Opened>, context: &mut Self::Context) {
        let (command, reply) = ask.into_parts();
        let accounts = self.accounts.clone();
        self.work(context, reply, async move { accounts.register(command).await });
    }
}

impl Handler<Ask<SignIn, Opened>> for Session {
    type Result = ();

    fn handle(&mut self, ask: Ask<SignIn, Opened>, context: &mut Self::Context) {
        let (command, reply) = ask.into_parts();
        let accounts = self.accounts.clone();
        self.work(context, reply, async move { accounts.sign_in(command).await });
    }
}

impl Handler<Drain> for Session {
    type Result = ();

    fn handle(&mut self, _: Drain, context: &mut Self::Context) {
        self.draining = true;
        self.stop_when_drained(context);
    }
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
        database: Database,
        redis: RedisClient,
        bcrypt_cost: u32,
    ) -> Self {
        let spec = ChildSpec { name: "session", shard: None, capacity: CAPACITY };
        // the bound on hashing threads outlives the actor: so do hashes under way
        let passwords = Passwords::new(bcrypt_cost);
        Self(supervisor.start(arbiter, spec, move |_| Session {
            accounts: Accounts {
                database: database.clone(),
                passwords: passwords.clone(),
                throttle: Throttle::new(redis.clone()),
            },
            working: 0,
            draining: false,
        }))
    }

    /// Makes an account and opens its first session.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn register(&self, command: Register) -> Opened {
        self.0.ask(command, DEADLINE).await?
    }

    /// Opens a session by password.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn sign_in(&self, command: SignIn) -> Opened {
        self.0.ask(command, DEADLINE).await?
    }
}
