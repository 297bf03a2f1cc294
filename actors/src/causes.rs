//! Errors in the log.

use std::error::Error;

/// An error and what caused it, in one line. A log in JSON would keep the outermost error alone, which seldom says
/// what to mend.
#[must_use]
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // transparent errors say what their source says
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io, num::ParseIntError};

    #[derive(Debug, thiserror::Error)]
    #[error("the file cannot be read")]
    struct Unreadable(#[source] io::Error);

    #[test]
    fn an_error_is_told_with_its_causes_each_once() {
        let number: ParseIntError = "x".parse::<u8>().unwrap_err();
        let error = Unreadable(io::Error::other(number));
        assert_eq!(causes(&error), "the file cannot be read: invalid digit found in string");
    }
}
