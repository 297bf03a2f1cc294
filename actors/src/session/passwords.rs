//! Hashing of passwords: slow on purpose, so on threads of its own and no more of them than cores.

use super::{SessionError, state::check_password};
use bcrypt::{BcryptResult, non_truncating_hash, verify};
use secrecy::{ExposeSecret, SecretString};
use std::{sync::Arc, time::Duration};
use tokio::sync::{Semaphore, SemaphorePermit};

/// A salt and a hash that no password has: whoever asks for an unknown phone waits as long as for a known one.
const NOBODY: &str = "AAAAAAAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.";

/// Passwords that may wait for a thread.
const WAITING: usize = 128;
/// How long they may wait: well within the time that callers do, and that a guess keeps its place.
const PATIENCE: Duration = Duration::from_secs(15);

/// A password could not be hashed or compared: a stored hash that is none, or no randomness. The cause is not told,
/// for it may quote the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a password could not be hashed or compared")]
pub struct HashingFailed;

/// Hashes and checks passwords.
#[derive(Clone)]
pub(super) struct Passwords {
    cost: u32,
    threads: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Passwords {
    /// With this bcrypt cost.
    #[must_use]
    pub(super) fn new(cost: u32) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { cost, threads: Arc::new(Semaphore::new(cores)), places: Arc::new(Semaphore::new(WAITING)) }
    }

    /// Whether a hash costs less than one that is made now. What is no hash of ours is left alone.
    pub(super) fn is_too_cheap(&self, hash: &str) -> bool {
        cost_of(hash).is_some_and(|cost| cost < self.cost)
    }

    /// A hash to store.
    ///
    /// # Errors
    /// [`SessionError::Busy`]; [`SessionError::Hashing`] where the password is longer than bcrypt can take or the machine
    /// has no randomness.
    pub(super) async fn hash(&self, password: SecretString) -> Result<String, SessionError> {
        let cost = self.cost;
        self.on_a_thread(move || non_truncating_hash(password.expose_secret(), cost)).await
    }

    /// Whether `password` has `hash`. To say no takes as long with a hash of an earlier cost and without one.
    ///
    /// # Errors
    /// [`SessionError::Busy`]; [`SessionError::Hashing`] where the stored hash is not one.
    pub(super) async fn verify(
        &self,
        password: SecretString,
        hash: Option<String>,
    ) -> Result<bool, SessionError> {
        // bcrypt reads 72 bytes and stops: what cannot be set is not compared either
        let hash = hash.filter(|_| check_password(password.expose_secret()).is_ok());
        let (known, now) = (hash.is_some(), self.cost);
        let hash = hash.unwrap_or_else(|| hash_of_nobody(now));
        let matches = self.on_a_thread(move || {
            let matches = verify(password.expose_secret(), &hash)?;
            if !matches && let Some(cost) = cost_of(&hash) {
                // each cost is twice the one before: with one more of each up to now it is as long as now
                for cost in cost..now {
                    verify(password.expose_secret(), &hash_of_nobody(cost))?;
                }
            }
            Ok(matches)
        });
        Ok(matches.await? && known)
    }

    async fn on_a_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> BcryptResult<T> + Send + 'static,
    ) -> Result<T, SessionError> {
        let _place: SemaphorePermit<'_> = self.places.try_acquire().map_err(|_| SessionError::Busy)?;
        // the semaphore is never closed; were it, hashing would only be unbounded
        let permit = tokio::time::timeout(PATIENCE, Arc::clone(&self.threads).acquire_owned()).await;
        let permit = permit.map_err(|_| SessionError::Busy)?.ok();
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        Ok(done.await.ok().and_then(Result::ok).ok_or(HashingFailed)?)
    }
}

fn cost_of(hash: &str) -> Option<u32> {
    hash.split('$').nth(2).and_then(|cost| cost.parse().ok())
}

fn hash_of_nobody(cost: u32) -> String {
    format!("$2b${cost:02}${NOBODY}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn a_password_is_known_by_its_hash() {
        let passwords = Passwords::new(4);
        let hash = passwords.hash("correct horse".into()).await.unwrap();
        assert!(passwords.verify("correct horse".into(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("correct horsf".into(), Some(hash)).await.unwrap());
    }

    #[tokio::test]
    async fn a_hash_of_a_lower_cost_is_too_cheap() {
        let hash = Passwords::new(4).hash("correct horse".into()).await.unwrap();
        assert!(Passwords::new(5).is_too_cheap(&hash));
        assert!(!Passwords::new(4).is_too_cheap(&hash) && !Passwords::new(5).is_too_cheap("$x"));
    }

    /// How long it takes to say no.
    async fn refusal(passwords: &Passwords, hash: Option<String>) -> Duration {
        let started = Instant::now();
        assert!(!passwords.verify("wrong horse".into(), hash).await.unwrap());
        started.elapsed()
    }

    #[tokio::test]
    async fn to_say_no_takes_as_long_with_an_earlier_cost_and_where_there_is_nobody() {
        let (earlier, passwords) = (Passwords::new(4), Passwords::new(9));
        let now = passwords.hash("correct horse".into()).await.unwrap();
        let cheap = earlier.hash("correct horse".into()).await.unwrap();
        let known = refusal(&passwords, Some(now)).await;
        for (of, other) in [
            ("nobody", refusal(&passwords, None).await),
            ("a cheap hash", refusal(&passwords, Some(cheap)).await),
        ] {
            assert!(other * 4 > known, "{of}: {other:?} against {known:?}");
        }
    }
}
