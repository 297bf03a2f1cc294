//! The two languages in which errors speak: Chinese, and English for those who ask for it.

use actix_web::http::header::{ACCEPT_LANGUAGE, HeaderMap};
use std::borrow::Cow;

/// A language of titles and details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// The default.
    Chinese,
    /// For clients that prefer it to Chinese.
    English,
}

impl Language {
    /// The language that `Accept-Language` prefers; Chinese where it says nothing of use.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let header = headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut best = (Self::Chinese, 0.0);
        for range in header.split(',').take(16) {
            let mut parts = range.split(';').map(str::trim);
            let tag = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, parse_quality);
            let language = match tag.split('-').next() {
                Some("zh") => Self::Chinese,
                Some("en") => Self::English,
                _ => continue,
            };
            if quality > best.1 {
                best = (language, quality);
            }
        }
        best.0
    }

    /// The tag for `Content-Language`.
    #[must_use]
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Chinese => "zh-CN",
            Self::English => "en",
        }
    }
}

fn parse_quality(text: &str) -> f32 {
    text.parse::<f32>().ok().filter(|quality| (0.0..=1.0).contains(quality)).unwrap_or(0.0)
}

/// One sentence in both languages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    chinese: Cow<'static, str>,
    english: Cow<'static, str>,
}

impl Text {
    /// A sentence in both languages.
    pub fn new(chinese: impl Into<Cow<'static, str>>, english: impl Into<Cow<'static, str>>) -> Self {
        Self { chinese: chinese.into(), english: english.into() }
    }

    /// A sentence that exists in one language only, such as a parser's.
    pub fn only(text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        Self { chinese: text.clone(), english: text }
    }

    /// The sentence in `language`.
    #[must_use]
    pub fn in_language(&self, language: Language) -> &str {
        match language {
            Language::Chinese => &self.chinese,
            Language::English => &self.english,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    #[test]
    fn the_preferred_of_the_two_is_spoken_and_chinese_otherwise() {
        for (header, language) in [
            ("", Language::Chinese),
            ("en", Language::English),
            ("en-GB,en;q=0.8", Language::English),
            ("fr, en;q=0.5", Language::English),
            ("zh-CN, en;q=0.9", Language::Chinese),
            ("en;q=0.2, zh;q=0.7", Language::Chinese),
            ("fr", Language::Chinese),
            ("en;q=x", Language::Chinese),
            ("en;q=0", Language::Chinese),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_str(header).unwrap());
            assert_eq!(Language::of(&headers), language, "{header:?}");
        }
    }
}
