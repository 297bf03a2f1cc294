//! Templates: any JSON document whose strings may hold minijinja expressions.
//!
//! A string that is exactly one `{{ expression }}` keeps the type of what it evaluates to; every other
//! string renders to a string. Documents are compiled once, when a definition or a provider is saved or
//! loaded, and rendered many times.
//!
//! The authors are administrators, but what flows through is the users' and the providers' data, so
//! everything is bounded: the length, number and nesting of templates, the work of one render (minijinja's
//! fuel, which also pays for every byte produced) and the size of a rendered document. There is no include,
//! import, macro or clock, so a render depends on its context alone.
//!
//! The filters `file_url` and `file_base64` need the object store, which a render may not wait for: they
//! leave a placeholder and name the file in [`Rendered::files`]; [`Rendered::resolve`] puts the texts in.
//!
//! May not know: definitions, runs, HTTP, the object store.

mod analysis;
mod convert;
mod engine;
mod files;
#[cfg(test)]
mod tests;

pub use files::{FileForm, FileReference};

use std::{collections::BTreeMap, fmt, mem};

use minijinja::{Environment, Expression};
use serde_json::Value as Json;

use self::{convert::Budget, files::FileCollector};
use super::{Fault, definition::pointer};

/// Longest template string, in bytes: a long prompt, not a book.
pub const MAX_TEMPLATE_BYTES: usize = 65_536;
/// Most strings with expressions in one document.
pub const MAX_TEMPLATES: usize = 500;
/// Deepest nesting of a template document.
pub const MAX_DEPTH: usize = 64;
/// Largest rendered document, in bytes of text and 8 for each item, before files are put in.
pub const MAX_RENDERED_BYTES: usize = 4 * 1024 * 1024;

/// What the templates of one kind of document may use.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// Variables that exist when the document is rendered.
    pub variables: &'static [&'static str],
    /// Whether `file_url` and `file_base64` may be used.
    pub files: bool,
}

impl Scope {
    /// A provider node's input.
    pub const STEP: Self = Self { variables: &["input", "steps", "task"], files: true };
    /// What a task ends with: its output and its charge. No attempt's deadline could bound a link there.
    pub const RESULT: Self = Self { variables: &["input", "steps", "task"], files: false };
}

/// A compiled template document.
pub struct Template {
    root: Part,
    texts: Box<Environment<'static>>,
    reads: Vec<StepRead>,
}

/// One use of `steps` in a template document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepRead {
    /// Where the template stands.
    pub path: String,
    /// The step it names, or none when the name is only known while rendering (`steps[x]`).
    pub step: Option<String>,
}

enum Part {
    Literal(Json),
    Expression {
        path: String,
        expression: Box<Expression<'static, 'static>>,
    },
    /// Compiled in `Template::texts` under its path.
    Text {
        path: String,
    },
    List(Vec<Part>),
    Map(Vec<(String, Part)>),
}

/// Why a template could not be rendered with this context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template at {path}: {message}")]
pub struct TemplateError {
    /// JSON pointer of the template.
    pub path: String,
    /// What went wrong.
    pub message: String,
}

/// The variables of one render.
#[derive(Debug, Clone, Default)]
pub struct Context {
    variables: BTreeMap<&'static str, minijinja::Value>,
}

impl Context {
    /// A context without variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a variable.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &Json) -> Self {
        self.variables.insert(name, convert::from_json(value));
        self
    }
}

/// A rendered document whose files are still to be put in.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    value: Json,
    files: Vec<FileReference>,
    mark: files::Mark,
}

impl Rendered {
    /// The files the document wants to carry, each named once.
    pub fn files(&self) -> &[FileReference] {
        &self.files
    }

    /// The document with `texts[i]` in the places of `files()[i]`.
    ///
    /// # Errors
    /// Fails when there is not exactly one text for each file.
    pub fn resolve(self, texts: &[String]) -> Result<Json, TemplateError> {
        if texts.len() != self.files.len() {
            let message = format!("{} files were asked for, {} came", self.files.len(), texts.len());
            return Err(TemplateError { path: String::new(), message });
        }
        let mut value = self.value;
        if !texts.is_empty() {
            files::substitute(&mut value, self.mark, texts);
        }
        Ok(value)
    }
}

impl Template {
    /// Compiles `document`, whose place in what the author wrote is the JSON pointer `at`.
    ///
    /// # Errors
    /// All faults at once: syntax, unknown variables, filters and tests, statements we do not allow, limits.
    pub fn compile(document: &Json, at: &str, scope: Scope) -> Result<Self, Vec<Fault>> {
        let mut compiler = Compiler {
            scope,
            texts: Box::new(engine::environment()),
            reads: Vec::new(),
            faults: Vec::new(),
            templates: 0,
        };
        let root = compiler.part(document, at.to_owned(), 0);
        if compiler.templates > MAX_TEMPLATES {
            compiler
                .faults
                .push(Fault::new(at, format!("at most {MAX_TEMPLATES} templates in one document")));
        }
        if compiler.faults.is_empty() {
            compiler.reads.sort();
            compiler.reads.dedup();
            Ok(Self { root, texts: compiler.texts, reads: compiler.reads })
        } else {
            Err(compiler.faults)
        }
    }

    /// Every use of `steps`, sorted by path.
    pub fn reads(&self) -> &[StepRead] {
        &self.reads
    }

    /// Whether the whole document is exactly one expression, so that its value may have any type.
    pub fn is_expression(&self) -> bool {
        matches!(self.root, Part::Expression { .. })
    }

    /// Renders the document.
    ///
    /// # Errors
    /// Names the template that failed: a filter refused its value, or a bound was reached.
    pub fn render(&self, context: &Context) -> Result<Rendered, TemplateError> {
        let collector = FileCollector::new();
        let root = engine::root(&context.variables, &collector);
        let mut budget = Budget::new(MAX_RENDERED_BYTES);
        let value = self.render_part(&self.root, &root, &mut budget)?;
        let (mark, files) = collector.take();
        Ok(Rendered { value, files, mark })
    }

    fn render_part(
        &self,
        part: &Part,
        root: &minijinja::Value,
        budget: &mut Budget,
    ) -> Result<Json, TemplateError> {
        let failed = |path: &str, message: String| TemplateError { path: path.to_owned(), message };
        Ok(match part {
            Part::Literal(value) => value.clone(),
            Part::Expression { path, expression } => {
                let value =
                    expression.eval(root.clone()).map_err(|error| failed(path, engine::explain(&error)))?;
                convert::to_json(&value, budget).map_err(|message| failed(path, message))?
            }
            Part::Text { path } => {
                let text = self
                    .texts
                    .get_template(path)
                    .and_then(|template| template.render(root.clone()))
                    .map_err(|error| failed(path, engine::explain(&error)))?;
                budget.spend(text.len()).map_err(|message| failed(path, message))?;
                Json::String(text)
            }
            Part::List(parts) => parts
                .iter()
                .map(|part| self.render_part(part, root, budget))
                .collect::<Result<Vec<_>, _>>()?
                .into(),
            Part::Map(parts) => Json::Object(
                parts
                    .iter()
                    .map(|(key, part)| Ok((key.clone(), self.render_part(part, root, budget)?)))
                    .collect::<Result<_, TemplateError>>()?,
            ),
        })
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Template").field("reads", &self.reads).finish_non_exhaustive()
    }
}

struct Compiler {
    scope: Scope,
    texts: Box<Environment<'static>>,
    reads: Vec<StepRead>,
    faults: Vec<Fault>,
    templates: usize,
}

impl Compiler {
    fn part(&mut self, value: &Json, path: String, depth: usize) -> Part {
        if depth > MAX_DEPTH {
            self.faults.push(Fault::new(path, format!("nested deeper than {MAX_DEPTH}")));
            return Part::Literal(Json::Null);
        }
        match value {
            Json::String(source) if analysis::is_template(source) => self.template(source, path),
            Json::Array(items) => Part::List(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| self.part(item, pointer(&path, index), depth + 1))
                    .collect(),
            ),
            Json::Object(fields) => Part::Map(
                fields
                    .iter()
                    .map(|(key, field)| (key.clone(), self.part(field, pointer(&path, key), depth + 1)))
                    .collect(),
            ),
            literal => Part::Literal(literal.clone()),
        }
    }

    fn template(&mut self, source: &str, path: String) -> Part {
        self.templates += 1;
        if source.len() > MAX_TEMPLATE_BYTES {
            let message = format!("a template has at most {MAX_TEMPLATE_BYTES} bytes");
            self.faults.push(Fault::new(path, message));
            return Part::Literal(Json::Null);
        }
        let whole = analysis::whole_expression(source)
            .and_then(|inner| Some((inner, engine::compile_expression(inner).ok()?)));
        match whole {
            Some((inner, expression)) => {
                self.check(inner, true, &expression.undeclared_variables(false), &path);
                Part::Expression { path, expression: Box::new(expression) }
            }
            None => {
                self.text(source, &path);
                Part::Text { path }
            }
        }
    }

    fn text(&mut self, source: &str, path: &str) {
        // Statements first: what we do not allow is often also what minijinja was built without.
        let before = self.faults.len();
        self.faults.extend(analysis::forbidden_statements(source).map(|message| Fault::new(path, message)));
        if self.faults.len() > before {
            return;
        }
        if let Err(error) = self.texts.add_template_owned(path.to_owned(), source.to_owned()) {
            let message = format!("the template does not compile: {}", engine::explain(&error));
            self.faults.push(Fault::new(path, message));
            return;
        }
        let variables = self.texts.get_template(path).map(|template| template.undeclared_variables(false));
        self.check(source, false, &variables.unwrap_or_default(), path);
    }

    fn check(
        &mut self,
        source: &str,
        is_expression: bool,
        variables: &std::collections::HashSet<String>,
        path: &str,
    ) {
        let mut unknown: Vec<_> = variables
            .iter()
            .filter(|name| !self.scope.variables.contains(&name.as_str()) && !engine::is_function(name))
            .collect();
        unknown.sort();
        for name in unknown {
            let known = self.scope.variables.join(", ");
            self.faults.push(Fault::new(path, format!("unknown variable `{name}`; there are {known}")));
        }
        let mut uses = analysis::uses(source, is_expression);
        for message in uses.faults(self.scope.files) {
            self.faults.push(Fault::new(path, message));
        }
        for step in mem::take(&mut uses.steps) {
            self.reads.push(StepRead { path: path.to_owned(), step });
        }
    }
}
