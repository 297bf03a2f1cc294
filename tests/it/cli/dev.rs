//! `greenroom dev`: from nothing, again after a kill, and to an orderly end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use greenroom::dev::servers::{Place, is_alive, send_signal};
use serde_json::{Value, json};

use crate::support::{Client, Environment, Service, command, eventually, on_keeper, wait_until};

/// A running `greenroom dev`.
struct Dev {
    dir: PathBuf,
    child: Child,
}

impl Dev {
    /// Starts it and waits until it has announced itself.
    async fn start(dir: &Path, more: &[&str]) -> Self {
        let mut dev = Self { dir: dir.to_owned(), child: spawn(dir, more).await };
        let pid = json!(dev.child.id());
        wait_until("dev.json is written", Duration::from_secs(60), async || {
            let ended = dev.child.try_wait().unwrap();
            assert!(ended.is_none(), "dev ended: {}", dev.log());
            let text = fs::read_to_string(dir.join("dev.json")).ok()?;
            (serde_json::from_str::<Value>(&text).ok()?["pid"] == pid).then_some(())
        })
        .await;
        dev
    }

    fn told(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.dir.join("dev.json")).unwrap()).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(log_of(&self.dir)).unwrap_or_default()
    }

    /// The processes of its private servers.
    fn servers(&self) -> Vec<u32> {
        let of_parent = format!("PPid:\t{}\n", self.child.id());
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains(&of_parent))
        })
        .collect()
    }

    async fn sign_in(&self, role: &str) -> Client {
        let told = self.told();
        let accounts = told["accounts"].as_array().unwrap();
        let account = accounts.iter().find(|account| account["role"] == role).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Client::new(&text(&told["url"])).login(&text(&account["phone"]), &text(&account["password"])).await
    }

    async fn end(&mut self) -> i32 {
        let child = &mut self.child;
        wait_until("dev ends", Duration::from_secs(60), async || child.try_wait().unwrap())
            .await
            .code()
            .unwrap_or(-1)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- dev's log ----\n{}", self.log());
        }
    }
}

/// Removes what the servers of a directory wrote, wherever it lies.
struct Data(PathBuf);

impl Drop for Data {
    fn drop(&mut self) {
        let _ = Place::empty(&self.0);
    }
}

fn log_of(dir: &Path) -> PathBuf {
    dir.with_extension("log")
}

async fn spawn(dir: &Path, more: &[&str]) -> Child {
    let environment = Environment::from([("GREENROOM__AUTH__BCRYPT_COST".to_owned(), "10".to_owned())]);
    let mut command = command(dir.parent().unwrap(), &environment);
    let log = fs::File::options().create(true).append(true).open(log_of(dir)).unwrap();
    command.args(["dev", "--listen", "127.0.0.1:0", "--dir"]).arg(dir).args(more);
    command.stdin(std::process::Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    on_keeper(move || command.spawn().unwrap()).await
}

#[tokio::test]
async fn it_starts_from_nothing_survives_a_kill_and_ends_in_order() {
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("dev");
    let _data = Data(dir.clone());
    let mut dev = Dev::start(&dir, &[]).await;

    let told = dev.told();
    assert_eq!(fs::metadata(dir.join("dev.json")).unwrap().permissions().mode() & 0o777, 0o600);
    for key in ["url", "metricsUrl", "databaseUrl", "redisUrl"] {
        assert!(told[key].as_str().unwrap().contains("127.0.0.1:"), "{key}: {told}");
    }
    assert_eq!(told["pid"], dev.child.id());
    assert!(told["env"].is_object() && told["sandbox"].is_object());
    assert_eq!(told["env"]["GREENROOM__LIMITS__SIGN_IN_PER_ADDRESS_PER_MINUTE"], "0");
    for account in told["accounts"].as_array().unwrap() {
        let password = account["password"].as_str().unwrap();
        assert!(!dev.log().contains(password), "a demo password is in the log");
    }
    let admin = dev.sign_in("admin").await;
    assert_eq!(admin.get("/api/v1/users/me").await.expect(200)["role"], "admin");
    let user = dev.sign_in("user").await;
    let quota = user.get("/api/v1/users/me/quota").await.expect(200);
    assert!(quota["remaining"].as_i64().unwrap() > 0, "{quota}");
    let pipeline = told["pipelines"][0]["id"].as_str().unwrap();
    user.get(&format!("/api/v1/pipelines/{pipeline}")).await.expect(200);

    // a second one in the same directory is refused in words
    let mut second = spawn(&dir, &[]).await;
    let code = eventually("the second ends", async || second.try_wait().unwrap()).await.code();
    assert_eq!(code, Some(1));
    assert!(dev.log().contains(&format!("(process {})", dev.child.id())), "{}", dev.log());

    // nothing outlives a kill, and the next start finds the data
    let servers = dev.servers();
    assert!(servers.len() >= 2, "{servers:?}");
    dev.child.kill().unwrap();
    dev.child.wait().unwrap();
    eventually("the servers end too", async || servers.iter().all(|pid| !is_alive(*pid)).then_some(())).await;
    dev = Dev::start(&dir, &[]).await;
    assert_eq!(dev.told()["accounts"], told["accounts"]);
    assert_eq!(dev.told()["pipelines"], told["pipelines"]);
    let again = dev.sign_in("user").await;
    assert_eq!(again.id, user.id);
    assert_eq!(again.get("/api/v1/users/me/quota").await.expect(200)["remaining"], quota["remaining"]);

    // what dev.json says is enough for a second replica
    let environment: Environment = serde_json::from_value(dev.told()["env"].clone()).unwrap();
    let mut replica = Service::start(above.path(), environment).await;
    again.at(&replica.url).get("/api/v1/users/me").await.expect(200);
    assert!(replica.term().await.success(), "{}", replica.log());

    let servers = dev.servers();
    send_signal(dev.child.id(), "INT");
    assert_eq!(dev.end().await, 0);
    assert!(!dir.join("dev.json").exists());
    assert!(servers.iter().all(|pid| !is_alive(*pid)));
}

#[tokio::test]
async fn it_starts_although_nobody_can_sign_in_to_its_accounts() {
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("dev");
    let _data = Data(dir.clone());
    let mut dev = Dev::start(&dir, &[]).await;
    let accounts = dev.told()["accounts"].clone();
    for account in accounts.as_array().unwrap() {
        let body = json!({ "phone": account["phone"], "password": "wrong horse" });
        let client = Client::new(dev.told()["url"].as_str().unwrap());
        for status in [401, 401, 401, 401, 401, 429] {
            assert_eq!(client.post("/api/v1/auth/login", body.clone()).await.status, status);
        }
    }
    send_signal(dev.child.id(), "TERM");
    assert_eq!(dev.end().await, 0);
    dev = Dev::start(&dir, &[]).await;
    assert_eq!(dev.told()["accounts"], accounts);
}

#[tokio::test]
async fn fresh_begins_anew() {
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("dev");
    let _data = Data(dir.clone());
    let mut dev = Dev::start(&dir, &[]).await;
    let before = dev.told();
    send_signal(dev.child.id(), "TERM");
    assert_eq!(dev.end().await, 0);
    dev = Dev::start(&dir, &["--fresh"]).await;
    let after = dev.told();
    assert_ne!(before["accounts"], after["accounts"]);
    assert_ne!(before["pipelines"], after["pipelines"]);
    dev.sign_in("user").await;
}
