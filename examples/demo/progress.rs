//! A line for each event.

use std::time::Instant;

use serde_json::Value;

const WIDTH: i64 = 20;

/// What was shown so far.
pub(crate) struct Progress {
    begun: Instant,
    percent: i64,
}

impl Progress {
    pub(crate) fn start() -> Self {
        Self { begun: Instant::now(), percent: 0 }
    }

    /// Prints one event; progress alone only moves the bar of the next line.
    pub(crate) fn show(&mut self, frame: &Value) {
        let data = &frame["data"];
        self.percent = data["progress"].as_i64().unwrap_or(self.percent);
        let text = |name: &str| data[name].as_str().unwrap_or_default();
        match frame["event"].as_str().unwrap_or_default() {
            "task.created" => self.line("task", "accepted", ""),
            "task.waiting" => self.line("task", "waiting", text("reason")),
            "task.started" => self.line("task", "started", ""),
            "step.started" => self.line(text("nodeId"), "started", &attempt(data)),
            "step.finished" => {
                self.line(text("nodeId"), text("status"), data["error"]["code"].as_str().unwrap_or(""))
            }
            "task.finished" => {
                self.percent = if text("status") == "succeeded" { 100 } else { self.percent };
                self.line("task", text("status"), data["error"]["code"].as_str().unwrap_or(""));
            }
            _ => {}
        }
    }

    fn line(&self, what: &str, state: &str, note: &str) {
        let done = usize::try_from(self.percent.clamp(0, 100) * WIDTH / 100).unwrap_or(0);
        let left = usize::try_from(WIDTH).unwrap_or(0) - done;
        let bar = format!("{}{}", "#".repeat(done), ".".repeat(left));
        let seconds = self.begun.elapsed().as_secs_f64();
        let line = format!("{seconds:6.2} s  [{bar}] {:3} %  {what:<10} {state} {note}", self.percent);
        println!("{}", line.trim_end());
    }
}

fn attempt(data: &Value) -> String {
    match data["attempt"].as_i64() {
        Some(attempt) if attempt > 1 => format!("(attempt {attempt})"),
        _ => String::new(),
    }
}
