//! Credits: whole units, never negative, never a float; arithmetic that does not fit is an error.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::wildcard_enum_match_arm
)]

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An amount of credits, `0..=i64::MAX`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(try_from = "i64", into = "i64")]
#[schema(value_type = i64, minimum = 0)]
pub struct Credits(i64);

#[cfg(feature = "sqlx")]
impl sqlx::Type<sqlx::Postgres> for Credits {
    fn type_info() -> sqlx::postgres::PgTypeInfo {
        i64::type_info()
    }
}

#[cfg(feature = "sqlx")]
impl<'r> sqlx::Decode<'r, sqlx::Postgres> for Credits {
    fn decode(value: sqlx::postgres::PgValueRef<'r>) -> Result<Self, sqlx::error::BoxDynError> {
        Ok(Self::new(i64::decode(value)?)?)
    }
}

/// An amount below zero or beyond what can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an amount of credits is a whole number from 0 to {}", i64::MAX)]
pub struct InvalidCredits;

/// More than may be moved at once, or than a wallet may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CreditLimitError {
    #[error(
        "at most {} are moved at once: do it in several steps",
        Credits::MAX_TRANSFER
    )]
    Moved,
    #[error(
        "a wallet holds at most {}, and this one would hold more",
        Credits::MAX_BALANCE
    )]
    InAWallet,
}

impl Credits {
    pub const ZERO: Self = Self(0);
    /// The most that one grant, adjustment or hold moves. The database has the same bound (`movements_are_bounded`).
    pub const MAX_TRANSFER: Self = Self(1_000_000_000_000);
    /// The most that a wallet holds by grants and adjustments, available and held: far from what a sum could overflow by.
    pub const MAX_BALANCE: Self = Self(1_000_000_000_000_000);
    /// The highest price of one output: a job of the most outputs stays below [`Self::MOST_MOVED`].
    pub const MAX_PRICE: Self = Self(10_000_000_000);

    /// Whether a wallet that holds `self` may be given so many more, at once.
    pub fn may_be_given(self, more: Self) -> Result<(), CreditLimitError> {
        if more > Self::MAX_TRANSFER {
            return Err(CreditLimitError::Moved);
        }
        match self.plus(more) {
            Ok(total) if total <= Self::MAX_BALANCE => Ok(()),
            _ => Err(CreditLimitError::InAWallet),
        }
    }

    pub fn new(amount: i64) -> Result<Self, InvalidCredits> {
        if amount < 0 {
            Err(InvalidCredits)
        } else {
            Ok(Self(amount))
        }
    }

    pub fn get(self) -> i64 {
        self.0
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub fn plus(self, other: Self) -> Result<Self, InvalidCredits> {
        self.0.checked_add(other.0).map(Self).ok_or(InvalidCredits)
    }

    pub fn minus(self, other: Self) -> Result<Self, InvalidCredits> {
        self.0
            .checked_sub(other.0)
            .ok_or(InvalidCredits)
            .and_then(Self::new)
    }

    pub fn times(self, count: u32) -> Result<Self, InvalidCredits> {
        self.0
            .checked_mul(i64::from(count))
            .map(Self)
            .ok_or(InvalidCredits)
    }
}

impl TryFrom<i64> for Credits {
    type Error = InvalidCredits;

    fn try_from(amount: i64) -> Result<Self, InvalidCredits> {
        Self::new(amount)
    }
}

impl From<Credits> for i64 {
    fn from(credits: Credits) -> Self {
        credits.0
    }
}

impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} credit{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

/// What a job will cost at most: the catalogue's price, frozen on the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Credits for one delivered output.
    pub unit_price: Credits,
    /// Which price of the catalogue this is.
    pub price_version: String,
    /// Outputs asked for.
    pub outputs: u32,
}

impl Quote {
    /// What admission holds: the price of everything asked for.
    pub fn hold(&self) -> Result<Credits, InvalidCredits> {
        let hold = self.unit_price.times(self.outputs)?;
        (hold <= Credits::MAX_TRANSFER)
            .then_some(hold)
            .ok_or(InvalidCredits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_that_cannot_be_counted_are_refused() {
        let most = Credits::new(i64::MAX).unwrap();
        let one = Credits::new(1).unwrap();
        assert_eq!(Credits::new(-1), Err(InvalidCredits));
        assert_eq!(most.plus(one), Err(InvalidCredits));
        assert_eq!(Credits::ZERO.minus(one), Err(InvalidCredits));
        assert_eq!(most.times(2), Err(InvalidCredits));
        assert!(serde_json::from_str::<Credits>("-1").is_err());
        assert!(serde_json::from_str::<Credits>("1.5").is_err());
    }

    #[test]
    fn no_sum_comes_near_to_what_cannot_be_counted() {
        let check = |holds: Credits, more, expected| {
            let more = Credits::new(more).unwrap();
            assert_eq!(holds.may_be_given(more), expected, "{holds} and {more}");
        };
        let most = Credits::MAX_TRANSFER.get();
        check(Credits::ZERO, most, Ok(()));
        check(Credits::ZERO, most + 1, Err(CreditLimitError::Moved));
        check(Credits::ZERO, i64::MAX, Err(CreditLimitError::Moved));
        check(Credits::MAX_BALANCE, 1, Err(CreditLimitError::InAWallet));
        check(
            Credits::new(i64::MAX).unwrap(),
            1,
            Err(CreditLimitError::InAWallet),
        );
        let dearest = |outputs| Quote {
            unit_price: Credits::MAX_PRICE,
            price_version: "1".to_owned(),
            outputs,
        };
        assert!(dearest(16).hold().is_ok());
        assert_eq!(dearest(101).hold(), Err(InvalidCredits));
    }

    #[test]
    fn a_quote_holds_the_price_of_everything_asked_for() {
        let quote = Quote {
            unit_price: Credits::new(12).unwrap(),
            price_version: "1".to_owned(),
            outputs: 4,
        };
        assert_eq!(quote.hold(), Credits::new(48));
    }
}
