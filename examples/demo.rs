//! A client of Greenroom: a photo goes in, a lookbook comes out, watched live.
//!
//! `script/demo [photo.jpg]` runs it beside a service. It does what an app would do: sign in, upload the photo, open
//! a websocket, start a task, follow its events, download the result.

mod demo {
    pub(crate) mod client;
    pub(crate) mod photo;
    pub(crate) mod progress;
}

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use demo::client::{Client, Installation};
use demo::photo::draw_photo;
use demo::progress::Progress;
use serde_json::{Value, json};

const RESULT: &str = "lookbook.jpg";
/// Longer than any run of the demo pipeline; a socket that is silent for so long is broken.
const SILENCE: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let argument = std::env::args().nth(1);
    let outcome = match argument.as_deref() {
        Some("--answers") => return if answers().await { ExitCode::SUCCESS } else { ExitCode::FAILURE },
        photo => run(photo.map(PathBuf::from)).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the service that dev.json tells of is ready.
async fn answers() -> bool {
    match Installation::read() {
        Ok(installation) => Client::new(&installation.url).is_ready().await,
        Err(_) => false,
    }
}

async fn run(photo: Option<PathBuf>) -> Result<()> {
    let installation = Installation::read()?;
    let (name, bytes) = match &photo {
        Some(path) => {
            let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes)
        }
        None => ("a photo drawn by ourselves".to_owned(), draw_photo()?),
    };

    let client = Client::new(&installation.url).sign_in(&installation.phone, &installation.password).await?;
    println!("signed in at {}", installation.url);
    let file = client.upload(&name, content_type(&bytes)?, bytes).await?;
    println!("uploaded {name} as {file}");

    // first listen, then start: so no event can be missed
    let mut events = client.events().await?;
    let task = client.start_task(&installation.pipeline, json!({ "photo": file })).await?;
    let id = task["id"].as_str().context("the task has no id")?.to_owned();
    println!("started {} as task {id}\n", installation.pipeline_name);

    let mut progress = Progress::start();
    let ending = loop {
        let frame =
            tokio::time::timeout(SILENCE, events.next()).await.context("the service fell silent")??;
        if frame["taskId"] == *id {
            progress.show(&frame);
            if frame["event"] == "task.finished" {
                break frame["data"].clone();
            }
        }
    };
    println!();
    finish(&client, &id, &ending).await
}

async fn finish(client: &Client, task: &str, ending: &Value) -> Result<()> {
    if ending["status"] != "succeeded" {
        let error = &ending["error"];
        bail!("the task {}: {} {}", ending["status"], error["code"], error["message"]);
    }
    let task = client.task(task).await?;
    let output = &task["output"];
    let lookbook = output["lookbook"].as_str().context("the task has no lookbook")?;
    let picture = client.download(lookbook).await?;
    ensure!(image::load_from_memory(&picture).is_ok(), "the lookbook is no picture");
    std::fs::write(RESULT, &picture).with_context(|| format!("cannot write {RESULT}"))?;
    if let Some(colours) = output["palette"].as_array() {
        let names: Vec<&str> = colours.iter().filter_map(Value::as_str).collect();
        println!("palette   {}", names.join(" "));
    }
    let place = Path::new(RESULT).canonicalize()?;
    println!("lookbook  {} ({} kB)", place.display(), picture.len() / 1024);
    let quota = client.quota().await?;
    println!("quota     {} charged, {} left", ending["charged"], quota["remaining"]);
    Ok(())
}

/// The media type by the first bytes, as the service will see them.
fn content_type(bytes: &[u8]) -> Result<&'static str> {
    match image::guess_format(bytes) {
        Ok(image::ImageFormat::Jpeg) => Ok("image/jpeg"),
        Ok(image::ImageFormat::Png) => Ok("image/png"),
        Ok(image::ImageFormat::WebP) => Ok("image/webp"),
        _ => bail!("the photo must be a JPEG, PNG or WebP picture"),
    }
}
