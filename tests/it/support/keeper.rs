//! One thread that lives as long as the test process. The kernel kills our child processes when the thread that
//! started them ends, so all of them are started here.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock, Mutex};

type Job = Box<dyn FnOnce() + Send>;

static KEEPER: LazyLock<Mutex<Sender<Job>>> = LazyLock::new(|| {
    let (sender, jobs) = channel::<Job>();
    std::thread::Builder::new()
        .name("keeper".into())
        .spawn(move || jobs.iter().for_each(|job| job()))
        .unwrap();
    Mutex::new(sender)
});

/// Runs `work` on the keeper's thread.
pub async fn on_keeper<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (answer, answered) = tokio::sync::oneshot::channel();
    let job: Job = Box::new(move || {
        // a panic must reach the test that asked, not end the keeper
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let _ = answer.send(outcome);
    });
    KEEPER.lock().unwrap().send(job).unwrap();
    match answered.await.unwrap() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A private server that the keeper started; what starts it again must go through the keeper too.
#[derive(Debug)]
pub struct Kept<T>(Arc<Mutex<T>>);

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Send + 'static> Kept<T> {
    /// Starts a server.
    pub async fn start(start: impl FnOnce() -> T + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(on_keeper(start).await)))
    }

    /// Does something with the server, such as `kill` or `start_again`.
    pub async fn with<R: Send + 'static>(&self, work: impl FnOnce(&mut T) -> R + Send + 'static) -> R {
        let server = Arc::clone(&self.0);
        on_keeper(move || work(&mut server.lock().unwrap())).await
    }
}
