//! Lists: the parameters that choose a page, and the page itself.
//!
//! A list that has pages begins with the item that was added last. A client asks for `limit` items and continues with
//! `starting_after`, the id (or the number) of the last item it has. A list without pages is a [`List`].

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};

/// How many items a page may have.
#[derive(Clone, Copy, Debug)]
pub struct Limit(i64);

impl Limit {
    /// The most items a client may ask for.
    pub const MAX: i64 = 100;
    /// The number of items if a client does not send `limit`.
    pub const DEFAULT: i64 = 20;

    /// The number of items. Callers query one row more than this, because [`Page::new`] needs it to find out whether more items
    /// follow.
    pub fn get(self) -> i64 {
        self.0
    }

    /// The schema of `limit`, for `/openapi.json`.
    pub fn schema() -> Schema {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .minimum(Some(1))
            .maximum(Some(Self::MAX))
            .default(Some(json!(Self::DEFAULT)))
            .into()
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(Self::DEFAULT)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match i64::deserialize(deserializer)? {
            limit @ 1..=Self::MAX => Ok(Self(limit)),
            _ => Err(D::Error::custom(format!(
                "expected a whole number from 1 to {}",
                Self::MAX
            ))),
        }
    }
}

/// The `starting_after` of a list whose lines are numbered: the number of the last line that the client has.
#[derive(Clone, Copy, Debug)]
pub struct LineNumber(i64);

impl LineNumber {
    /// The number, 0 or more.
    pub fn get(self) -> i64 {
        self.0
    }

    /// The schema of such a `starting_after`, for `/openapi.json`.
    pub fn schema() -> Schema {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(0))
            .maximum(Some(i64::MAX))
            .into()
    }
}

impl<'de> Deserialize<'de> for LineNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match i64::deserialize(deserializer)? {
            number @ 0.. => Ok(Self(number)),
            _ => Err(D::Error::custom(format!(
                "expected a whole number from 0 to {}",
                i64::MAX
            ))),
        }
    }
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The items of this page.
    pub data: Vec<T>,
    /// Whether more items follow.
    pub has_more: bool,
}

impl<T> Page<T> {
    /// Makes a page of at most `limit` items. `rows` contains one row more if more items follow.
    pub fn new(mut rows: Vec<T>, limit: i64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        Self {
            data: rows,
            has_more,
        }
    }

    /// The same page with every item converted.
    pub fn map<U>(self, convert: impl FnMut(T) -> U) -> Page<U> {
        Page {
            data: self.data.into_iter().map(convert).collect(),
            has_more: self.has_more,
        }
    }
}

/// A list that is always returned whole.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T> {
    /// All items.
    pub data: Vec<T>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_whether_more_items_follow() {
        let page = Page::new(vec![1, 2, 3], 2);
        assert_eq!((page.data, page.has_more), (vec![1, 2], true));
        let page = Page::new(vec![1, 2], 2);
        assert_eq!((page.data, page.has_more), (vec![1, 2], false));
    }

    #[test]
    fn a_limit_and_a_line_number_are_within_bounds() {
        let limit = |number: i64| Limit::deserialize(json!(number)).is_ok();
        assert!(limit(1) && limit(100) && !limit(0) && !limit(101));
        let number = |number: i64| LineNumber::deserialize(json!(number)).is_ok();
        assert!(number(0) && number(i64::MAX) && !number(-1));
    }
}
