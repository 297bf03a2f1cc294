//! The private Redis.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Durability;
use super::place::{Place, write_private};
use super::process::{self, START, free_port};

/// A Redis that belongs to this process. Start it from a thread that lives as long as the process.
#[derive(Debug)]
pub struct PrivateRedis {
    place: Place,
    durability: Durability,
    port: u16,
    password: String,
    child: Option<Child>,
}

impl PrivateRedis {
    /// Starts it on the data in `place`.
    ///
    /// # Errors
    /// When Redis is not installed or does not come up.
    pub fn start(place: &Place, durability: Durability) -> Result<Self> {
        let secret = place.home().join("redis.password");
        if !secret.exists() {
            write_private(&secret, super::super::random_text(32).as_bytes())?;
        }
        let password = fs::read_to_string(&secret)?;
        process::forget_log(&place.home().join("redis.log"));
        let mut server = Self { place: place.clone(), durability, port: 0, password, child: None };
        server.launch(None)?;
        Ok(server)
    }

    /// Where to reach it; holds the password.
    pub fn url(&self) -> String {
        format!("redis://:{}@127.0.0.1:{}/0", self.password, self.port)
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends it as a service manager would.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::stop(&mut child, "TERM");
        }
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::kill(&mut child);
        }
    }

    /// Starts it again on the same port, after [`Self::stop`] or [`Self::kill`]. A relaxed one finds what the last
    /// `SAVE` wrote, so a test can bring back an older state.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_again(&mut self) -> Result<()> {
        self.kill();
        self.launch(Some(self.port))
    }

    fn launch(&mut self, port: Option<u16>) -> Result<()> {
        let log = self.place.home().join("redis.log");
        let until = Instant::now() + START;
        loop {
            self.port = port.map_or_else(free_port, Ok)?;
            let mut child = self.spawn(&log)?;
            let url = self.url();
            if process::wait_ready(&mut child, || answers(&url))? {
                self.child = Some(child);
                return Ok(());
            }
            if Instant::now() > until {
                bail!("Redis does not start; the end of {}:\n{}", log.display(), process::last_words(&log));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The configuration goes through standard input: a command line is for everyone to read.
    fn spawn(&self, log: &Path) -> Result<Child> {
        let data = self.place.home().join("redis");
        match fs::create_dir(&data) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        if let Some(user) = self.place.user {
            std::os::unix::fs::chown(&data, Some(user.uid), Some(user.gid))?;
        }
        let keep = match self.durability {
            Durability::Default => "appendonly yes\nappendfsync everysec",
            Durability::Relaxed => "appendonly no",
        };
        let configuration = format!(
            "bind 127.0.0.1\nport {}\nrequirepass {}\ndir {}\nsave \"\"\n{keep}\ndaemonize no\n\
             maxmemory-policy noeviction\nstop-writes-on-bgsave-error no\n",
            self.port,
            self.password,
            serde_json::to_string(&data)?,
        );
        let mut command = process::command(&self.place, Path::new("redis-server"));
        command.arg("-");
        let mut child = process::spawn(command, log).context("is Redis installed? script/setup does it")?;
        if let Some(mut input) = child.stdin.take() {
            // when it has ended already, waiting for it will tell why
            let _ = input.write_all(configuration.as_bytes());
        }
        Ok(child)
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether it answers as ours would: the password fits, and nothing is left to load.
fn answers(url: &str) -> bool {
    let timeout = Duration::from_secs(1);
    let connection =
        ::redis::Client::open(url).and_then(|client| client.get_connection_with_timeout(timeout));
    connection.is_ok_and(|mut connection| ::redis::cmd("PING").query::<String>(&mut connection).is_ok())
}
