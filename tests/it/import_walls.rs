//! The import rule of `src/lib.rs`, as far as the crate boundary does not enforce it.

use std::fs;
use std::path::{Path, PathBuf};

/// Which words may not stand in the code of which files.
const WALLS: [(&str, &[&str]); 6] = [
    ("src/http", &["tokio_postgres", "deadpool", "redis::", "gateways::", "refinery"]),
    ("src/ws", &["tokio_postgres", "deadpool", "redis::", "gateways::", "refinery"]),
    ("src/gateways", &["tokio_postgres", "deadpool", "redis::", "crate::http", "crate::ws", "crate::app"]),
    ("src/config", &["crate::app", "crate::http", "crate::ws", "crate::gateways", "greenroom_actors"]),
    ("actors/src", &["actix_web", "utoipa", "crate::config", "greenroom::"]),
    ("src/sandbox", &["crate::app"]),
];

/// What pure files may not name: the rules must run without a runtime, a database or a clock.
const PURE_FILES: [&str; 2] = ["messages.rs", "state.rs"];
const IMPURE: &[&str] =
    &["actix", "tokio::", "tokio_postgres", "redis::", "Utc::now", "SystemTime::now", "Instant::now"];

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The lines of a file that name one of `words`, outside comments and tests.
fn breaches(path: &Path, words: &[&str]) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    lines
        .filter(|(_, line)| words.iter().any(|word| names(line, word)))
        .map(|(number, line)| format!("{}:{}: {}", path.display(), number + 1, line.trim()))
        .collect()
}

/// Whether `word` stands in `line` as a name of its own, not as the end of a longer one.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn each_room_imports_only_what_it_may() {
    let mut found = Vec::new();
    for (room, words) in WALLS {
        let mut files = Vec::new();
        rust_files(&root().join(room), &mut files);
        found.extend(files.iter().flat_map(|file| breaches(file, words)));
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn messages_and_states_are_pure() {
    let mut files = Vec::new();
    rust_files(&root().join("actors/src"), &mut files);
    let pure = |path: &&PathBuf| PURE_FILES.iter().any(|name| path.ends_with(name));
    let checked: Vec<_> = files.iter().filter(pure).collect();
    assert!(checked.len() >= 2, "{files:?}");
    let found: Vec<_> = checked.iter().flat_map(|file| breaches(file, IMPURE)).collect();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn a_breach_would_be_seen() {
    assert!(names("use tokio_postgres::Client;", "tokio_postgres"));
    assert!(names("use crate::gateways::image;", "gateways::"));
    assert!(!names("use greenroom_actors::redis_client::RedisClient;", "redis::"));
}
