//! Query strings and lists: `limit`, opaque cursors, `{items, nextCursor}`.

use super::{
    error::{ApiError, ErrorCode},
    json::pointer,
    language::Text,
};
use actix_web::{FromRequest, HttpRequest, dev::Payload};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::{
    future::{Ready, ready},
    str::FromStr,
};
use utoipa::{IntoParams, ToSchema};

/// A query string that fits `T`; unknown names, repeated names and bad values are 400 with their path.
#[derive(Clone, Debug)]
pub struct ValidQuery<T>(pub T);

impl<T: DeserializeOwned> FromRequest for ValidQuery<T> {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(parse_query(request.query_string()).map(Self))
    }
}

fn parse_query<T: DeserializeOwned>(query: &str) -> Result<T, ApiError> {
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        // what is not UTF-8 was replaced while decoding
        if [&name, &value].iter().any(|text| text.contains(['\0', char::REPLACEMENT_CHARACTER])) {
            let message = Text::new("须为不含 NUL 的 UTF-8。", "It must be UTF-8 without NUL.");
            return Err(ApiError::at(ErrorCode::BadRequest, format!("/{}", name.replace('\0', "")), message));
        }
    }
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(pairs)).map_err(|error| {
        let message = error.inner().to_string();
        ApiError::at(ErrorCode::BadRequest, pointer(error.path(), &message), Text::only(message))
    })
}

/// A query without parameters.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoQuery {}

/// How many items a page holds: 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(value_type = u8, minimum = 1, maximum = 100, default = 20)]
pub struct Limit(u8);

impl Default for Limit {
    fn default() -> Self {
        Self(20)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().ok().filter(|limit| (1..=100).contains(limit)).map(Self).ok_or_else(|| {
            serde::de::Error::custom("须为 1 到 100 的整数 (a whole number from 1 to 100 is expected)")
        })
    }
}

impl Limit {
    /// Rows to ask the store for: one more than the page, to know whether another page follows.
    #[must_use]
    pub fn rows(self) -> i64 {
        i64::from(self.0) + 1
    }
}

/// A place in a list, as the page before gave it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[schema(value_type = String)]
pub struct Cursor(String);

/// Bytes of the list's name in a cursor, so that one list's cursor is not taken for another's.
const TAG: usize = 4;

fn tag(list: &str) -> [u8; TAG] {
    let digest = Sha256::digest(list.as_bytes());
    std::array::from_fn(|index| digest[index])
}

impl Cursor {
    /// The place after `key` in the list of that name.
    fn after(list: &str, key: &str) -> Self {
        let mut bytes = tag(list).to_vec();
        bytes.extend_from_slice(key.as_bytes());
        Self(BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The key the list of that name goes on after.
    fn key<K: FromStr>(&self, list: &str) -> Result<K, ApiError> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&self.0).ok();
        let text = bytes.as_deref().and_then(|bytes| bytes.strip_prefix(&tag(list)));
        let key = text.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        key.ok_or_else(|| {
            let message = Text::new("不是本列表给出的游标。", "This list never gave this cursor.");
            ApiError::at(ErrorCode::BadRequest, "/cursor", message)
        })
    }
}

/// The query of a list without filters.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Items on a page.
    #[serde(default)]
    #[param(value_type = Option<u8>, minimum = 1, maximum = 100, default = 20)]
    pub limit: Limit,
    /// `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    pub cursor: Option<Cursor>,
}

/// The part of a list that was asked for.
#[derive(Clone, Debug)]
pub struct Page<K> {
    list: &'static str,
    limit: Limit,
    /// The key of the last item of the page before.
    pub after: Option<K>,
}

impl<K: FromStr + ToString> Page<K> {
    /// The page that `limit` and `cursor` ask for; `list` names the list in its cursors.
    ///
    /// # Errors
    /// 400 at `/cursor`.
    pub fn new(list: &'static str, limit: Limit, cursor: Option<&Cursor>) -> Result<Self, ApiError> {
        let after = cursor.map(|cursor| cursor.key(list)).transpose()?;
        Ok(Self { list, limit, after })
    }

    /// Rows to ask the store for.
    #[must_use]
    pub fn rows(&self) -> i64 {
        self.limit.rows()
    }

    /// The answer, from at most [`Self::rows`] rows.
    pub fn answer<R, T>(&self, mut rows: Vec<R>, key: impl Fn(&R) -> K, view: impl FnMut(R) -> T) -> List<T> {
        let limit = usize::from(self.limit.0);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let last = rows.last().filter(|_| more);
        let next_cursor = last.map(|row| Cursor::after(self.list, &key(row).to_string()).0);
        List { items: rows.into_iter().map(view).collect(), next_cursor }
    }
}

/// A page of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct List<T> {
    /// The items.
    pub items: Vec<T>,
    /// The `cursor` of the next page; null on the last.
    pub next_cursor: Option<String>,
}

impl<T> List<T> {
    /// A list that always fits one page.
    #[must_use]
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next_cursor: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::language::Language;
    use uuid::Uuid;

    fn path_of(error: &ApiError) -> String {
        let body: serde_json::Value = serde_json::from_slice(&error.body(Language::English, "")).unwrap();
        body["errors"][0]["path"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_bad_parameter_is_named() {
        for (query, path) in [
            ("limit=0", "/limit"),
            ("limit=101", "/limit"),
            ("limit=ten", "/limit"),
            ("limit=", "/limit"),
            ("limit=1&limit=2", "/limit"),
            ("color=red", "/color"),
            ("cursor=%00", "/cursor"),
            ("cursor=%ff", "/cursor"),
        ] {
            assert_eq!(path_of(&parse_query::<PageQuery>(query).unwrap_err()), path, "{query}");
        }
        assert_eq!(parse_query::<PageQuery>("").unwrap().limit.rows(), 21);
        assert_eq!(parse_query::<PageQuery>("limit=100").unwrap().limit.rows(), 101);
    }

    #[test]
    fn a_cursor_goes_on_where_the_page_ended() {
        let ids: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
        let page = Page::<Uuid>::new("tasks", Limit(2), None).unwrap();
        let list = page.answer(ids.clone(), |id| *id, |id| id);
        assert_eq!(list.items, ids[..2]);
        let cursor = Cursor(list.next_cursor.unwrap());
        assert_eq!(Page::<Uuid>::new("tasks", Limit(2), Some(&cursor)).unwrap().after, Some(ids[1]));
        assert_eq!(page.answer(ids[..2].to_vec(), |id| *id, |id| id).next_cursor, None);
    }

    #[test]
    fn a_cursor_of_another_list_or_of_nobody_is_refused() {
        let foreign = Cursor::after("orders", &Uuid::now_v7().to_string());
        for cursor in [foreign, Cursor(String::new()), Cursor("%%%".to_owned()), Cursor("AAAA".to_owned())] {
            assert_eq!(path_of(&Page::<Uuid>::new("tasks", Limit(2), Some(&cursor)).unwrap_err()), "/cursor");
        }
    }
}
