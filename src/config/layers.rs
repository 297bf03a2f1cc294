//! Sources of settings, laid over each other value by value, so that each problem can name its source.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Loaded, Origin, Problem, Settings, file_to_read};

/// Variables older deployments already set, and the keys they stand for.
pub const LEGACY_NAMES: [(&str, &str); 15] = [
    ("JWT_SECRET", "auth.jwt_secret"),
    ("WECHAT_APPID", "gateways.wechat.appid"),
    ("WECHAT_SECRET", "gateways.wechat.secret"),
    ("WECHAT_PAY_APPID", "gateways.wechat_pay.appid"),
    ("WECHAT_PAY_MCHID", "gateways.wechat_pay.mchid"),
    ("WECHAT_PAY_SERIAL_NO", "gateways.wechat_pay.serial_no"),
    ("WECHAT_PAY_PRIVATE_KEY_PATH", "gateways.wechat_pay.private_key_path"),
    ("ALIPAY_APPID", "gateways.alipay.appid"),
    ("ALIPAY_PRIVATE_KEY_PATH", "gateways.alipay.private_key_path"),
    ("ALIPAY_PUBLIC_KEY_PATH", "gateways.alipay.public_key_path"),
    ("KMS_REGION", "gateways.kms.region"),
    ("KMS_SECRET_ID", "gateways.kms.secret_id"),
    ("KMS_SECRET_KEY", "gateways.kms.secret_key"),
    ("KMS_KEY_ID", "gateways.kms.key_id"),
    ("MAX_PIPELINE_CONCURRENCY", "pipeline.max_concurrency"),
];

const PREFIX: &str = "GREENROOM__";

/// The variable that sets `key`: `server.listen` is `GREENROOM__SERVER__LISTEN`.
pub fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// One value as one source gives it.
pub(super) struct Leaf {
    /// `section.key`.
    pub(super) key: String,
    /// The source.
    pub(super) origin: Origin,
    value: Value,
}

impl Leaf {
    /// The value as a variable would hold it.
    pub(super) fn as_variable(&self) -> String {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match &self.value {
            Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
            value => text(value),
        }
    }

    /// Whether it only names a section.
    pub(super) fn is_section(&self) -> bool {
        self.value.is_object()
    }

    /// A tree that holds nothing but this value.
    fn alone(&self, value: Value) -> Value {
        self.key
            .rsplit('.')
            .fold(value, |inner, name| Value::Object(Map::from_iter([(name.to_owned(), inner)])))
    }

    /// What the value may mean. A variable is text, which may stand for a number, a truth value or a list.
    fn readings(&self) -> Vec<Value> {
        let mut readings = vec![self.value.clone()];
        if let (Value::String(text), Origin::Variable(_) | Origin::Dev | Origin::Option(_)) =
            (&self.value, &self.origin)
        {
            let text = text.trim();
            readings.extend(text.parse::<i64>().map(Value::from));
            readings.extend(text.parse::<bool>().map(Value::from));
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            readings.push(items.map(Value::from).collect());
        }
        readings
    }

    /// Takes the first reading that fits its field.
    fn fit(&mut self) -> Result<(), Problem> {
        let mut refusal = None;
        for reading in self.readings() {
            match Settings::deserialize(self.alone(reading.clone())) {
                Ok(_) => {
                    self.value = reading;
                    return Ok(());
                }
                // the first says most: what the field wants instead of this text
                Err(error) => refusal = refusal.or(Some(error.to_string())),
            }
        }
        let message = without_value(refusal.unwrap_or_default(), &self.value);
        Err(Problem { key: self.key.clone(), origin: self.origin.clone(), message })
    }
}

/// serde repeats the offending value; what stands under a wrong key may be a secret.
fn without_value(message: String, value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() => {
            message.replace(&format!("{text:?}"), "(text)").replace(&format!("`{text}`"), "(text)")
        }
        _ => message,
    }
}

/// The sources in order; a later one wins.
#[derive(Default)]
pub(super) struct Layers {
    file: Vec<Leaf>,
    between: Vec<Leaf>,
    environment: Vec<Leaf>,
    options: Vec<Leaf>,
    problems: Vec<Problem>,
}

impl Layers {
    /// The file and the environment of this process.
    pub(super) fn of_process(config: Option<PathBuf>) -> Self {
        let mut layers = Self::default();
        if let Some(path) = file_to_read(config) {
            match std::fs::read_to_string(&path) {
                Ok(text) => layers.file(path, &text),
                Err(error) => {
                    let message = format!("cannot be read: {error}");
                    layers.problems.push(Problem { key: String::new(), origin: Origin::File(path), message });
                }
            }
        }
        layers.variables(std::env::vars_os());
        layers
    }

    /// A configuration file.
    pub(super) fn file(&mut self, path: PathBuf, text: &str) {
        match toml::from_str::<Map<String, Value>>(text) {
            Ok(table) => flatten(String::new(), Value::Object(table), &Origin::File(path), &mut self.file),
            // its own display would quote the line, and a line may hold a secret
            Err(error) => {
                let start = error.span().map_or(0, |span| span.start);
                let line = text.get(..start).map_or(1, |before| before.matches('\n').count() + 1);
                let message = format!("line {line} is not TOML: {}", error.message());
                self.problems.push(Problem { key: String::new(), origin: Origin::File(path), message });
            }
        }
    }

    /// The environment: our own names, then the legacy ones. An empty variable counts as unset.
    pub(super) fn variables(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) {
        let mut legacy = Vec::new();
        for (name, value) in variables {
            let Some(name) = name.to_str().map(str::to_owned) else { continue };
            let old = LEGACY_NAMES.iter().find(|(old, _)| *old == name).map(|(_, key)| (*key).to_owned());
            let own = || name.strip_prefix(PREFIX).map(|rest| rest.to_lowercase().replace("__", "."));
            let Some(key) = old.clone().or_else(own) else { continue };
            let origin = Origin::Variable(name);
            match value.into_string() {
                Ok(text) if text.is_empty() => {}
                Ok(text) => {
                    let leaf = Leaf { key, origin, value: Value::String(text) };
                    if old.is_some() { legacy.push(leaf) } else { self.environment.push(leaf) }
                }
                Err(_) => self.problems.push(Problem { key, origin, message: "is not UTF-8".to_owned() }),
            }
        }
        self.environment.extend(legacy);
    }

    /// Values between file and environment.
    pub(super) fn between(&mut self, values: &[(&str, String)]) {
        let leaf = |(key, value): &(&str, String)| Leaf {
            key: (*key).to_owned(),
            origin: Origin::Dev,
            value: Value::String(value.clone()),
        };
        self.between.extend(values.iter().map(leaf));
    }

    /// Values of the command line, as (option, key, value).
    pub(super) fn finally(&mut self, values: &[(&'static str, &str, String)]) {
        let leaf = |(option, key, value): &(&'static str, &str, String)| Leaf {
            key: (*key).to_owned(),
            origin: Origin::Option(option),
            value: Value::String(value.clone()),
        };
        self.options.extend(values.iter().map(leaf));
    }

    /// Lays all values over each other. What does not fit is reported and left out.
    pub(super) fn resolve(self) -> (Loaded, Vec<Problem>) {
        let mut problems = self.problems;
        let mut leaves = Vec::new();
        let mut tree = Value::Object(Map::new());
        for mut leaf in [self.file, self.between, self.environment, self.options].into_iter().flatten() {
            match leaf.fit() {
                Ok(()) => {
                    merge(&mut tree, leaf.alone(leaf.value.clone()));
                    leaves.push(leaf);
                }
                Err(problem) => problems.push(problem),
            }
        }
        let settings = Settings::deserialize(tree).unwrap_or_else(|error| {
            // every value fitted by itself, so this cannot be; if it is, nothing may start
            let message = error.to_string();
            problems.push(Problem { key: String::new(), origin: Origin::Default, message });
            Settings::default()
        });
        let loaded = Loaded { settings, leaves };
        for (key, message) in loaded.settings.check() {
            // a value that did not fit was left out: that it is missing is no second problem
            if problems.iter().any(|problem| problem.key == key) {
                continue;
            }
            problems.push(Problem { key: key.to_owned(), origin: loaded.origin(key), message });
        }
        (loaded, problems)
    }
}

/// Turns a tree into its leaves; an empty table is one, so that its name is checked too.
fn flatten(key: String, value: Value, origin: &Origin, leaves: &mut Vec<Leaf>) {
    match value {
        Value::Object(table) if !table.is_empty() => {
            for (name, value) in table {
                let key = if key.is_empty() { name } else { format!("{key}.{name}") };
                flatten(key, value, origin, leaves);
            }
        }
        value if !key.is_empty() => leaves.push(Leaf { key, origin: origin.clone(), value }),
        _ => {}
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
