//! The glue to actix: what arrives while a flush is out gathers, and goes into the next one.

use super::{
    QuotaError,
    commands::{Asked, Command, Job},
    flush::{Tools, flush},
};
use crate::{ask::Ask, supervisor::Drain};
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use std::{collections::VecDeque, time::Instant};

/// Commands in one transaction at most. Larger ones gain little and make everybody in them wait.
const BATCH: usize = 512;

/// Orders and batches the commands of the users of one shard. It keeps nothing between flushes: the state of
/// an account is read under its lock each time, because another replica may have changed it.
pub(crate) struct QuotaActor {
    tools: Tools,
    shard: &'static str,
    pending: VecDeque<Box<dyn Job>>,
    in_flight: bool,
    draining: bool,
}

impl QuotaActor {
    pub(super) fn new(tools: Tools, shard: &'static str) -> Self {
        Self { tools, shard, pending: VecDeque::new(), in_flight: false, draining: false }
    }

    /// Sends off what has gathered, unless a flush is out already. No timer: a command that finds the shard
    /// idle waits for nothing but the messages that are in the mailbox with it.
    fn flush_next(&mut self, context: &mut Context<Self>) {
        if self.in_flight {
            return;
        }
        if self.pending.is_empty() {
            if self.draining {
                context.stop();
            }
            return;
        }
        self.in_flight = true;
        let gathered = tokio::task::yield_now().into_actor(self).then(|(), actor, _| {
            let tools = actor.tools.clone();
            let (batch, shard) = (actor.take_batch(), actor.shard);
            let flushed = async move {
                let began = Instant::now();
                #[expect(clippy::cast_precision_loss, reason = "a batch has some hundreds")]
                metrics::histogram!("greenroom_quota_batch_commands").record(batch.len() as f64);
                flush(&tools, batch).await;
                metrics::histogram!("greenroom_quota_flush_seconds", "shard" => shard)
                    .record(began.elapsed().as_secs_f64());
            };
            flushed.into_actor(actor)
        });
        context.spawn(gathered.map(|(), actor, context| {
            actor.in_flight = false;
            actor.flush_next(context);
        }));
    }

    fn take_batch(&mut self) -> Vec<Box<dyn Job>> {
        let mut weight = 0;
        let fits = self.pending.iter().take_while(|job| {
            weight += job.weight();
            weight <= BATCH
        });
        let count = fits.count().max(1).min(self.pending.len());
        let batch = self.pending.drain(..count).collect();
        #[expect(clippy::cast_precision_loss, reason = "bounded by the mailbox")]
        metrics::gauge!("greenroom_quota_pending", "shard" => self.shard).set(self.pending.len() as f64);
        batch
    }
}

impl Actor for QuotaActor {
    type Context = Context<Self>;
}

impl<C: Command> Handler<Ask<C, Result<C::Done, QuotaError>>> for QuotaActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<C, Result<C::Done, QuotaError>>, context: &mut Context<Self>) {
        let (command, reply) = ask.into_parts();
        self.pending.push_back(Box::new(Asked::new(command, reply)));
        self.flush_next(context);
    }
}

impl Handler<Drain> for QuotaActor {
    type Result = ();

    fn handle(&mut self, _: Drain, context: &mut Context<Self>) {
        self.draining = true;
        self.flush_next(context);
    }
}
