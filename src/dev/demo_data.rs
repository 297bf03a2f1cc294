//! Demo data: two accounts with quota, plans, and a published pipeline.
//!
//! All but the accounts and the plans is made through the service's own interface, so it passes every check a real
//! client passes. Nobody signs in for it: an account that is locked, or has another password, keeps nobody from starting.
//! Each piece is made when it is missing, so a start after a crash amid this file completes it, and what a developer has
//! changed stays.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use greenroom_actors::clock::{Clock, SystemClock};
use greenroom_actors::database::Database;
use greenroom_actors::ids::{SessionId, UserId};
use greenroom_actors::records::plans::{NewPlan, Plans};
use greenroom_actors::records::users::{UserFilter, Users};
use greenroom_actors::session::{self, AccessTokens, Role};
use greenroom_actors::signals::Signals;
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use uuid::Uuid;

use super::home::Secrets;
use crate::app;
use crate::config::Settings;

const ADMIN_PHONE: &str = "13800000001";
const USER_PHONE: &str = "13800000002";
const QUOTA: u32 = 1_000;
const PIPELINE: &str = "Lookbook";

/// An account and how to sign in with it.
pub(super) struct Account {
    pub(super) role: &'static str,
    pub(super) phone: &'static str,
    pub(super) password: String,
}

/// A published pipeline.
pub(super) struct Pipeline {
    pub(super) id: String,
    pub(super) name: String,
}

/// What there is to play with.
pub(super) struct Demo {
    pub(super) accounts: Vec<Account>,
    pub(super) pipelines: Vec<Pipeline>,
}

impl Demo {
    /// Makes what is missing.
    pub(super) async fn make(
        url: &str,
        database: &Database,
        settings: &Settings,
        secrets: &Secrets,
    ) -> Result<Self> {
        make_plans(database).await?;
        let cost = settings.auth.bcrypt_cost;
        let admin = make_account(database, ADMIN_PHONE, &secrets.admin_password, Role::Admin, cost).await?;
        let user = make_account(database, USER_PHONE, &secrets.user_password, Role::User, cost).await?;
        let nobody = Client::new(url)?;
        nobody.wait_ready().await?;
        let tokens = app::access_tokens(&settings.auth)?;
        let client = |user, role| nobody.of(&tokens, user, role);
        let (admin, user_id) = (client(admin, Role::Admin)?, user);
        make_quota(&admin, &client(user, Role::User)?, user_id).await?;
        make_provider(&admin).await?;
        let pipeline = make_pipeline(&admin).await?;
        let account = |role, phone, password: &str| Account { role, phone, password: password.to_owned() };
        Ok(Self {
            accounts: vec![
                account("admin", ADMIN_PHONE, &secrets.admin_password),
                account("user", USER_PHONE, &secrets.user_password),
            ],
            pipelines: vec![Pipeline { id: pipeline, name: PIPELINE.to_owned() }],
        })
    }
}

async fn make_account(
    database: &Database,
    phone: &str,
    password: &str,
    role: Role,
    bcrypt_cost: u32,
) -> Result<UserId> {
    let filter = UserFilter { query: Some(phone.to_owned()), ..UserFilter::default() };
    let found = Users::new(database.clone(), Signals::new()).list(&filter, None, 100).await?;
    // the filter also finds a nickname
    match found.iter().find(|user| user.phone.as_deref() == Some(phone)) {
        Some(known) => Ok(known.id),
        None => Ok(session::create_account(database, phone, password.into(), role, bcrypt_cost).await?),
    }
}

async fn make_plans(database: &Database) -> Result<()> {
    let plans = Plans::new(database.clone());
    for (id, name, price_fen, quota, duration_days, running_per_user) in [
        (1, "月卡", 2_990, 100, 30, None),
        (2, "季卡", 7_990, 350, 90, Some(40)),
        (3, "年卡", 26_900, 1_600, 365, Some(80)),
    ] {
        // fixed ids, so that a second start adds nothing
        let id = Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 + id);
        let (name, queued_per_user) = (name.to_owned(), None);
        let plan = NewPlan { id, name, price_fen, quota, duration_days, running_per_user, queued_per_user };
        plans.create(&plan, None).await?;
    }
    Ok(())
}

async fn make_quota(admin: &Client, user: &Client, user_id: UserId) -> Result<()> {
    let grants = user.call(Method::GET, "/users/me/quota/grants", None).await?;
    if grants["items"].as_array().is_some_and(|items| !items.is_empty()) {
        return Ok(());
    }
    let grant = json!({ "amount": QUOTA, "reason": "demo" });
    admin.call(Method::POST, &format!("/admin/users/{user_id}/grants"), Some(grant)).await?;
    Ok(())
}

async fn make_provider(admin: &Client) -> Result<()> {
    let providers = admin.call(Method::GET, "/admin/providers", None).await?;
    let exists =
        providers["items"].as_array().is_some_and(|items| items.iter().any(|item| item["id"] == "image"));
    if !exists {
        let image = json!({ "id": "image", "kind": "image" });
        admin.call(Method::PUT, "/admin/providers/image", Some(image)).await?;
    }
    Ok(())
}

async fn make_pipeline(admin: &Client) -> Result<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a pipeline without an id");
    let known = admin.call(Method::GET, "/admin/pipelines?limit=100", None).await?;
    let found =
        known["items"].as_array().and_then(|items| items.iter().find(|item| item["name"] == PIPELINE));
    if let Some(pipeline) = found.filter(|pipeline| pipeline["status"] == "published") {
        return text(&pipeline["id"]);
    }
    let id = match found {
        Some(draft) => text(&draft["id"])?,
        None => text(&admin.call(Method::POST, "/admin/pipelines", Some(lookbook())).await?["id"])?,
    };
    admin.call(Method::POST, &format!("/admin/pipelines/{id}/publish"), Some(json!({}))).await?;
    Ok(id)
}

/// A photo goes in; four views of it, its colours, and a sheet that shows them come out.
fn lookbook() -> Value {
    let image =
        |id: &str, input: Value| json!({ "id": id, "type": "provider", "provider": "image", "input": input });
    let photo = "{{ input.photo }}";
    json!({
        "name": PIPELINE,
        "description": "Four views of a photo and its colours, on one sheet.",
        "quotaCost": 2,
        "inputSchema": {
            "type": "object",
            "required": ["photo"],
            "properties": { "photo": { "type": "string", "format": "file-id" } },
            "additionalProperties": false,
        },
        "nodes": [
            { "id": "start", "type": "start" },
            { "id": "fan", "type": "fork" },
            image("front", json!({ "op": "resize", "file": photo, "width": 768, "height": 768, "fit": "cover" })),
            image("classic", json!({ "op": "resize", "file": photo, "width": 768, "height": 768, "fit": "cover" })),
            image("mono", json!({ "op": "grayscale", "file": "{{ steps.classic.file }}" })),
            image("large", json!({ "op": "resize", "file": photo, "width": 768, "height": 768, "fit": "cover" })),
            image("mood", json!({ "op": "blur", "file": "{{ steps.large.file }}", "sigma": 9 })),
            image("detail", json!({ "op": "thumbnail", "file": photo, "size": 512 })),
            image("tones", json!({ "op": "palette", "file": photo, "count": 5 })),
            { "id": "gather", "type": "join", "strategy": "ALL" },
            image("sheet", json!({
                "op": "collage",
                "files": [
                    "{{ steps.front.file }}",
                    "{{ steps.mono.file }}",
                    "{{ steps.mood.file }}",
                    "{{ steps.detail.file }}",
                ],
                "columns": 2,
                "cell": 512,
                "gap": 16,
                "background": "#ffffff",
            })),
            { "id": "end", "type": "end", "output": {
                "lookbook": "{{ steps.sheet.file }}",
                "palette": "{{ steps.tones.colors }}",
            } },
        ],
        "edges": [
            ["start", "fan"],
            ["fan", "front"], ["front", "gather"],
            ["fan", "classic"], ["classic", "mono"], ["mono", "gather"],
            ["fan", "large"], ["large", "mood"], ["mood", "gather"],
            ["fan", "detail"], ["detail", "gather"],
            ["fan", "tones"], ["tones", "gather"],
            ["gather", "sheet"], ["sheet", "end"],
        ],
    })
}

/// Somebody who talks to the service.
struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

impl Client {
    fn new(url: &str) -> Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(30))
            .no_proxy()
            .build()?;
        Ok(Self { http, url: url.to_owned(), token: None })
    }

    async fn wait_ready(&self) -> Result<()> {
        let mut last = String::new();
        for _ in 0..600 {
            match self.http.get(format!("{}/health/ready", self.url)).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => last = answer.text().await.unwrap_or_default(),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("the service does not become ready: {last}")
    }

    /// The same as somebody, of no session.
    fn of(&self, tokens: &AccessTokens, user: UserId, role: Role) -> Result<Self> {
        let token = tokens.issue(user, role, SessionId::new(), SystemClock.now())?.token;
        let token = Some(token.expose_secret().to_owned());
        Ok(Self { http: self.http.clone(), url: self.url.clone(), token })
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let mut request = self.http.request(method, format!("{}/api/v1{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{path} answers {status}: {text}");
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }
}
