//! The ledger: transfers of credits between a tenant's accounts and ours, and the lots that holds
//! take from.
//!
//! A wallet changes only by a [`Transfer`]. [`Hold::resolve`] consumes the hold, so code that
//! resolves a hold twice does not compile. A second process is stopped by the database: it refuses
//! every change of a job that has ended, and by the rule `one_full_settlement` the captured and
//! released credits of such a job are exactly its hold.
//!
//! A *lot* is what is left of one grant. A hold takes credits from lots in burn-down order: by
//! priority, then the first to expire, then the oldest. What it takes from one lot is a *share*.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::wildcard_enum_match_arm
)]

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::credits::{Credits, InvalidCredits};
use crate::id::{GrantId, JobId};

/// An account of the ledger. The balances of the tenant's accounts are on its wallet. Ours have no
/// stored balance: they are sums over the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
pub enum Account {
    /// The tenant's: credits that it can spend.
    #[strum(serialize = "tenant:available")]
    Available,
    /// The tenant's: credits held for open jobs.
    #[strum(serialize = "tenant:held")]
    Held,
    /// Ours: where promotional credits come from.
    #[strum(serialize = "sys:promo")]
    Promo,
    /// Ours: captured credits.
    #[strum(serialize = "sys:revenue")]
    Revenue,
    /// Ours: where operators' adjustments come from and go to.
    #[strum(serialize = "sys:adjust")]
    Adjust,
}

impl Account {
    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Why credits moved.
///
/// - `promo`: promotional credits were given.
/// - `hold`: a job was submitted; its price was set aside.
/// - `capture`: a job delivered; the price of the delivered outputs was charged.
/// - `release`: a job ended; the credits for missing outputs were given back.
/// - `adjust`: an operator gave or took credits.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Cause {
    /// Promotional credits were given.
    Promo,
    /// A job was submitted: its price was set aside.
    Hold,
    /// A job delivered: the price of the delivered outputs was charged.
    Capture,
    /// A job ended: the price of the missing outputs was given back.
    Release,
    /// An operator gave or took credits.
    Adjust,
}

impl Cause {
    /// The name in the database and in the API.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One immutable ledger line: `amount` moves from `debit` to `credit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Why the credits moved.
    pub cause: Cause,
    /// The account that they leave.
    pub debit: Account,
    /// The account that they reach.
    pub credit: Account,
    /// How many credits moved.
    pub amount: Credits,
    /// UUID of the job or grant that caused it, or a new UUID if an operator took credits. `cause`
    /// and `reference` are unique together, so nothing is booked twice.
    pub reference: String,
}

impl Transfer {
    /// Gives promotional credits to a tenant.
    pub fn promo(grant: GrantId, amount: Credits) -> Self {
        Self {
            cause: Cause::Promo,
            debit: Account::Promo,
            credit: Account::Available,
            amount,
            reference: grant.0.to_string(),
        }
    }

    /// Sets credits aside for a job.
    pub fn hold(job: JobId, amount: Credits) -> Self {
        Self {
            cause: Cause::Hold,
            debit: Account::Available,
            credit: Account::Held,
            amount,
            reference: job.0.to_string(),
        }
    }

    /// The change that the transfer makes to an account, in credits. Negative if credits leave it.
    pub fn change(&self, account: Account) -> i64 {
        let amount = self.amount.get();
        if self.credit == account {
            amount
        } else if self.debit == account {
            // Never saturates: an amount is not negative.
            amount.saturating_neg()
        } else {
            0
        }
    }
}

/// Credits set aside for a job. It is resolved exactly once.
#[derive(Debug)]
#[must_use = "a hold that is not resolved keeps its credits forever"]
pub struct Hold {
    /// The job.
    pub job: JobId,
    /// The credits.
    pub amount: Credits,
}

impl Hold {
    /// Captures `taken` and releases the rest. It consumes the hold, so a hold cannot be resolved
    /// twice.
    ///
    /// # Errors
    /// `taken` is more than the hold.
    pub fn resolve(self, taken: Credits) -> Result<Resolution, InvalidCredits> {
        Ok(Resolution {
            job: self.job,
            captured: taken,
            released: self.amount.minus(taken)?,
        })
    }
}

/// How a hold is resolved. `captured` and `released` add up to the hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// The job.
    pub job: JobId,
    /// Credits that are charged.
    pub captured: Credits,
    /// Credits that are given back.
    pub released: Credits,
}

impl Resolution {
    /// The ledger lines of the resolution, without lines of zero credits.
    pub fn transfers(&self) -> impl Iterator<Item = Transfer> {
        let reference = self.job.0.to_string();
        [
            (Cause::Capture, Account::Revenue, self.captured),
            (Cause::Release, Account::Available, self.released),
        ]
        .into_iter()
        .filter(|(_, _, amount)| !amount.is_zero())
        .map(move |(cause, credit, amount)| Transfer {
            cause,
            debit: Account::Held,
            credit,
            amount,
            reference: reference.clone(),
        })
    }
}

/// The credits of one grant that are neither held nor spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lot {
    /// The grant.
    pub grant: Uuid,
    /// What is left of it.
    pub remaining: Credits,
}

/// What a hold took from one lot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The grant.
    pub grant: Uuid,
    /// Credits taken from it.
    pub amount: Credits,
}

/// Takes `need` credits from the lots, in their order. Returns what each lot gives, or `None` if
/// all of them together have less.
pub fn split_over_lots(lots: &[Lot], need: Credits) -> Option<Vec<Share>> {
    let mut left = need;
    let mut shares = Vec::new();
    for lot in lots {
        if left.is_zero() {
            break;
        }
        let amount = lot.remaining.min(left);
        left = left.minus(amount).ok()?;
        shares.push(Share {
            grant: lot.grant,
            amount,
        });
    }
    left.is_zero().then_some(shares)
}

/// How much of each share is spent when `captured` is charged. `shares` are in burn-down order, and
/// so is the result. The rest of a share goes back to its lot. Returns `None` if all shares
/// together are less than `captured`.
pub fn consume(shares: &[Share], captured: Credits) -> Option<Vec<Credits>> {
    let mut left = captured;
    let mut consumed = Vec::with_capacity(shares.len());
    for share in shares {
        let amount = share.amount.min(left);
        left = left.minus(amount).ok()?;
        consumed.push(amount);
    }
    left.is_zero().then_some(consumed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credits(amount: i64) -> Credits {
        Credits::new(amount).unwrap()
    }

    fn lots(amounts: &[i64]) -> Vec<Lot> {
        (1_u128..)
            .zip(amounts)
            .map(|(id, &amount)| Lot {
                grant: Uuid::from_u128(id),
                remaining: credits(amount),
            })
            .collect()
    }

    #[test]
    fn lots_burn_down_in_order() {
        let check = |remaining: &[i64], need, expected: Option<&[i64]>| {
            let taken = split_over_lots(&lots(remaining), credits(need)).map(|shares| {
                shares
                    .iter()
                    .map(|share| share.amount.get())
                    .collect::<Vec<_>>()
            });
            assert_eq!(taken.as_deref(), expected, "{remaining:?} for {need}");
        };
        check(&[10, 10], 5, Some(&[5]));
        check(&[10, 10], 10, Some(&[10]));
        check(&[10, 10], 15, Some(&[10, 5]));
        check(&[10, 10], 21, None);
        check(&[], 0, Some(&[]));
    }

    #[test]
    fn captured_credits_are_taken_from_the_first_shares() {
        let shares = split_over_lots(&lots(&[10, 10, 10]), credits(25)).unwrap();
        let consumed = |captured| {
            consume(&shares, credits(captured)).map(|amounts| {
                amounts
                    .iter()
                    .map(|amount| amount.get())
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(consumed(0), Some(vec![0, 0, 0]));
        assert_eq!(consumed(12), Some(vec![10, 2, 0]));
        assert_eq!(consumed(25), Some(vec![10, 10, 5]));
        assert_eq!(consumed(26), None);
    }

    #[test]
    fn a_resolution_moves_every_held_credit_once() {
        let resolve = |taken| {
            Hold {
                job: JobId::new(),
                amount: credits(30),
            }
            .resolve(credits(taken))
        };
        for taken in [0, 10, 30] {
            let resolution = resolve(taken).unwrap();
            let moved: i64 = resolution
                .transfers()
                .map(|transfer| transfer.amount.get())
                .sum();
            assert_eq!(moved, 30);
            assert_eq!(
                resolution
                    .transfers()
                    .map(|transfer| transfer.change(Account::Held))
                    .sum::<i64>(),
                -30
            );
        }
        assert_eq!(resolve(31), Err(InvalidCredits));
    }
}
