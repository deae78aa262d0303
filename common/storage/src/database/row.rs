//! Converts between values of rows and values of the program, strictly.
//!
//! A value that this program does not know is an error that names table, column and id. Such a
//! value is never dropped and never replaced by a similar one, because a newer version may have
//! written it and knows its meaning.

use std::fmt::{Debug, Display};
use std::str::FromStr;

/// A row's table and id, for errors.
#[derive(Clone, Copy, Debug)]
pub struct RowId<I> {
    table: &'static str,
    /// The row's id; the tenant's id for several rows of one tenant.
    id: I,
}

/// A value that this program cannot convert.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{table}.{column} of {id} is {value}, which this version cannot read or write: did a newer one write it?"
)]
pub struct UnknownValue {
    /// The table.
    pub table: &'static str,
    /// The column.
    pub column: &'static str,
    /// The row's id.
    pub id: String,
    /// The value as text.
    pub value: String,
}

impl<I: Display> RowId<I> {
    /// Names the row of `table` with this id.
    pub fn new(table: &'static str, id: I) -> Self {
        Self { table, id }
    }

    /// Parses a name that was read from a column.
    ///
    /// # Errors
    /// Returns [`UnknownValue`] if the type has no such name.
    pub fn parse<T: FromStr>(&self, column: &'static str, name: &str) -> sqlx::Result<T> {
        name.parse()
            .map_err(|_| self.unknown(column, format!("{name:?}")))
    }

    /// Converts a value to another type without changing the value: a number that was read from a
    /// column or that will be written to one, or the bytes of a hash.
    ///
    /// # Errors
    /// Returns [`UnknownValue`] if the other type has no such value.
    pub fn convert<T, V>(&self, column: &'static str, value: V) -> sqlx::Result<T>
    where
        V: Clone + Debug,
        T: TryFrom<V>,
    {
        T::try_from(value.clone()).map_err(|_| self.unknown(column, format!("{value:?}")))
    }

    /// The error for a value that this program cannot convert. `value` is logged, so it must not
    /// contain personal data.
    pub fn unknown(&self, column: &'static str, value: String) -> sqlx::Error {
        sqlx::Error::Decode(Box::new(UnknownValue {
            table: self.table,
            column,
            id: self.id.to_string(),
            value,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::outcome::Class;

    #[test]
    fn an_unknown_value_is_reported_with_its_place() {
        let row = RowId::new("calls", "cal_1");
        assert_eq!(row.parse::<Class>("outcome", "ok").unwrap(), Class::Ok);
        assert_eq!(row.convert::<u32, _>("width", 5_i32).unwrap(), 5);
        let newer = row.parse::<Class>("outcome", "newer").unwrap_err();
        assert!(
            newer
                .to_string()
                .contains("calls.outcome of cal_1 is \"newer\""),
            "{newer}"
        );
        let negative = row.convert::<u32, _>("width", -1_i32).unwrap_err();
        assert!(
            negative.to_string().contains("calls.width of cal_1 is -1"),
            "{negative}"
        );
    }
}
