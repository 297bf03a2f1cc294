//! Help, wrong use and refused settings.

use std::process::{Command, Output};

fn greenroom(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_greenroom"))
        .args(arguments)
        .current_dir(dir.path())
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in [
        &["dev"][..],
        &["serve"],
        &["migrate"],
        &["doctor"],
        &["admin", "create"],
        &["audit"],
        &["task", "show"],
        &["openapi"],
    ] {
        let help = greenroom(&[command, &["--help"]].concat(), &[]);
        assert_eq!(help.status.code(), Some(0), "{command:?}: {}", text(&help.stderr));
        let help = text(&help.stdout);
        assert!(
            help.contains("Example: ") && help.contains(&format!("greenroom {}", command.join(" "))),
            "{help}"
        );
    }
}

#[test]
fn wrong_use_exits_with_2() {
    for arguments in
        [&[][..], &["bake"], &["serve", "--loud"], &["admin"], &["admin", "create"], &["task", "show"]]
    {
        assert_eq!(greenroom(arguments, &[]).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn serve_lists_every_refused_setting_at_once() {
    let environment = [
        ("GREENROOM__SERVER__LISTEN", "0.0.0.0:0"),
        ("GREENROOM__POOL__MAX", "7"),
        ("GREENROOM__WS__HEARTBEAT_S", "soon"),
        ("JWT_SECRET", "short"),
    ];
    let refused = greenroom(&["serve"], &environment);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    for part in [
        "database.url",
        "redis.url",
        "secrets.key",
        "server.public_url",
        "auth.jwt_secret (from the variable JWT_SECRET)",
        "ws.heartbeat_s (from the variable GREENROOM__WS__HEARTBEAT_S)",
        "pool.max (from the variable GREENROOM__POOL__MAX)",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

#[test]
fn a_configuration_file_that_is_missing_is_named() {
    let refused = greenroom(&["audit", "--config", "nowhere.toml"], &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("nowhere.toml"));
}
