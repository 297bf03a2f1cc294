//! Panics on purpose, so that tests can see what supervision is for. Only in builds with the `faults` feature.

#[cfg(feature = "faults")]
mod armed {
    use std::{
        collections::HashMap,
        sync::{Mutex, PoisonError},
    };

    static ARMED: Mutex<Option<HashMap<String, u32>>> = Mutex::new(None);

    /// Makes the next `times` passages of `point` panic.
    pub fn arm(point: &str, times: u32) {
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        armed.get_or_insert_default().insert(point.to_owned(), times);
    }

    /// Panics if `point` is armed.
    #[expect(clippy::panic, reason = "panicking is what this is for")]
    pub fn point(point: &str) {
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = armed.as_mut().and_then(|armed| armed.get_mut(point))
            && *left > 0
        {
            *left -= 1;
            drop(armed);
            panic!("fault injected at {point}");
        }
    }
}

#[cfg(feature = "faults")]
pub use armed::{arm, point};

/// Nothing: this build has no faults.
#[cfg(not(feature = "faults"))]
#[inline]
pub fn point(_point: &str) {}
