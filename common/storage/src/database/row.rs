//! How a row becomes a value of ours, and a value of ours a row: strictly. What this program does not know is an error that
//! names table, column and id. It is never dropped, and never replaced by what is near: a newer version may have
//! written it, and knows what it means.

use std::fmt::{Debug, Display};

/// Which row, for the error.
#[derive(Clone, Copy, Debug)]
pub struct RowId<I> {
    table: &'static str,
    id: I,
}

/// A value that this program cannot take for what it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{table}.{column} of {id} is {value}, which this version cannot read or write: did a newer one write it?"
)]
pub struct UnknownValue {
    pub table: &'static str,
    pub column: &'static str,
    pub id: String,
    pub value: String,
}

impl<I: Display> RowId<I> {
    pub fn new(table: &'static str, id: I) -> Self {
        Self { table, id }
    }

    /// The value that a name in a column stands for.
    ///
    /// # Errors
    /// [`UnknownValue`], where `parse` knows none.
    pub fn known<T>(
        &self,
        column: &'static str,
        name: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> sqlx::Result<T> {
        parse(name).ok_or_else(|| self.unknown(column, format!("{name:?}")))
    }

    /// The same value in another type: a number from or for a column, the bytes of a hash.
    ///
    /// # Errors
    /// [`UnknownValue`], where that type has no such value.
    pub fn fits<T, V>(&self, column: &'static str, value: V) -> sqlx::Result<T>
    where
        V: Clone + Debug,
        T: TryFrom<V>,
    {
        T::try_from(value.clone()).map_err(|_| self.unknown(column, format!("{value:?}")))
    }

    /// The error itself. `value` is logged, so it must be nothing personal.
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
    fn what_is_not_known_is_told_with_its_place() {
        let row = RowId::new("calls", "cal_1");
        assert_eq!(row.known("outcome", "ok", Class::parse).unwrap(), Class::Ok);
        assert_eq!(row.fits::<u32, _>("width", 5_i32).unwrap(), 5);
        let newer = row.known("outcome", "newer", Class::parse).unwrap_err();
        assert!(
            newer
                .to_string()
                .contains("calls.outcome of cal_1 is \"newer\""),
            "{newer}"
        );
        let negative = row.fits::<u32, _>("width", -1_i32).unwrap_err();
        assert!(
            negative.to_string().contains("calls.width of cal_1 is -1"),
            "{negative}"
        );
    }
}
