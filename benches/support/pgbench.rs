//! PostgreSQL's own bench, with a script of ours, on a fresh copy of the seeded database.

use super::ground::Ground;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// How often so many clients run `script` to its end in a second.
pub(crate) async fn throughput(ground: &Ground, script: &str, clients: u32, length: Duration) -> Result<f64> {
    let name = "transactions";
    let url = ground.copy(name).await?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("task.sql");
    std::fs::write(&file, script)?;
    let output = tokio::process::Command::new(ground.program("pgbench"))
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
        .arg(format!("--client={clients}"))
        .arg(format!("--time={}", length.as_secs()))
        .arg(format!("--file={}", file.display()))
        // by the environment, so that the password is in no list of processes
        .envs(connection(&url)?)
        .output()
        .await
        .context("pgbench cannot be run")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "pgbench failed: {}", String::from_utf8_lossy(&output.stderr));
    ground.check(name).await?;
    ground.drop_copy(name).await?;
    let rate = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.with_context(|| format!("pgbench said no rate: {said}"))
}

/// The parts of a URL as libpq's variables.
fn connection(url: &str) -> Result<[(&'static str, String); 5]> {
    let url: url::Url = url.parse()?;
    let host = url.host_str().context("the URL has no host")?.to_owned();
    let port = url.port().context("the URL has no port")?.to_string();
    Ok([
        ("PGHOST", host),
        ("PGPORT", port),
        ("PGUSER", url.username().to_owned()),
        ("PGPASSWORD", url.password().unwrap_or_default().to_owned()),
        ("PGDATABASE", url.path().trim_start_matches('/').to_owned()),
    ])
}
