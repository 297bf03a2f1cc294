//! What a platform says, made fit for a log line: short, printable, without what must not be seen.

/// A platform's own text is cut after this many characters.
const TEXT_MAX: usize = 200;
/// Its codes are short names.
const CODE_MAX: usize = 80;

/// A text without any of `hidden`, on one line.
pub(super) fn text(text: &str, hidden: &[&str]) -> String {
    let hidden = hidden.iter().filter(|secret| !secret.is_empty());
    let shown = hidden.fold(text.to_owned(), |text, secret| text.replace(secret, "***"));
    // also what turns the direction of a line or moves a terminal's cursor is gone
    let printable = |letter: char| letter.is_alphanumeric() || letter.is_ascii_punctuation();
    shown.chars().map(|letter| if printable(letter) { letter } else { ' ' }).take(TEXT_MAX).collect()
}

/// A code such as `LimitExceeded.PhoneNumberDailyLimit`, without what no code has.
pub(super) fn code(code: &str) -> String {
    let of_a_code = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    code.chars().filter(of_a_code).take(CODE_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_short_printable_and_without_secrets() {
        assert_eq!(
            text("invalid appsecret s3cret, rid: 1-2", &["s3cret", ""]),
            "invalid appsecret ***, rid: 1-2"
        );
        assert_eq!(text("a\r\n2026 INFO\u{1b}[31m\u{202e}模板", &[]), "a  2026 INFO [31m 模板");
        // cutting comes last: no half of a secret is left
        let long = format!("{}s3cret", "x".repeat(TEXT_MAX - 3));
        assert_eq!(text(&long, &["s3cret"]), format!("{}***", "x".repeat(TEXT_MAX - 3)));
    }

    #[test]
    fn a_code_is_a_short_name() {
        assert_eq!(code("LimitExceeded.PhoneNumberDailyLimit"), "LimitExceeded.PhoneNumberDailyLimit");
        assert_eq!(code("a b\n\"c\"模"), "abc");
        assert_eq!(code(&"x".repeat(1_000)).len(), CODE_MAX);
    }
}
