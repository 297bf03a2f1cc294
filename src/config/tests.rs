use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::json;

use super::layers::Layers;
use super::*;

const EXAMPLE_FILE: &str = include_str!("../../config.toml");

fn layers(file: &str, variables: &[(&str, &str)]) -> Layers {
    let mut layers = Layers::default();
    layers.file(PathBuf::from("greenroom.toml"), file);
    let os = |text: &str| OsString::from(text);
    layers.variables(variables.iter().map(|(name, value)| (os(name), os(value))));
    layers
}

fn settings(file: &str, variables: &[(&str, &str)]) -> Settings {
    let (loaded, problems) = layers(file, variables).resolve();
    assert_eq!(problems, []);
    loaded.settings
}

fn problems(file: &str, variables: &[(&str, &str)]) -> Vec<String> {
    layers(file, variables).resolve().1.iter().map(ToString::to_string).collect()
}

/// The names a table accepts, as serde lists them when it meets a name it does not know.
fn names_under(path: &[String]) -> Vec<String> {
    let tree = path.iter().rev().fold(json!({ "?": 0 }), |inner, name| json!({ name.as_str(): inner }));
    let message = Settings::deserialize(tree).unwrap_err().to_string();
    match message.strip_prefix("unknown field `?`") {
        Some(rest) => rest.split('`').skip(1).step_by(2).map(str::to_owned).collect(),
        None => Vec::new(),
    }
}

fn all_keys(path: &[String], keys: &mut BTreeSet<String>) {
    for name in names_under(path) {
        let path = [path, &[name]].concat();
        if names_under(&path).is_empty() {
            keys.insert(path.join("."));
        } else {
            all_keys(&path, keys);
        }
    }
}

#[test]
fn config_toml_holds_every_default() {
    assert_eq!(format!("{:#?}", settings(EXAMPLE_FILE, &[])), format!("{:#?}", Settings::default()));
}

#[test]
fn config_toml_holds_every_key() {
    let mut section = "";
    let mut written = BTreeSet::new();
    for line in EXAMPLE_FILE.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") {
            written.insert(format!("{section}.{key}"));
        }
    }
    let mut known = BTreeSet::new();
    all_keys(&[], &mut known);
    assert!(known.contains("gateways.wechat_pay.private_key_path"), "{known:?}");
    assert_eq!(written, known);
}

#[test]
fn a_later_source_wins() {
    let file = "[pipeline]\nmax_concurrency = 2\n[auth]\naccess_ttl_s = 60";
    assert_eq!(settings(file, &[]).pipeline.max_concurrency, 2);
    let own = ("GREENROOM__PIPELINE__MAX_CONCURRENCY", "3");
    assert_eq!(settings(file, &[own]).pipeline.max_concurrency, 3);
    let legacy = ("MAX_PIPELINE_CONCURRENCY", "4");
    for variables in [[own, legacy], [legacy, own]] {
        let settings = settings(file, &variables);
        assert_eq!((settings.pipeline.max_concurrency, settings.auth.access_ttl_s), (4, 60));
    }
}

#[test]
fn the_environment_wins_over_dev_and_an_option_over_all() {
    let mut layers =
        layers("[server]\nlisten = \"127.0.0.1:1\"", &[("GREENROOM__AUTH__REGISTER_REQUIRES_CODE", "true")]);
    layers.between(&[
        ("auth.register_requires_code", "false".to_owned()),
        ("providers.allow_private_networks", "true".to_owned()),
    ]);
    layers.finally(&[("--listen", "server.listen", "127.0.0.1:3".to_owned())]);
    let (loaded, problems) = layers.resolve();
    assert_eq!(problems, []);
    assert!(loaded.settings.auth.register_requires_code);
    assert!(loaded.settings.providers.allow_private_networks);
    assert_eq!(loaded.settings.server.listen.port(), 3);
    assert_eq!(loaded.origin("server.listen"), Origin::Option("--listen"));
    assert_eq!(loaded.origin("ws.history_s"), Origin::Default);
    assert!(
        loaded
            .environment()
            .contains(&("GREENROOM__PROVIDERS__ALLOW_PRIVATE_NETWORKS".into(), "true".into()))
    );
}

#[test]
fn what_one_process_read_another_can_take_from_its_environment() {
    let (loaded, problems) = layers(EXAMPLE_FILE, &[("JWT_SECRET", &"s".repeat(32))]).resolve();
    assert_eq!(problems, []);
    let environment = loaded.environment();
    let variables: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let handed_on = settings("", &variables);
    assert_eq!(format!("{handed_on:?}"), format!("{:?}", loaded.settings));
}

#[test]
fn an_empty_variable_counts_as_unset() {
    assert!(settings("", &[("JWT_SECRET", ""), ("GREENROOM__SERVER__LISTEN", "")]).auth.jwt_secret.is_none());
}

#[test]
fn variables_hold_numbers_truth_values_lists_and_text() {
    let settings = settings(
        "",
        &[
            ("GREENROOM__SERVER__REPLICA_ID", "7"),
            ("GREENROOM__SERVER__TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
            ("GREENROOM__AUTH__REGISTER_REQUIRES_CODE", "false"),
            ("GREENROOM__STORAGE__MAX_UPLOAD_BYTES", "1000"),
            ("GREENROOM__GATEWAYS__WECHAT__BASE_URL", "http://127.0.0.1:9/x"),
            ("WECHAT_APPID", "wx1"),
            ("GREENROOM__GATEWAYS__WECHAT__SECRET", "0123"),
        ],
    );
    assert_eq!(settings.server.replica_label(), "7");
    assert!(settings.server.trusts("10.9.9.9".parse().unwrap()));
    assert!(settings.server.trusts("::ffff:10.1.2.3".parse().unwrap()));
    assert!(!settings.server.trusts("11.0.0.1".parse().unwrap()));
    assert!(!settings.auth.register_requires_code);
    assert_eq!(settings.storage.max_upload_bytes, 1000);
    let wechat = settings.gateways.wechat;
    assert_eq!(wechat.base_url.unwrap().as_str(), "http://127.0.0.1:9/x");
    assert_eq!(wechat.appid.unwrap(), "wx1");
    // digits stay the text they are
    assert_eq!(secrecy::ExposeSecret::expose_secret(&wechat.secret.unwrap()), "0123");
}

#[test]
fn every_problem_is_listed_with_its_key_and_origin() {
    let file = "[database]\npool_mx = 3\npool_min = \"ten\"\n[serverr]\n[ws]\nhistory_s = 0";
    let variables = [
        ("GREENROOM__AUTH__BCRYPT_COST", "99"),
        ("GREENROOM__NO_SUCH", "1"),
        ("GREENROOM__WS__HEARTBEAT_S", "x"),
    ];
    let found = problems(file, &variables);
    for start in [
        "database.pool_mx (from greenroom.toml): unknown field",
        "database.pool_min (from greenroom.toml): invalid type",
        "serverr (from greenroom.toml): unknown field",
        "ws.history_s (from greenroom.toml): must be between",
        "ws.heartbeat_s (from the variable GREENROOM__WS__HEARTBEAT_S): invalid type",
        "auth.bcrypt_cost (from the variable GREENROOM__AUTH__BCRYPT_COST): must be between 10 and 16",
        "no_such (from the variable GREENROOM__NO_SUCH): unknown field",
    ] {
        assert!(found.iter().any(|problem| problem.starts_with(start)), "{start} not in {found:#?}");
    }
    assert_eq!(found.len(), 7, "{found:#?}");
}

#[test]
fn no_problem_repeats_a_value() {
    let hidden = "hunter2-hunter2";
    for file in [
        format!("auth = \"{hidden}\""),
        format!("[auth]\njwt_secret = \"{hidden}"),
        format!("[auth]\njwt_secret = [\"{hidden}\"]"),
        format!("[auth]\nissuer = {{ a = \"{hidden}\" }}"),
        format!("[auth]\nbcrypt_cost = \"{hidden}\""),
        format!("[logs]\nformat = \"{hidden}\""),
        format!("[server]\nlisten = \"{hidden}\""),
        format!("[server]\npublic_url = \"{hidden}\""),
        format!("[database]\nurl = \"postgres://u:{hidden}@host:port:9/d\""),
        format!("[redis]\nurl = \"{hidden}\""),
        format!("[secrets]\nkey = \"{hidden}\""),
        format!("[secrets]\nprevious_keys = [\"{hidden}\"]"),
    ] {
        let found = problems(&file, &[]);
        assert!(!found.is_empty(), "{file}");
        assert!(!format!("{found:?}").contains(hidden), "{found:?}");
    }
}

#[test]
fn settings_never_print_a_secret() {
    let secret = "b2Zm5wS9cVXkq8h1o0rTnq3vJ5yGdLxE";
    let url = format!("postgres://u:{secret}@h/d");
    let settings = settings("", &[("JWT_SECRET", secret), ("GREENROOM__DATABASE__URL", &url)]);
    assert!(!format!("{settings:?}").contains(secret));
}

#[test]
fn serve_refuses_all_unsafe_settings_at_once() {
    let keys = |settings: &Settings| {
        settings.refusals_for_serve().into_iter().map(|problem| problem.key).collect::<BTreeSet<_>>()
    };
    let nothing_set = keys(&settings("", &[("GREENROOM__SERVER__LISTEN", "0.0.0.0:80")]));
    let expected = ["auth.jwt_secret", "database.url", "redis.url", "secrets.key", "server.public_url"];
    assert_eq!(nothing_set, expected.map(str::to_owned).into());

    let all_set = [
        ("GREENROOM__DATABASE__URL", "postgres://u@h/d"),
        ("GREENROOM__REDIS__URL", "redis://h"),
        ("JWT_SECRET", "b2Zm5wS9cVXkq8h1o0rTnq3vJ5yGdLxE"),
        ("GREENROOM__SECRETS__KEY", "b2Zm5wS9cVXkq8h1o0rTnq3vJ5yGdLxEAAAAAAAAAAA="),
        ("GREENROOM__AUTH__REGISTER_REQUIRES_CODE", "false"),
    ];
    assert_eq!(keys(&settings("", &all_set)), BTreeSet::new());

    let examples = [
        ("JWT_SECRET", "please-CHANGE-ME-please-change-me-now"),
        ("GREENROOM__SECRETS__KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ("GREENROOM__SECRETS__PREVIOUS_KEYS", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ];
    let refused = keys(&settings("", &[&all_set[..], &examples].concat()));
    let expected = ["auth.jwt_secret", "secrets.key", "secrets.previous_keys"];
    assert_eq!(refused, expected.map(str::to_owned).into());
}

#[test]
fn serve_refuses_a_key_file_everyone_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let refused = |mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let settings = settings("", &[("WECHAT_PAY_PRIVATE_KEY_PATH", path)]);
        settings.refusals_for_serve().iter().any(|p| p.key == "gateways.wechat_pay.private_key_path")
    };
    assert!(!refused(0o600));
    assert!(!refused(0o640));
    assert!(refused(0o644));
}

#[test]
fn a_short_secret_is_a_bad_value() {
    assert_eq!(problems("", &[("JWT_SECRET", "x"), ("GREENROOM__SECRETS__KEY", "eA==")]).len(), 2);
}

#[test]
fn an_origin_is_what_a_browser_sends() {
    let origins = |text: &str| problems("", &[("GREENROOM__SERVER__CORS_ORIGINS", text)]);
    assert!(origins("https://app.example.com, http://localhost:5173").is_empty());
    for bad in ["*", "app.example.com", "https://app.example.com/", "https://app.example.com/path", "ftp://a"]
    {
        let [problem] = &origins(bad)[..] else { panic!("{bad} is accepted") };
        assert!(problem.starts_with("server.cors_origins"), "{problem}");
    }
}

const SMS: [(&str, &str); 6] = [
    ("GREENROOM__GATEWAYS__SMS__REGION", "ap-guangzhou"),
    ("GREENROOM__GATEWAYS__SMS__SECRET_ID", "AKID"),
    ("GREENROOM__GATEWAYS__SMS__SECRET_KEY", "hunter2"),
    ("GREENROOM__GATEWAYS__SMS__SDK_APP_ID", "1400006666"),
    ("GREENROOM__GATEWAYS__SMS__SIGN_NAME", "绿房间"),
    ("GREENROOM__GATEWAYS__SMS__TEMPLATE_ID", "449739"),
];
const WECHAT: [(&str, &str); 2] = [("WECHAT_APPID", "wx1"), ("WECHAT_SECRET", "hunter2")];

fn keys_of(problems: &[String]) -> BTreeSet<&str> {
    problems.iter().filter_map(|problem| problem.split(' ').next()).collect()
}

#[test]
fn an_account_is_set_completely_or_not_at_all() {
    for (section, variables) in [("gateways.sms", &SMS[..]), ("gateways.wechat", &WECHAT[..])] {
        assert_eq!(problems("", variables), [""; 0]);
        for missing in variables {
            let rest: Vec<_> = variables.iter().filter(|variable| *variable != missing).copied().collect();
            let [problem] = &problems("", &rest)[..] else { panic!("{missing:?} is not missed") };
            let name = missing.0.rsplit("__").next().unwrap().replace("WECHAT_", "").to_lowercase();
            let start = format!("{section}.{name} (not set): is required because other keys of {section}");
            assert!(problem.starts_with(&start), "{problem}");
            assert!(problem.ends_with(&super::variable_of(&format!("{section}.{name}"))), "{problem}");
        }
    }
}

#[test]
fn an_address_alone_is_half_an_account() {
    let found = problems("[gateways.wechat]\nbase_url = \"https://wechat.example/api\"", &[]);
    assert_eq!(keys_of(&found), ["gateways.wechat.appid", "gateways.wechat.secret"].into());
    let found = problems("[gateways.sms]\nendpoint = \"https://sms.example\"", &[]);
    assert_eq!(found.len(), SMS.len(), "{found:#?}");
}

#[test]
fn half_an_account_is_listed_among_the_other_problems_once() {
    let file = "[gateways.wechat]\nappid = 7\n[ws]\nhistory_s = 0";
    let found = problems(file, &[("WECHAT_SECRET", "hunter2")]);
    assert_eq!(keys_of(&found), ["gateways.wechat.appid", "ws.history_s"].into());
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn what_a_platform_could_not_read_is_refused_and_not_repeated() {
    for (name, value) in [
        ("WECHAT_APPID", "wx1 "),
        ("WECHAT_SECRET", "hunter2\n"),
        ("GREENROOM__GATEWAYS__WECHAT__BASE_URL", "https://hunter2@wechat.example"),
        ("GREENROOM__GATEWAYS__WECHAT__BASE_URL", "https://wechat.example/?secret=hunter2"),
        ("GREENROOM__GATEWAYS__SMS__ENDPOINT", "https://sms.example/path"),
        ("GREENROOM__GATEWAYS__SMS__SECRET_ID", "AK\nID"),
        ("GREENROOM__GATEWAYS__SMS__SECRET_KEY", "hunter2\r\n"),
        ("GREENROOM__GATEWAYS__SMS__SIGN_NAME", " "),
        ("GREENROOM__GATEWAYS__SMS__REGION", "广州"),
    ] {
        let found = problems("", &[&SMS[..], &WECHAT, &[(name, value)]].concat());
        assert_eq!(found.len(), 1, "{name}={value:?}: {found:#?}");
        assert!(found[0].contains("must be") && !found[0].contains("hunter2"), "{found:?}");
    }
    let found = problems("[gateways.wechat]\nappid = \"\"", &WECHAT[1..]);
    assert_eq!(keys_of(&found), ["gateways.wechat.appid"].into());
}
