//! The engine's book of the tasks it has: who runs, what is not written yet, what is to be settled. Pure but for
//! the address of each run's actor.

use super::{
    run::{RunActor, Told},
    waiting::LastTold,
};
use crate::{
    ids::{TaskId, UserId},
    pipeline::state::Ending,
};
use actix::Addr;
use chrono::{DateTime, Utc};
use std::collections::HashMap;

/// How it stands with a task we have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its run takes events in.
    Running,
    /// Its run failed; what it handed over is being written.
    Panicked,
    /// A fresh run is being made.
    Restarting,
    /// The quota actor is being asked.
    Settling,
}

/// A task we have.
pub(super) struct Entry {
    pub(super) user: UserId,
    pub(super) lease_no: i64,
    pub(super) stage: Stage,
    run: Option<Addr<RunActor>>,
    /// What its run handed over and is not written yet.
    pub(super) unwritten: usize,
    /// How it ends, once all is written.
    pub(super) ending: Option<Ending>,
    pub(super) backing_off_until: Option<DateTime<Utc>>,
    /// What the user was last told that it waits for.
    pub(super) told: Option<LastTold>,
}

impl Entry {
    /// A task whose run starts.
    pub(super) fn running(user: UserId, lease_no: i64, run: Addr<RunActor>) -> Self {
        let stage = Stage::Running;
        let (run, ending) = (Some(run), None);
        Self { user, lease_no, stage, run, unwritten: 0, ending, backing_off_until: None, told: None }
    }

    /// A task that is over without a run.
    pub(super) fn over(user: UserId, lease_no: i64, ending: Ending) -> Self {
        Self {
            user,
            lease_no,
            stage: Stage::Running,
            run: None,
            unwritten: 0,
            ending: Some(ending),
            backing_off_until: None,
            told: None,
        }
    }

    /// Tells the run, unless there is none that could hear. A run that has failed meanwhile hears from its
    /// successor's start what it must know.
    pub(super) fn tell(&self, told: Told) {
        if let Some(run) = &self.run {
            drop(run.try_send(told));
        }
    }

    /// Ends the run's actor.
    pub(super) fn quit(&mut self) {
        self.tell(Told::Quit);
        self.run = None;
    }

    /// Whether a call's answer will be taken in, now or by a fresh run.
    pub(super) fn wants_answers(&self) -> bool {
        self.ending.is_none()
    }

    /// Whether all is written and the task is to be settled.
    pub(super) fn is_ready_to_settle(&self) -> bool {
        self.stage == Stage::Running && self.unwritten == 0 && self.ending.is_some()
    }

    /// Whether all is written and a fresh run is to be made.
    pub(super) fn is_ready_to_restart(&self) -> bool {
        self.stage == Stage::Panicked && self.unwritten == 0
    }
}

/// All tasks we have.
pub(super) type Runs = HashMap<TaskId, Entry>;
