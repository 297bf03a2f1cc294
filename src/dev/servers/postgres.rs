//! The private PostgreSQL.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Durability;
use super::place::{Place, write_private};
use super::process::{self, START, free_port};

const USER: &str = "greenroom";
/// Room for several replicas with a full pool of 100 each, `doctor` and a psql.
const MAX_CONNECTIONS: &str = "max_connections=420";

/// A PostgreSQL that belongs to this process. Start it from a thread that lives as long as the process.
#[derive(Debug)]
pub struct PrivatePostgres {
    place: Place,
    programs: PathBuf,
    durability: Durability,
    port: u16,
    password: String,
    child: Option<Child>,
}

impl PrivatePostgres {
    /// Starts it on the data in `place`, which is made at the first time.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, is too old for the data, or does not come up.
    pub fn start(place: &Place, durability: Durability) -> Result<Self> {
        let data = place.home().join("postgres");
        let programs = programs(&data)?;
        let secret = place.home().join("postgres.password");
        if !data.exists() {
            initialise(place, &programs, &secret, durability)?;
        }
        let password = fs::read_to_string(&secret)
            .with_context(|| format!("the password of the data is missing ({})", secret.display()))?;
        process::forget_log(&place.home().join("postgres.log"));
        let mut server = Self { place: place.clone(), programs, durability, port: 0, password, child: None };
        server.launch(None)?;
        Ok(server)
    }

    /// Where to reach `database`; holds the password.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// One of the programs of this PostgreSQL, such as `pgbench`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends it as a service manager would: connections are cut, everything is written.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::stop(&mut child, "INT");
        }
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::kill(&mut child);
        }
    }

    /// Starts it again on the same port, after [`Self::stop`] or [`Self::kill`].
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_again(&mut self) -> Result<()> {
        self.kill();
        self.launch(Some(self.port))
    }

    /// Starts the server. A predecessor that was killed may still hold its memory for a moment, and a free port may
    /// be taken before we get it, so a server that ends at once is tried again for a while.
    fn launch(&mut self, port: Option<u16>) -> Result<()> {
        let data = self.place.home().join("postgres");
        let log = self.place.home().join("postgres.log");
        end_predecessor(&data)?;
        let until = Instant::now() + START;
        loop {
            self.port = port.map_or_else(free_port, Ok)?;
            let mut child = self.spawn(&data, &log)?;
            let pid = child.id();
            if process::wait_ready(&mut child, || is_ready(&data, pid))? {
                self.child = Some(child);
                return Ok(());
            }
            if Instant::now() > until {
                bail!(
                    "PostgreSQL does not start; the end of {}:\n{}",
                    log.display(),
                    process::last_words(&log)
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn spawn(&self, data: &Path, log: &Path) -> Result<Child> {
        let mut command = process::command(&self.place, &self.programs.join("postgres"));
        command.arg("-D").arg(data).arg("-p").arg(self.port.to_string());
        let mut options =
            vec!["listen_addresses=127.0.0.1", "unix_socket_directories=", "timezone=UTC", MAX_CONNECTIONS];
        if self.durability == Durability::Relaxed {
            // commits still reach the kernel: a killed server loses nothing, only a killed machine does
            options.extend(["fsync=off", "full_page_writes=off", "wal_level=minimal", "max_wal_senders=0"]);
        }
        for option in options {
            command.arg("-c").arg(option);
        }
        process::spawn(command, log)
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The directory of the PostgreSQL programs: of the version the data was made by, else the newest.
fn programs(data: &Path) -> Result<PathBuf> {
    let versions = Path::new("/usr/lib/postgresql");
    if let Ok(version) = fs::read_to_string(data.join("PG_VERSION")) {
        let bin = versions.join(version.trim()).join("bin");
        ensure!(
            bin.join("postgres").exists(),
            "{} was made by PostgreSQL {}, which is not installed; install it or begin anew with --fresh",
            data.display(),
            version.trim()
        );
        return Ok(bin);
    }
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(versions)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").exists() && bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin).context("PostgreSQL is not installed; script/setup installs it")
}

/// Makes the data directory beside its place and moves it there, so that a crash meanwhile leaves no half of it.
fn initialise(place: &Place, programs: &Path, secret: &Path, durability: Durability) -> Result<()> {
    let unfinished = place.home().join("postgres.new");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    write_private(secret, super::super::random_text(32).as_bytes())?;
    if let Some(user) = place.user {
        chown(secret, Some(user.uid), Some(user.gid))?;
    }
    // the slow hash is for passwords people choose; the tests open thousands of connections
    let auth = if durability == Durability::Relaxed { "md5" } else { "scram-sha-256" };
    let mut command = process::command(place, &programs.join("initdb"));
    command.arg("-D").arg(&unfinished).arg("--pwfile").arg(secret).args([
        "--username",
        USER,
        "--auth",
        auth,
        "--encoding=UTF8",
        "--locale=C",
    ]);
    if durability == Durability::Relaxed {
        command.arg("--no-sync");
    }
    let outcome = command.stdin(Stdio::null()).output().context("cannot run initdb")?;
    ensure!(outcome.status.success(), "initdb failed:\n{}", String::from_utf8_lossy(&outcome.stderr));
    Ok(fs::rename(&unfinished, place.home().join("postgres"))?)
}

/// The process number in the lock file of a data directory.
fn locked_by(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("postmaster.pid")).ok()?.lines().next()?.parse().ok()
}

/// Whether the lock file is of this server and says that it takes connections (line 8, as pg_ctl reads it).
fn is_ready(data: &Path, pid: u32) -> bool {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.first() == Some(&pid.to_string().as_str()) && lines.get(7) == Some(&"ready")
}

/// Ends a server an earlier start left on this data, and removes a lock file whose process is gone or another by now:
/// PostgreSQL would take a foreign process of the same number for a living server.
fn end_predecessor(data: &Path) -> Result<()> {
    let Some(pid) = locked_by(data) else { return Ok(()) };
    let works_here = || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data);
    let until = Instant::now() + Duration::from_secs(5);
    while works_here() {
        if Instant::now() > until {
            process::send_signal(pid, "KILL");
        }
        ensure!(
            Instant::now() < until + START,
            "the server of an earlier start does not end (process {pid})"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    match fs::remove_file(data.join("postmaster.pid")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
