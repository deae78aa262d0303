//! Amounts of credits: whole numbers, never negative and never floats. Arithmetic that does not fit
//! is an error.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::wildcard_enum_match_arm
)]

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An amount of credits: a whole number, not negative.
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
        <i64 as sqlx::Type<sqlx::Postgres>>::type_info()
    }
}

#[cfg(feature = "sqlx")]
impl<'r> sqlx::Decode<'r, sqlx::Postgres> for Credits {
    fn decode(value: sqlx::postgres::PgValueRef<'r>) -> Result<Self, sqlx::error::BoxDynError> {
        let amount = <i64 as sqlx::Decode<sqlx::Postgres>>::decode(value)?;
        Ok(Self::new(amount)?)
    }
}

/// An amount is negative or too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an amount of credits is a whole number from 0 to {}", i64::MAX)]
pub struct InvalidCredits;

/// An amount is above the limit for one transfer, or the balance would be above the limit for a
/// wallet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CreditLimitError {
    /// More than [`Credits::MAX_TRANSFER`].
    #[error(
        "at most {} can be moved at once: do it in several steps",
        Credits::MAX_TRANSFER
    )]
    Moved,
    /// The balance would be more than [`Credits::MAX_BALANCE`].
    #[error(
        "a wallet holds at most {}, and this one would hold more",
        Credits::MAX_BALANCE
    )]
    InAWallet,
}

impl Credits {
    /// No credits.
    pub const ZERO: Self = Self(0);
    /// Most credits that one grant, adjustment or hold may move. The database has the same limit
    /// (`movements_are_bounded`).
    pub const MAX_TRANSFER: Self = Self(1_000_000_000_000);
    /// Most credits that a grant or an adjustment may bring a wallet to, available and held
    /// together. Sums of such balances stay far below the range of `i64`.
    pub const MAX_BALANCE: Self = Self(1_000_000_000_000_000);
    /// Highest price of one output. A job with the most outputs stays below [`Self::MAX_TRANSFER`].
    pub const MAX_PRICE: Self = Self(10_000_000_000);

    /// Checks that a wallet with the balance `self` may be given `more` credits at once.
    ///
    /// # Errors
    /// `more` is above [`Self::MAX_TRANSFER`], or the new balance above [`Self::MAX_BALANCE`].
    pub fn may_be_given(self, more: Self) -> Result<(), CreditLimitError> {
        if more > Self::MAX_TRANSFER {
            return Err(CreditLimitError::Moved);
        }
        match self.plus(more) {
            Ok(total) if total <= Self::MAX_BALANCE => Ok(()),
            _ => Err(CreditLimitError::InAWallet),
        }
    }

    /// An amount of this many credits.
    ///
    /// # Errors
    /// `amount` is negative.
    pub fn new(amount: i64) -> Result<Self, InvalidCredits> {
        if amount < 0 {
            Err(InvalidCredits)
        } else {
            Ok(Self(amount))
        }
    }

    /// The amount as a number.
    pub fn get(self) -> i64 {
        self.0
    }

    /// Whether it is no credits at all.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum.
    ///
    /// # Errors
    /// The sum is too large.
    pub fn plus(self, other: Self) -> Result<Self, InvalidCredits> {
        self.0.checked_add(other.0).map(Self).ok_or(InvalidCredits)
    }

    /// The difference.
    ///
    /// # Errors
    /// `other` is more than `self`.
    pub fn minus(self, other: Self) -> Result<Self, InvalidCredits> {
        self.0
            .checked_sub(other.0)
            .ok_or(InvalidCredits)
            .and_then(Self::new)
    }

    /// The product.
    ///
    /// # Errors
    /// The product is too large.
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

/// What a job will cost at most. The price is stored with the job: a later change of the catalogue
/// does not affect it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Credits for one delivered output.
    pub unit_price: Credits,
    /// Version of the price in the catalogue: the first day it is in force.
    pub price_version: String,
    /// Requested outputs.
    pub outputs: u32,
}

impl Quote {
    /// The credits that admission holds: the price of all requested outputs.
    ///
    /// # Errors
    /// The hold would be more than [`Credits::MAX_TRANSFER`].
    pub fn hold(&self) -> Result<Credits, InvalidCredits> {
        // The database rejects a larger hold too, but only in the middle of the admission.
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
    fn amounts_out_of_range_are_errors() {
        let max = Credits::new(i64::MAX).unwrap();
        let one = Credits::new(1).unwrap();
        assert_eq!(Credits::new(-1), Err(InvalidCredits));
        assert_eq!(max.plus(one), Err(InvalidCredits));
        assert_eq!(Credits::ZERO.minus(one), Err(InvalidCredits));
        assert_eq!(max.times(2), Err(InvalidCredits));
        assert!(serde_json::from_str::<Credits>("-1").is_err());
        assert!(serde_json::from_str::<Credits>("1.5").is_err());
    }

    #[test]
    fn transfers_and_balances_have_limits() {
        let check = |balance: Credits, more, expected| {
            let more = Credits::new(more).unwrap();
            assert_eq!(balance.may_be_given(more), expected, "{balance} and {more}");
        };
        let max = Credits::MAX_TRANSFER.get();
        check(Credits::ZERO, max, Ok(()));
        check(Credits::ZERO, max + 1, Err(CreditLimitError::Moved));
        check(Credits::ZERO, i64::MAX, Err(CreditLimitError::Moved));
        check(Credits::MAX_BALANCE, 1, Err(CreditLimitError::InAWallet));
        check(
            Credits::new(i64::MAX).unwrap(),
            1,
            Err(CreditLimitError::InAWallet),
        );
        let highest_price = |outputs| Quote {
            unit_price: Credits::MAX_PRICE,
            price_version: "1".to_owned(),
            outputs,
        };
        assert!(highest_price(16).hold().is_ok());
        assert_eq!(highest_price(101).hold(), Err(InvalidCredits));
    }

    #[test]
    fn a_quote_holds_the_price_of_all_outputs() {
        let quote = Quote {
            unit_price: Credits::new(12).unwrap(),
            price_version: "1".to_owned(),
            outputs: 4,
        };
        assert_eq!(quote.hold(), Credits::new(48));
    }
}
