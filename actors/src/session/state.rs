//! The rules of identity, without a clock, a random source or a store.

use super::SessionError;
use std::fmt;

/// Letters that people do not mix up when they read them to each other: no 0 and O, no 1, I and L.
const INVITE_ALPHABET: &[u8; 31] = b"23456789ABCDEFGHJKMNPQRSTUVWXYZ";
/// 31^8 is about 850 thousand million codes; collisions are rare and retried.
const INVITE_LENGTH: usize = 8;

/// A mainland mobile number: 11 digits that begin with 1.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Phone(String);

impl Phone {
    /// Reads a number as people write it: 11 digits, perhaps after `+86`.
    ///
    /// # Errors
    /// [`SessionError::PhoneInvalid`].
    pub fn parse(text: &str) -> Result<Self, SessionError> {
        let text = text.trim();
        let digits = text.strip_prefix("+86").map_or(text, str::trim_start);
        let valid =
            digits.len() == 11 && digits.starts_with('1') && digits.bytes().all(|byte| byte.is_ascii_digit());
        if valid { Ok(Self(digits.to_owned())) } else { Err(SessionError::PhoneInvalid) }
    }

    /// The 11 digits.
    #[must_use]
    pub fn digits(&self) -> &str {
        &self.0
    }
}

/// Numbers are personal: logs see the masked form.
impl fmt::Debug for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_phone(&self.0))
    }
}

/// `13800138000` as `138****8000`.
#[must_use]
pub fn mask_phone(digits: &str) -> String {
    match (digits.get(..3), digits.get(7..)) {
        (Some(head), Some(tail)) => format!("{head}****{tail}"),
        _ => "****".to_owned(),
    }
}

/// Whether `password` may be set: 8 to 64 characters, at most the 71 bytes that bcrypt looks at, no NUL.
///
/// # Errors
/// [`SessionError::PasswordWeak`].
pub(super) fn check_password(password: &str) -> Result<(), SessionError> {
    let long_enough = (8..=64).contains(&password.chars().count());
    if long_enough && password.len() <= 71 && !password.contains('\0') {
        Ok(())
    } else {
        Err(SessionError::PasswordWeak)
    }
}

/// An invite code out of 64 random bits.
#[must_use]
pub(super) fn invite_code(random: u64) -> String {
    let base = INVITE_ALPHABET.len() as u64;
    let mut rest = random;
    (0..INVITE_LENGTH)
        .map(|_| {
            let letter = INVITE_ALPHABET.get(usize::try_from(rest % base).unwrap_or(0)).copied();
            rest /= base;
            char::from(letter.unwrap_or(b'2'))
        })
        .collect()
}

/// An invite code as somebody typed it, in the form it is stored in.
#[must_use]
pub(super) fn normal_invite_code(text: &str) -> String {
    text.trim().to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_phone_is_eleven_digits_with_or_without_the_country() {
        for text in ["13800138000", "+8613800138000", "+86 13800138000", " 13800138000 "] {
            assert_eq!(Phone::parse(text).unwrap().digits(), "13800138000", "{text}");
        }
        for text in [
            "",
            "1380013800",
            "138001380000",
            "23800138000",
            "+1 3800138000",
            "1380013800a",
            "１３８００１３８０００",
        ] {
            assert!(Phone::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_phone_is_shown_masked() {
        assert_eq!(format!("{:?}", Phone::parse("13800138000").unwrap()), "138****8000");
        assert_eq!(mask_phone("x"), "****");
    }

    #[test]
    fn a_password_is_bounded_in_characters_and_bytes() {
        for password in ["12345678", &"a".repeat(64), &"密".repeat(23)] {
            assert!(check_password(password).is_ok(), "{password}");
        }
        for password in ["1234567", &"a".repeat(65), &"密".repeat(24), "1234567\0"] {
            assert!(check_password(password).is_err(), "{password}");
        }
    }

    proptest! {
        #[test]
        fn an_invite_code_is_eight_letters_nobody_mixes_up(random: u64) {
            let code = invite_code(random);
            prop_assert_eq!(code.len(), 8);
            prop_assert!(code.bytes().all(|letter| INVITE_ALPHABET.contains(&letter)));
            prop_assert_eq!(normal_invite_code(&code.to_lowercase()), code);
        }
    }
}
