//! What is measured of the binary beside this example: start to ready and resident memory after start
//! (`script/measure`), or how long a sign-in takes that is refused (`script/measure sign-in`).

use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const STARTS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);
/// Memory is read this long after the service became ready, when its start is over.
const SETTLE: Duration = Duration::from_secs(2);
const MOST_MS: u128 = 300;
const MOST_MB: u64 = 40;

/// A process that ends with this one's care.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.0.id())).status();
        let _ = self.0.wait();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match measure().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("measure: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure() -> Result<bool> {
    let binary = std::env::current_exe()?.with_file_name("../greenroom").canonicalize()?;
    let dir = std::env::temp_dir().join(format!("greenroom-measure-{}", std::process::id()));
    let outcome = measure_in(&binary, &dir).await;
    greenroom::dev::servers::Place::remove(&dir)?;
    outcome
}

async fn measure_in(binary: &Path, dir: &Path) -> Result<bool> {
    // `dev` brings a migrated database; what is measured is a `serve` beside it
    let mut dev = Command::new(binary);
    dev.args(["dev", "--listen", "127.0.0.1:0", "--dir"])
        .arg(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _dev = Process(dev.spawn()?);
    let told: Value = serde_json::from_str(&wait_for_file(&dir.join("dev.json")).await?)?;
    if std::env::args().nth(1).as_deref() == Some("sign-in") {
        return compare_sign_ins(told["url"].as_str().context("dev.json has no url")?).await;
    }
    let mut fastest = u128::MAX;
    let mut smallest = u64::MAX;
    for start in 1..=STARTS {
        let (ready_ms, resident_kb) = start_once(binary, dir, &told["env"]).await?;
        println!("start {start}: ready after {ready_ms} ms, {:.1} MB resident", mb(resident_kb));
        (fastest, smallest) = (fastest.min(ready_ms), smallest.min(resident_kb));
    }
    println!("best: {fastest} ms (at most {MOST_MS}), {:.1} MB (at most {MOST_MB})", mb(smallest));
    Ok(fastest <= MOST_MS && smallest <= MOST_MB * 1024)
}

/// Tries of each kind.
const SIGN_INS: usize = 200;
/// Wrong passwords of one phone: one more, and it would be locked.
const EACH: usize = 4;
const MOST_PERCENT: f64 = 5.0;

/// Times wrong passwords of phones that have accounts, and sign-ins of phones that have none, in turn.
async fn compare_sign_ins(url: &str) -> Result<bool> {
    let http = reqwest::Client::builder().timeout(PATIENCE).build()?;
    let phone = |number: usize| format!("139{number:08}");
    let known = SIGN_INS / EACH;
    for number in 0..known {
        let body = json!({ "phone": phone(number), "password": "correct horse" });
        let answer = http.post(format!("{url}/api/v1/auth/register")).json(&body).send().await?;
        answer.error_for_status()?;
    }
    let mut times: [Vec<Duration>; 2] = Default::default();
    for number in 0..SIGN_INS {
        for (times, phone) in times.iter_mut().zip([phone(number % known), phone(known + number)]) {
            let body = json!({ "phone": phone, "password": "wrong horse" });
            let begun = Instant::now();
            let answer = http.post(format!("{url}/api/v1/auth/login")).json(&body).send().await?;
            times.push(begun.elapsed());
            if answer.status() != 401 {
                bail!("a wrong password was answered with {}", answer.status());
            }
        }
    }
    let [known, unknown] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1000.0
    });
    let percent = (known - unknown).abs() / known.max(unknown) * 100.0;
    println!("medians of {SIGN_INS}: wrong password {known:.1} ms, unknown phone {unknown:.1} ms");
    println!("they differ by {percent:.1} % (at most {MOST_PERCENT})");
    Ok(percent < MOST_PERCENT)
}

async fn start_once(binary: &Path, dir: &Path, environment: &Value) -> Result<(u128, u64)> {
    let log = dir.join("serve.log");
    let mut serve = Command::new(binary);
    serve.arg("serve").stdout(std::fs::File::create(&log)?).stderr(Stdio::null()).current_dir(dir);
    for (name, value) in environment.as_object().context("dev.json has no env")? {
        serve.env(name, value.as_str().unwrap_or_default());
    }
    let begun = Instant::now();
    let process = Process(serve.spawn()?);
    let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
    while begun.elapsed() < PATIENCE {
        let printed = std::fs::read_to_string(&log)?;
        let url =
            printed.strip_prefix("listening on ").and_then(|rest| rest.split_once('\n')).map(|(url, _)| url);
        if let Some(url) = url
            && http
                .get(format!("{url}/health/ready"))
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
        {
            let ready_ms = begun.elapsed().as_millis();
            tokio::time::sleep(SETTLE).await;
            return Ok((ready_ms, resident_kb(process.0.id())?));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bail!("the service is not ready after {PATIENCE:?}")
}

fn resident_kb(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mb(kb: u64) -> f64 {
    kb as f64 / 1024.0
}

async fn wait_for_file(path: &Path) -> Result<String> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Ok(text) = std::fs::read_to_string(path) {
            return Ok(text);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("{} was not written", path.display())
}
