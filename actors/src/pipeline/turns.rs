//! Which of the queued tasks is started next, and how many may be taken at once. Pure; SQL says who waits, and stays
//! the judge of ceilings.
//!
//! A queue is made of the tasks whose first call asks the same provider. In it users take turns, one task each, in the
//! order of their ids; tasks of members and of guests are two rings of users, and after [`MEMBERS`] tasks of members
//! one of a guest is started, so that neither starves. A user's own tasks go by age. Who has as many running as may be
//! is passed over and keeps the tasks.

use crate::ids::{TaskId, UserId};
use std::collections::{HashMap, VecDeque};
use uuid::Uuid;

/// Tasks of members that are started before one of a guest.
pub(crate) const MEMBERS: i16 = 3;
/// Tasks that wait for one of a replica's cores once they are taken, per core: what cores do takes some ten
/// milliseconds.
const PER_CORE: usize = 16;

/// Who waits: the two rings of a queue. The numbers are the tasks' priorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ring {
    Guests = 0,
    Members = 1,
}

impl Ring {
    /// The ring of a user's tasks.
    pub(crate) fn of(is_member: bool) -> Self {
        if is_member { Self::Members } else { Self::Guests }
    }

    /// The ring of tasks of that priority.
    pub(crate) fn with(priority: i16) -> Self {
        Self::of(priority > 0)
    }

    /// The priority of its tasks.
    pub(crate) const fn priority(self) -> i16 {
        self as i16
    }
}

/// What bounds the tasks that are taken from a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// The slots of its provider, and whether calls may leave now.
    Slots { ceiling: i32, is_open: bool },
    /// Its provider takes no calls: tasks that have another one to ask are taken, and no others.
    Fallbacks { ceiling: i32 },
    /// The cores of each replica, so many of this one.
    Cores(usize),
}

/// How a queue stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Slots of its provider that nobody holds.
    pub(crate) free: i64,
    /// Its tasks that were taken by any replica and have made no call yet.
    pub(crate) taken: i64,
    /// Those of them that this replica has taken.
    pub(crate) taken_here: i64,
    /// Those that have another provider to ask.
    pub(crate) taken_with_fallback: i64,
}

impl Bound {
    /// How many tasks may be taken: what can leave at once, and so many more that no slot has to wait for a claim. A
    /// replica has one at hand, so that it hands on the slot of a call that ends there without asking another one.
    pub(crate) fn room(self, standing: Standing) -> i64 {
        let room = match self {
            Self::Slots { ceiling, is_open } => {
                let Standing { free, taken, taken_here, .. } = standing;
                let at_hand = (1 - taken_here).min(i64::from(ceiling) - taken);
                (spare(ceiling) + if is_open { free } else { 0 } - taken).max(at_hand)
            }
            Self::Fallbacks { ceiling } => spare(ceiling) - standing.taken_with_fallback,
            Self::Cores(cores) => i64::try_from(cores * PER_CORE).unwrap_or(i64::MAX) - standing.taken_here,
        };
        room.max(0)
    }
}

/// How many tasks are taken beyond those that can leave at once.
fn spare(ceiling: i32) -> i64 {
    i64::from(ceiling / 2).max(1)
}

/// Where a queue's turns have come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turns {
    /// The members' and the guests' last one who had a turn, or was passed over.
    pub(crate) member: UserId,
    pub(crate) guest: UserId,
    /// Members' turns since a guest's.
    pub(crate) members: i16,
}

impl Default for Turns {
    fn default() -> Self {
        let nobody = UserId(Uuid::nil());
        Self { member: nobody, guest: nobody, members: 0 }
    }
}

impl Turns {
    /// Who had the last turn of a ring.
    pub(crate) fn last(&self, ring: Ring) -> UserId {
        match ring {
            Ring::Members => self.member,
            Ring::Guests => self.guest,
        }
    }
}

/// A user who waits, with the tasks that may be started, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) user: UserId,
    pub(crate) tasks: VecDeque<TaskId>,
}

/// Those of a ring who are next, in the order of their turns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) waiters: VecDeque<Waiter>,
    /// Whether nobody else is in the ring: then it may be gone around again.
    pub(crate) is_whole: bool,
}

impl Next {
    /// The next task of those who may start one. Moves `last` on.
    fn take(&mut self, last: &mut UserId, room: &mut HashMap<UserId, i64>) -> Option<TaskId> {
        while let Some(mut waiter) = self.waiters.pop_front() {
            *last = waiter.user;
            let left = room.entry(waiter.user).or_insert(0);
            if *left <= 0 {
                continue;
            }
            let Some(task) = waiter.tasks.pop_front() else { continue };
            *left -= 1;
            if self.is_whole {
                self.waiters.push_back(waiter);
            }
            return Some(task);
        }
        None
    }
}

/// Chooses at most `limit` tasks in turn. `room` is how many more of each user may run.
pub(crate) fn choose(
    turns: &mut Turns,
    members: &mut Next,
    guests: &mut Next,
    room: &mut HashMap<UserId, i64>,
    limit: usize,
) -> Vec<TaskId> {
    let mut chosen = Vec::new();
    while chosen.len() < limit {
        let is_guests_turn = turns.members >= MEMBERS;
        let guest = if is_guests_turn { guests.take(&mut turns.guest, room) } else { None };
        let member = if guest.is_none() { members.take(&mut turns.member, room) } else { None };
        let (is_member, task) = match member {
            Some(task) => (true, Some(task)),
            // without members guests need not wait for three of them
            None if !is_guests_turn => (false, guests.take(&mut turns.guest, room)),
            None => (false, guest),
        };
        let Some(task) = task else { break };
        turns.members = if is_member { (turns.members + 1).min(MEMBERS) } else { 0 };
        chosen.push(task);
    }
    chosen
}

/// How many tasks of each user wait in a queue, by ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Crowd {
    pub(crate) turns: Turns,
    pub(crate) members: HashMap<UserId, i64>,
    pub(crate) guests: HashMap<UserId, i64>,
}

impl Crowd {
    fn of(&self, ring: Ring) -> &HashMap<UserId, i64> {
        match ring {
            Ring::Members => &self.members,
            Ring::Guests => &self.guests,
        }
    }

    /// How many tasks of the queue start before the one of `user` that has `before` own ones before it, if nobody
    /// comes and nobody is passed over.
    pub(crate) fn place(&self, ring: Ring, user: UserId, before: i64) -> i64 {
        let last = self.turns.last(ring);
        // behind the last one first, then from the start
        let turn = |user: UserId| (user <= last, user);
        let others = self.of(ring).iter().filter(|(other, _)| **other != user);
        let ahead =
            |(other, count): (&UserId, &i64)| (*count).min(before + i64::from(turn(*other) < turn(user)));
        let own_ring = before + others.map(ahead).sum::<i64>();
        let (each, since) = (i64::from(MEMBERS), i64::from(self.turns.members));
        let other_ring = match ring {
            Ring::Members => ((own_ring + since) / each).min(self.guests.values().sum()),
            Ring::Guests => ((own_ring + 1) * each - since).max(0).min(self.members.values().sum()),
        };
        own_ring + other_ring
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn user(number: usize) -> UserId {
        UserId(Uuid::from_u128(number as u128 + 1))
    }

    /// Tasks that wait: of each user some as a member's and some as a guest's.
    type Waiting = HashMap<(Ring, UserId), VecDeque<TaskId>>;

    fn waiting(counts: &[(usize, usize)]) -> Waiting {
        let tasks = |count: usize| (0..count).map(|_| TaskId::new()).collect::<VecDeque<_>>();
        let of = |(number, (members, guests)): (usize, &(usize, usize))| {
            let user = user(number);
            [((Ring::Members, user), tasks(*members)), ((Ring::Guests, user), tasks(*guests))]
        };
        counts.iter().enumerate().flat_map(of).filter(|(_, tasks)| !tasks.is_empty()).collect()
    }

    /// What SQL does: the first `width` users behind the last turn.
    fn next(waiting: &Waiting, turns: &Turns, ring: Ring, width: usize) -> Next {
        let last = turns.last(ring);
        let mut users: Vec<_> =
            waiting.keys().filter(|(of, _)| *of == ring).map(|(_, user)| (*user <= last, *user)).collect();
        users.sort();
        let is_whole = users.len() <= width;
        let waiter = |(_, user): (bool, UserId)| Waiter { user, tasks: waiting[&(ring, user)].clone() };
        Next { waiters: users.into_iter().take(width).map(waiter).collect(), is_whole }
    }

    fn claim(
        waiting: &mut Waiting,
        turns: &mut Turns,
        room: &mut HashMap<UserId, i64>,
        width: usize,
        limit: usize,
    ) -> Vec<(Ring, UserId, TaskId)> {
        let mut members = next(waiting, turns, Ring::Members, width);
        let mut guests = next(waiting, turns, Ring::Guests, width);
        let chosen = choose(turns, &mut members, &mut guests, room, limit);
        let mut started = Vec::new();
        for task in chosen {
            let (&(ring, user), tasks) = waiting.iter_mut().find(|(_, tasks)| tasks.contains(&task)).unwrap();
            assert_eq!(tasks.pop_front(), Some(task), "a user's own tasks go by age");
            started.push((ring, user, task));
        }
        waiting.retain(|_, tasks| !tasks.is_empty());
        started
    }

    fn unlimited(counts: &[(usize, usize)]) -> HashMap<UserId, i64> {
        (0..counts.len()).map(|number| (user(number), i64::MAX)).collect()
    }

    fn crowd(waiting: &Waiting, turns: Turns) -> Crowd {
        let mut crowd = Crowd { turns, ..Crowd::default() };
        for ((ring, user), tasks) in waiting {
            let of = if *ring == Ring::Members { &mut crowd.members } else { &mut crowd.guests };
            of.insert(*user, tasks.len() as i64);
        }
        crowd
    }

    fn any_counts() -> impl Strategy<Value = Vec<(usize, usize)>> {
        vec((0..6usize, 0..6usize), 1..8)
    }

    fn any_turns() -> impl Strategy<Value = Turns> {
        (0..9usize, 0..9usize, 0..=MEMBERS).prop_map(|(member, guest, members)| Turns {
            member: user(member),
            guest: user(guest),
            members,
        })
    }

    proptest! {
        #[test]
        fn all_are_started_whatever_is_seen_at_once(
            counts in any_counts(), mut turns in any_turns(), width in 1..9usize, limit in 1..9usize,
        ) {
            let (mut waiting, mut room) = (waiting(&counts), unlimited(&counts));
            let all: usize = waiting.values().map(VecDeque::len).sum();
            let mut started = 0;
            while !waiting.is_empty() {
                let claimed = claim(&mut waiting, &mut turns, &mut room, width, limit);
                prop_assert!(!claimed.is_empty() && claimed.len() <= limit);
                started += claimed.len();
            }
            prop_assert_eq!(started, all);
        }

        #[test]
        fn while_somebody_waits_nobody_of_the_same_ring_has_two_turns(
            counts in any_counts(), mut turns in any_turns(), width in 1..9usize, limit in 1..9usize,
        ) {
            let (mut waiting, mut room) = (waiting(&counts), unlimited(&counts));
            let mut turns_of: HashMap<(Ring, UserId), usize> = HashMap::new();
            while !waiting.is_empty() {
                for (ring, user, _) in claim(&mut waiting, &mut turns, &mut room, width, limit) {
                    *turns_of.entry((ring, user)).or_default() += 1;
                    let had = turns_of[&(ring, user)];
                    for other in waiting.keys().filter(|(of, other)| *of == ring && *other != user) {
                        let others = turns_of.get(other).copied().unwrap_or(0);
                        prop_assert!(had <= others + 1, "{} against {}", had, others);
                    }
                }
            }
        }

        #[test]
        fn a_guest_starts_after_three_members_at_most_and_a_member_after_one_guest(
            counts in any_counts(), mut turns in any_turns(), width in 1..9usize,
        ) {
            let (mut waiting, mut room) = (waiting(&counts), unlimited(&counts));
            let mut order = Vec::new();
            while !waiting.is_empty() {
                let rings: Vec<Ring> = waiting.keys().map(|(ring, _)| *ring).collect();
                let both = rings.contains(&Ring::Members) && rings.contains(&Ring::Guests);
                let claimed = claim(&mut waiting, &mut turns, &mut room, width, 1);
                order.extend(claimed.into_iter().map(|(ring, ..)| (ring, both)));
            }
            let contested: Vec<Ring> = order.into_iter().take_while(|(_, both)| *both).map(|(ring, _)| ring).collect();
            let runs = contested.chunk_by(|one, other| one == other);
            for run in runs {
                let most = if run[0] == Ring::Members { 3 } else { 1 };
                prop_assert!(run.len() <= most, "{:?}", contested);
            }
        }

        #[test]
        fn nobody_runs_more_than_there_is_room_for(
            counts in any_counts(), mut turns in any_turns(), rooms in vec(0..4i64, 8), limit in 1..20usize,
        ) {
            let mut waiting = waiting(&counts);
            let allowed: HashMap<UserId, i64> = (0..8).map(|number| (user(number), rooms[number])).collect();
            let claimed = claim(&mut waiting, &mut turns, &mut allowed.clone(), 8, limit);
            for (number, room) in rooms.iter().enumerate() {
                let started = claimed.iter().filter(|(_, of, _)| *of == user(number)).count() as i64;
                prop_assert!(started <= *room);
            }
            // and room is used
            let startable: i64 = (0..counts.len())
                .map(|number| rooms[number].min((counts[number].0 + counts[number].1) as i64)).sum();
            prop_assert_eq!(claimed.len() as i64, startable.min(limit as i64));
        }

        #[test]
        fn a_place_is_how_many_start_before(counts in any_counts(), turns in any_turns()) {
            let mut waiting = waiting(&counts);
            let crowd = crowd(&waiting, turns);
            let mut own = HashMap::new();
            for ((ring, user), tasks) in &waiting {
                for (before, task) in tasks.iter().enumerate() {
                    own.insert(*task, crowd.place(*ring, *user, before as i64));
                }
            }
            let all = own.len();
            let order = claim(&mut waiting, &mut { turns }, &mut unlimited(&counts), 8, all);
            for (place, (ring, user, task)) in order.into_iter().enumerate() {
                prop_assert_eq!(own[&task], place as i64, "{:?} of {:?}", ring, user);
            }
        }
    }

    #[test]
    fn no_more_is_taken_than_can_leave_and_half_the_ceiling_or_one_of_each_replica() {
        let slots = |ceiling, is_open| Bound::Slots { ceiling, is_open };
        let standing =
            |free, taken, taken_here| Standing { free, taken, taken_here, taken_with_fallback: taken_here };
        for (bound, standing, room) in [
            (slots(5, true), standing(5, 0, 0), 7),
            (slots(5, true), standing(0, 0, 0), 2),
            (slots(5, true), standing(0, 2, 1), 0),
            (slots(5, true), standing(1, 2, 1), 1),
            (slots(5, true), standing(0, 2, 0), 1),
            (slots(5, true), standing(0, 4, 0), 1),
            (slots(5, true), standing(0, 5, 0), 0),
            (slots(5, true), standing(0, 9, 0), 0),
            (slots(1, true), standing(0, 1, 0), 0),
            (slots(1, true), standing(1, 0, 0), 2),
            (slots(1, true), standing(0, 1, 1), 0),
            (slots(5, false), standing(5, 0, 0), 2),
            (slots(5, false), standing(5, 2, 1), 0),
            (Bound::Fallbacks { ceiling: 5 }, standing(5, 9, 0), 2),
            (Bound::Fallbacks { ceiling: 5 }, standing(5, 9, 2), 0),
            (Bound::Cores(2), standing(0, 90, 0), 32),
            (Bound::Cores(2), standing(0, 90, 30), 2),
            (Bound::Cores(2), standing(0, 90, 40), 0),
        ] {
            assert_eq!(bound.room(standing), room, "{bound:?} {standing:?}");
        }
    }
}
