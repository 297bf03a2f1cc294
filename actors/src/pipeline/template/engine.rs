//! The one minijinja environment all templates run in: which filters and functions exist, what a render may cost.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Expression, Output, State, UndefinedBehavior, Value,
    syntax::SyntaxConfig, value::ValueKind,
};

use super::{
    convert::{self, Budget},
    files::{self, FileCollector, FileForm},
};

/// Fuel of one template. An instruction costs one, 64 bytes of data cost one: a template may make about
/// 6 MB or run 100,000 instructions, whichever comes first, which is a few milliseconds.
const FUEL: u64 = 100_000;
/// minijinja recurses on the native stack; loops that call themselves are not worth more.
const RECURSION_LIMIT: usize = 64;
/// Functions a template may call, besides `loop` inside of `for`. Not among them: `debug`, which prints the whole
/// context, and `namespace`, which could hold itself.
const FUNCTIONS: [&str; 2] = ["range", "dict"];
/// Where the file filters find the collector; no template can name it, as it is no variable of any scope.
const COLLECTOR: &str = "__files";

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_syntax(syntax());
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_LIMIT);
    // Any path into a step that did not succeed is null.
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(format);
    for form in [FileForm::Url, FileForm::Base64] {
        environment.add_filter(form.filter(), move |state: &State, value: Value| {
            let collector = state.lookup(COLLECTOR);
            let collector = collector.as_ref().and_then(|value| value.downcast_object_ref::<FileCollector>());
            files::collect(collector, form, &value)
        });
    }
    environment
});

/// Standard delimiters; a text keeps the line break at its end.
pub(super) fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder().keep_trailing_newline(true).build().unwrap_or_default()
}

/// A fresh environment for the text templates of one document.
pub(super) fn environment() -> Environment<'static> {
    ENVIRONMENT.clone()
}

/// Compiles what stands between `{{` and `}}`.
pub(super) fn compile_expression(source: &str) -> Result<Expression<'static, 'static>, Error> {
    ENVIRONMENT.compile_expression_owned(source.to_owned())
}

/// Whether a name that is no variable is a function.
pub(super) fn is_function(name: &str) -> bool {
    FUNCTIONS.contains(&name)
}

/// Whether a filter of this name exists.
pub(super) fn is_filter(name: &str) -> bool {
    let tried = ENVIRONMENT.empty_state().apply_filter(name, &[Value::UNDEFINED]);
    !matches!(tried, Err(error) if error.kind() == ErrorKind::UnknownFilter)
}

/// Whether a test of this name exists.
pub(super) fn is_test(name: &str) -> bool {
    let tried = ENVIRONMENT.empty_state().perform_test(name, &[Value::UNDEFINED]);
    !matches!(tried, Err(error) if error.kind() == ErrorKind::UnknownTest)
}

/// The root of a render's context.
pub(super) fn root(variables: &BTreeMap<&'static str, Value>, collector: &Arc<FileCollector>) -> Value {
    let collector = Value::from_dyn_object(Arc::clone(collector));
    let variables = variables.iter().map(|(name, value)| (*name, value.clone()));
    Value::from_pairs(variables.chain([(COLLECTOR, collector)]))
}

/// An error in the author's words, without minijinja's file names.
pub(super) fn explain(error: &Error) -> String {
    match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "the template does too much work".to_owned(),
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    }
}

/// How a value reads inside of a text: null is nothing, lists and maps are JSON.
fn format(output: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    let written = match value.kind() {
        ValueKind::Undefined | ValueKind::None => Ok(()),
        ValueKind::String => output.write_str(value.as_str().unwrap_or_default()),
        ValueKind::Bool | ValueKind::Number => write!(output, "{value}"),
        _ => {
            let json = convert::to_json(value, &mut Budget::new(super::MAX_RENDERED_BYTES))
                .map_err(|message| Error::new(ErrorKind::InvalidOperation, message))?;
            write!(output, "{json}")
        }
    };
    written.map_err(Error::from)
}
