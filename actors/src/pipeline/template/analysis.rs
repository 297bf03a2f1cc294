//! What a template names, read from its tokens: minijinja finds out about unknown filters and steps only
//! while it renders, and an author wants to know when saving.

use minijinja::machinery::{Token, tokenize};

use super::{engine, files::FileForm};

/// Statements a template may use. No macros, includes, imports, blocks or `do`.
const STATEMENTS: [&str; 6] = ["if", "elif", "else", "for", "set", "with"];
/// Most statements in one template: nesting costs native stack.
const MAX_STATEMENTS: usize = 200;

/// Whether a string holds anything to render.
pub(super) fn is_template(source: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|opening| source.contains(opening))
}

/// What stands between `{{` and `}}` when that is all of the string; it may still be no single expression.
pub(super) fn whole_expression(source: &str) -> Option<&str> {
    let inner = source.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    // `{{-` and `-}}` trim blanks beside the tag; there are none.
    let inner = inner.strip_prefix('-').unwrap_or(inner);
    Some(inner.strip_suffix('-').unwrap_or(inner).trim())
}

/// Messages about statements that are not allowed.
pub(super) fn forbidden_statements(source: &str) -> impl Iterator<Item = String> {
    let tokens = tokens(source, false);
    let mut messages = Vec::new();
    let mut statements = 0;
    for pair in tokens.windows(2) {
        if let [Token::BlockStart, Token::Ident(name)] = pair {
            statements += 1;
            // The end of what is not allowed is no second fault.
            if !STATEMENTS.contains(name) && !name.starts_with("end") {
                messages.push(format!("the statement `{name}` is not allowed in a template"));
            }
        }
    }
    if statements > MAX_STATEMENTS {
        messages.push(format!("a template has at most {MAX_STATEMENTS} statements"));
    }
    messages.into_iter()
}

/// The filters, tests and steps a template names.
#[derive(Debug, Default)]
pub(super) struct Uses {
    filters: Vec<String>,
    tests: Vec<String>,
    /// Each use of `steps`; none where the step's name is computed.
    pub(super) steps: Vec<Option<String>>,
}

impl Uses {
    /// Messages about names that do not exist, and about files where there can be none.
    pub(super) fn faults(&self, files: bool) -> Vec<String> {
        let mut messages = Vec::new();
        for name in &self.filters {
            if FileForm::is_filter(name) {
                if !files {
                    messages.push(format!("the filter `{name}` can only be used in what goes to a provider"));
                }
            } else if !engine::is_filter(name) {
                messages.push(format!("unknown filter `{name}`"));
            }
        }
        for name in &self.tests {
            if !engine::is_test(name) {
                messages.push(format!("unknown test `{name}`"));
            }
        }
        messages
    }
}

/// Reads the names out of a template.
pub(super) fn uses(source: &str, is_expression: bool) -> Uses {
    let tokens = tokens(source, is_expression);
    let mut uses = Uses::default();
    for (index, token) in tokens.iter().enumerate() {
        let after = &tokens[index + 1..];
        match token {
            Token::Pipe => {
                if let Some(Token::Ident(name)) = after.first() {
                    uses.filters.push((*name).to_owned());
                }
            }
            Token::Ident("is") => match after {
                [Token::Ident("not"), Token::Ident(name), ..] | [Token::Ident(name), ..] => {
                    uses.tests.push((*name).to_owned());
                }
                _ => {}
            },
            // `map("upper")` and `select("odd")` name their filter or test as a string; minijinja says so when it renders.
            Token::Ident("steps") if index == 0 || !matches!(tokens[index - 1], Token::Dot) => {
                uses.steps.push(match after {
                    [Token::Dot, Token::Ident(step), ..] => Some((*step).to_owned()),
                    [Token::BracketOpen, Token::Str(step), Token::BracketClose, ..] => {
                        Some((*step).to_owned())
                    }
                    [Token::BracketOpen, Token::String(step), Token::BracketClose, ..] => {
                        Some(step.to_string())
                    }
                    _ => None,
                });
            }
            _ => {}
        }
    }
    uses
}

fn tokens(source: &str, is_expression: bool) -> Vec<Token<'_>> {
    // A lexical error ends the list; compiling reports it.
    tokenize(source, is_expression, engine::syntax()).map_while(Result::ok).map(|(token, _)| token).collect()
}
