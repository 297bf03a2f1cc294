//! Child processes that end with us.
//!
//! `setpriv --pdeathsig KILL` asks the kernel to kill the child when the *thread* that started it ends. So every
//! server must be started from a thread that lives as long as the process: the main thread, or the tests' keeper.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::place::Place;

/// How long a server may take to become ready; a crash recovery is part of it.
pub(super) const START: Duration = Duration::from_secs(60);
/// How long a polite stop may take before it becomes a kill.
const STOP: Duration = Duration::from_secs(20);

/// A command that runs `program` as the servers' user, in their directory, apart from our terminal.
pub(super) fn command(place: &Place, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if let Some(user) = place.user {
        command
            .arg(format!("--reuid={}", user.uid))
            .arg(format!("--regid={}", user.gid))
            .arg("--init-groups");
    }
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .current_dir(place.home())
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        // Ctrl-C in our terminal is for us; the servers are stopped after the service has ended
        .process_group(0);
    command
}

/// Starts a server whose output goes to `log`.
pub(super) fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("cannot run {}", command.get_program().display()))
}

/// A port of 127.0.0.1 that was free a moment ago.
pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Waits until `ready` says so. False when the process ended first.
pub(super) fn wait_ready(child: &mut Child, mut ready: impl FnMut() -> bool) -> Result<bool> {
    let until = Instant::now() + START;
    while Instant::now() < until {
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        if ready() {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("no answer within {} s", START.as_secs())
}

/// Sends a signal, such as `TERM`, to a process of ours.
pub fn send_signal(pid: u32, signal: &str) {
    // the shell's own kill: the program is not on every system
    let _ = Command::new("sh").arg("-c").arg(format!("kill -{signal} {pid}")).stderr(Stdio::null()).status();
}

/// Whether a process of this number runs.
pub fn is_alive(pid: u32) -> bool {
    // one that has ended and was not waited for has no command line any more
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// Asks the process to end and waits; kills it when it takes too long.
pub(super) fn stop(child: &mut Child, signal: &str) {
    let until = Instant::now() + STOP;
    if matches!(child.try_wait(), Ok(None)) {
        send_signal(child.id(), signal);
    }
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > until {
            kill(child);
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Kills the process as a power cut would.
pub(super) fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Removes the log of an earlier run, so that it does not grow for ever.
pub(super) fn forget_log(log: &Path) {
    let _ = std::fs::remove_file(log);
}

/// The last lines of a server's log, for an error message.
pub(super) fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
