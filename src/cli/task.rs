//! `greenroom task`.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use clap::Subcommand;
use greenroom_actors::ids::TaskId;
use greenroom_actors::records::timeline::{self, Attempt, Timeline};
use serde_json::Value;

use super::{block_on, settings};
use crate::app;

/// Arguments of `greenroom task`.
#[derive(Debug, Subcommand)]
pub(super) enum Task {
    /// Print a run as a timeline
    #[command(
        after_help = "Example: what happened to a task\n  greenroom task show 0199c0de-0000-7000-8000-000000000000"
    )]
    Show {
        /// The task's id
        id: TaskId,
    },
}

impl Task {
    pub(super) fn run(&self, config: Option<PathBuf>) -> Result<ExitCode> {
        let Self::Show { id } = self;
        let settings = settings(config)?;
        block_on(async {
            let database = app::database(&settings.database, "task show")?;
            let client = database.client().await.context("PostgreSQL cannot be reached")?;
            let timeline =
                timeline::read(&client, *id).await?.with_context(|| format!("there is no task {id}"))?;
            print!("{}", render(*id, &timeline));
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// The timeline as text: a head, then a line for everything that began or ended, in order.
fn render(id: TaskId, timeline: &Timeline) -> String {
    let mut text = format!(
        "task {id}\n  pipeline  {} (version {})\n  user      {}\n  status    {}{}\n",
        timeline.pipeline,
        timeline.pipeline_version,
        timeline.user,
        timeline.status,
        because(timeline.error.as_ref()),
    );
    if let Some((phase, held, charged)) = &timeline.hold {
        let _ = writeln!(text, "  quota     {phase}: {held} held, {charged} charged");
    }
    if let Some(owner) = &timeline.owner {
        let _ = writeln!(text, "  runs on   {owner} (claim {})", timeline.lease_no);
    }
    if let (Some(deadline), None) = (timeline.deadline_at, timeline.finished_at) {
        let _ = writeln!(text, "  deadline  {}", deadline.format("%F %T%.3fZ"));
    }
    text.push('\n');
    let _ = writeln!(text, "  {}  accepted", timeline.created_at.format("%F %T%.3fZ"));
    for (at, what) in events(timeline) {
        let since = (at - timeline.created_at).num_milliseconds();
        let _ = writeln!(text, "  {:>+12} ms  {what}", since);
    }
    for attempt in timeline.attempts.iter().filter(|attempt| attempt.finished_at.is_none()) {
        let until = (attempt.deadline_at - timeline.created_at).num_milliseconds();
        let _ =
            writeln!(text, "               ...  {} is under way, until {until:+} ms at most", call(attempt));
    }
    text
}

fn events(timeline: &Timeline) -> Vec<(DateTime<Utc>, String)> {
    let mut events = Vec::new();
    let mut note = |at: Option<DateTime<Utc>>, what: String| events.extend(at.map(|at| (at, what)));
    note(timeline.started_at, "started".to_owned());
    for step in &timeline.steps {
        let made_calls = timeline.attempts.iter().any(|attempt| attempt.node == step.node);
        if !made_calls && step.kind != "provider" {
            let what =
                format!("{:<16} {} {}{}", step.node, step.kind, step.status, because(step.error.as_ref()));
            note(step.finished_at, what);
            continue;
        }
        note(
            step.finished_at,
            format!("{:<16} step {}{}", step.node, step.status, because(step.error.as_ref())),
        );
    }
    for attempt in &timeline.attempts {
        let name = call(attempt);
        note(Some(attempt.started_at), format!("{name} sent ({})", attempt.cause));
        let took =
            attempt.finished_at.map(|at| (at - attempt.started_at).num_milliseconds()).unwrap_or_default();
        let error = because(attempt.error.as_ref());
        note(attempt.finished_at, format!("{name} {} after {took} ms{error}", attempt.status));
    }
    note(timeline.finished_at, format!("{}{}", timeline.status, because(timeline.error.as_ref())));
    // what began before what ended in the same millisecond, as it was pushed
    events.sort_by_key(|(at, _)| *at);
    events
}

fn call(attempt: &Attempt) -> String {
    format!("{:<16} call {} of {}", attempt.node, attempt.attempt, attempt.provider)
}

/// `: CODE message` of a failure.
fn because(error: Option<&Value>) -> String {
    let part = |name| error.and_then(|error| error[name].as_str()).unwrap_or_default();
    match (part("code"), part("message")) {
        ("", "") => String::new(),
        (code, message) => format!(": {code} {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use greenroom_actors::records::timeline::Step;
    use serde_json::json;
    use uuid::Uuid;

    fn at(milliseconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_790_000_000_000 + milliseconds).unwrap()
    }

    #[test]
    fn a_run_reads_from_top_to_bottom() {
        let step = |node: &str, kind: &str, status: &str, from, to| Step {
            node: node.to_owned(),
            kind: kind.to_owned(),
            status: status.to_owned(),
            error: None,
            started_at: Some(at(from)),
            finished_at: Some(at(to)),
        };
        let attempt = |attempt, cause: &str, status: &str, error, from, to| Attempt {
            node: "draw".to_owned(),
            attempt,
            provider: "ai".to_owned(),
            cause: cause.to_owned(),
            status: status.to_owned(),
            error,
            started_at: at(from),
            deadline_at: at(from + 30_000),
            finished_at: Some(at(to)),
        };
        let failure = json!({ "code": "PROVIDER_REJECTED", "message": "no" });
        let timeline = Timeline {
            user: Uuid::nil(),
            pipeline: "Lookbook".to_owned(),
            pipeline_version: 2,
            status: "failed".to_owned(),
            error: Some(failure.clone()),
            created_at: at(0),
            started_at: Some(at(5)),
            deadline_at: Some(at(900_000)),
            finished_at: Some(at(900)),
            owner: None,
            lease_no: 1,
            hold: Some(("cancelled".to_owned(), 2, 0)),
            steps: vec![
                step("start", "start", "succeeded", 5, 5),
                step("draw", "provider", "failed", 6, 900),
            ],
            attempts: vec![
                attempt(1, "first", "failed", None, 6, 300),
                attempt(2, "retry", "failed", Some(failure), 800, 890),
            ],
        };
        let text = render(TaskId(Uuid::nil()), &timeline);
        let order = [
            "status    failed: PROVIDER_REJECTED no",
            "quota     cancelled: 2 held, 0 charged",
            "accepted",
            "+5 ms  started",
            "+5 ms  start            start succeeded",
            "+6 ms  draw             call 1 of ai sent (first)",
            "+300 ms  draw             call 1 of ai failed after 294 ms",
            "+800 ms  draw             call 2 of ai sent (retry)",
            "+890 ms  draw             call 2 of ai failed after 90 ms: PROVIDER_REJECTED no",
            "+900 ms  draw             step failed",
            "+900 ms  failed: PROVIDER_REJECTED no",
        ];
        let mut rest = text.as_str();
        for line in order {
            let (_, after) =
                rest.split_once(line).unwrap_or_else(|| panic!("{line} is not next in\n{rest}\nof\n{text}"));
            rest = after;
        }
        assert!(!text.contains("deadline"), "{text}");
    }

    #[test]
    fn a_call_without_an_answer_stands_at_the_end() {
        let attempt = Attempt {
            node: "draw".to_owned(),
            attempt: 1,
            provider: "ai".to_owned(),
            cause: "first".to_owned(),
            status: "running".to_owned(),
            error: None,
            started_at: at(40),
            deadline_at: at(30_040),
            finished_at: None,
        };
        let timeline = Timeline {
            user: Uuid::nil(),
            pipeline: "Lookbook".to_owned(),
            pipeline_version: 1,
            status: "running".to_owned(),
            error: None,
            created_at: at(0),
            started_at: Some(at(40)),
            deadline_at: Some(at(900_040)),
            finished_at: None,
            owner: Some("one".to_owned()),
            lease_no: 2,
            hold: Some(("reserved".to_owned(), 2, 0)),
            steps: Vec::new(),
            attempts: vec![attempt],
        };
        let text = render(TaskId(Uuid::nil()), &timeline);
        assert!(text.contains("runs on   one (claim 2)"), "{text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.ends_with("call 1 of ai is under way, until +30040 ms at most"), "{text}");
    }
}
