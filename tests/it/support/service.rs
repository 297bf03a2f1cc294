//! `greenroom` as a child process.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use greenroom::dev::servers::send_signal;

use super::keeper::on_keeper;
use super::{Client, eventually, wait_until};

/// The settings of a process, as its environment.
pub type Environment = BTreeMap<String, String>;

/// A running `greenroom serve`, one replica.
#[derive(Debug)]
pub struct Service {
    environment: Environment,
    dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// Origin of the service; another after each start.
    pub url: String,
    /// Origin of its metrics.
    pub metrics_url: String,
}

impl Service {
    /// Starts one and waits until it is ready.
    pub async fn start(dir: &Path, environment: Environment) -> Self {
        let mut service = Self::prepare(dir, environment);
        service.start_again().await;
        service
    }

    /// One that is not running yet.
    pub fn prepare(dir: &Path, environment: Environment) -> Self {
        let log = dir.join(format!("{}.log", uuid::Uuid::now_v7().simple()));
        let url = String::new();
        Self { environment, dir: dir.to_owned(), log, child: None, metrics_url: url.clone(), url }
    }

    /// Sets a variable for the next start.
    pub fn set_env(&mut self, name: &str, value: impl ToString) {
        self.environment.insert(name.to_owned(), value.to_string());
    }

    /// Starts the process (again) and waits until it is ready.
    pub async fn start_again(&mut self) {
        self.launch().await;
        let client = Client::new(&self.url);
        wait_until("the service is ready", Duration::from_secs(30), async || {
            self.assert_running();
            (client.get("/health/ready").await.status == 200).then_some(())
        })
        .await;
    }

    /// Starts the process and waits until it listens; it need not be ready.
    pub async fn launch(&mut self) {
        self.kill9();
        // earlier starts keep their lines: the log is read when a test fails
        let already = self.log().len();
        let mut command = command(&self.dir, &self.environment);
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        command.arg("serve").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(on_keeper(move || command.spawn().unwrap()).await);
        let (url, metrics_url) = eventually("the service listens", async || {
            self.assert_running();
            let log = self.log().split_off(already);
            let after = |words| Some(log.split_once(words)?.1.lines().next()?.trim().to_owned());
            let metrics = after("metrics on ")?;
            Some((after("listening on ")?, metrics))
        })
        .await;
        (self.url, self.metrics_url) = (url, metrics_url);
    }

    /// Ends the process as a power cut would.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Asks the process to shut down and waits until it has ended.
    pub async fn term(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait().await
    }

    /// Sends a signal, such as `STOP` or `CONT`.
    pub fn signal(&self, signal: &str) {
        send_signal(self.child.as_ref().expect("the service runs").id(), signal);
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the service runs").id()
    }

    /// Waits until the process has ended by itself.
    pub async fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the service runs");
        wait_until("the service ends", Duration::from_secs(60), async || child.try_wait().unwrap()).await
    }

    /// Everything the process has printed.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// A client of this replica, without a token.
    pub fn client(&self) -> Client {
        Client::new(&self.url)
    }

    /// The value of a series on the metrics page, summed over the labels that are not named.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let page = Client::new(&self.metrics_url).get("/metrics").await.text;
        let lines = page.lines().filter(|line| !line.starts_with('#')).filter(|line| {
            let series = line.split(['{', ' ']).next() == Some(name);
            series && labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    fn assert_running(&mut self) {
        let ended = self.child.as_mut().expect("the service was started").try_wait().unwrap();
        assert!(ended.is_none(), "the service ended ({ended:?}):\n{}", self.log());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!("---- the service's log ----\n{}", self.log());
        }
    }
}

/// The binary under test with these settings and nothing else in its environment; it ends with the test process.
pub fn command(dir: &Path, environment: &Environment) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_greenroom")])
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("RUST_BACKTRACE", "1")
        .envs(environment);
    // so that coverage sees what the process does
    if let Some(profile) = std::env::var_os("LLVM_PROFILE_FILE") {
        command.env("LLVM_PROFILE_FILE", profile);
    }
    command
}

/// Runs a command of the binary to its end.
pub async fn run(dir: &Path, environment: &Environment, arguments: &[&str]) -> Output {
    let mut command = command(dir, environment);
    command.args(arguments).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}
