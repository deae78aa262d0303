//! The ledger: transfers between a tenant's accounts and ours, and the lots a hold takes from.
//!
//! A wallet changes only by a [`Transfer`], and a hold is resolved by consuming it, so a second resolution
//! does not compile; `one_full_settlement` on the job's row covers the other process.
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

/// Where credits can be. The tenant's own have a balance in its wallet; ours are sums over the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    Available,
    Held,
    Promo,
    Revenue,
    Adjust,
}

impl Account {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "tenant:available",
            Self::Held => "tenant:held",
            Self::Promo => "sys:promo",
            Self::Revenue => "sys:revenue",
            Self::Adjust => "sys:adjust",
        }
    }
}

/// Why credits moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Credits were given.
    Promo,
    /// A job began.
    Hold,
    /// A job delivered.
    Capture,
    /// What a job did not deliver came back.
    Release,
    /// An operator gave or took them.
    Adjust,
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promo => "promo",
            Self::Hold => "hold",
            Self::Capture => "capture",
            Self::Release => "release",
            Self::Adjust => "adjust",
        }
    }
}

/// One immutable ledger line: `amount` leaves `debit` and reaches `credit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub cause: Cause,
    pub debit: Account,
    pub credit: Account,
    pub amount: Credits,
    /// UUID of what caused it; with `cause` the key that lets it happen once.
    pub reference: String,
}

impl Transfer {
    pub fn promo(grant: GrantId, amount: Credits) -> Self {
        Self {
            cause: Cause::Promo,
            debit: Account::Promo,
            credit: Account::Available,
            amount,
            reference: grant.0.to_string(),
        }
    }

    pub fn hold(job: JobId, amount: Credits) -> Self {
        Self {
            cause: Cause::Hold,
            debit: Account::Available,
            credit: Account::Held,
            amount,
            reference: job.0.to_string(),
        }
    }

    /// What the transfer adds to a tenant account, in credits; negative takes away.
    pub fn change(&self, account: Account) -> i64 {
        let amount = self.amount.get();
        if self.credit == account {
            amount
        } else if self.debit == account {
            amount.saturating_neg()
        } else {
            0
        }
    }
}

/// Credits set aside for a job; resolved once.
#[derive(Debug)]
#[must_use = "a hold that is not resolved hangs"]
pub struct Hold {
    pub job: JobId,
    pub amount: Credits,
}

impl Hold {
    /// Takes `self`, so a hold cannot be resolved twice: `taken` is charged, the rest comes back.
    pub fn resolve(self, taken: Credits) -> Result<Resolution, InvalidCredits> {
        Ok(Resolution {
            job: self.job,
            captured: taken,
            released: self.amount.minus(taken)?,
        })
    }
}

/// How a hold ended: captured + released = held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    pub job: JobId,
    pub captured: Credits,
    pub released: Credits,
}

impl Resolution {
    /// The ledger lines of it; nothing moves where the amount is zero.
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

/// What a lot still has, in burn-down order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lot {
    pub grant: Uuid,
    pub remaining: Credits,
}

/// What a hold took from a lot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub grant: Uuid,
    pub amount: Credits,
}

/// Takes `need` from the lots in their order. `None` when they do not hold that much.
pub fn burn(lots: &[Lot], need: Credits) -> Option<Vec<Share>> {
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

/// How much of each share is consumed when `captured` is charged, in burn-down order; the rest goes back to its lot.
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
            let taken = burn(&lots(remaining), credits(need)).map(|shares| {
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
    fn what_is_not_consumed_goes_back_to_the_same_lots() {
        let shares = burn(&lots(&[10, 10, 10]), credits(25)).unwrap();
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
    fn a_resolution_gives_every_held_credit_one_place() {
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
