//! Limits on what a tenant may use of things that are not billed.

use std::time::Duration;

use domain::{allowance, storage_limit};

use super::ConfigError;
use super::values::within;

/// Limits on what one tenant may use of things that are not billed. They apply to tenants that pay,
/// too, unless a field says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct UnbilledLimits {
    /// How many calls that have begun the tenant may abandon in an hour.
    pub cancel_allowance: u32,
    /// Operators are alerted if the calls that one tenant abandoned in an hour cost more than this,
    /// in millionths of a US dollar. Nothing is refused because of it.
    pub abandoned_cost_alert: i64,
    /// Bytes that the tenant may store in the bucket; `None` for no limit.
    pub storage: Option<i64>,
    /// Longest time for which inputs of jobs that delivered nothing are kept; `None` for as long as
    /// the tenant wants.
    pub undelivered_inputs: Option<Duration>,
    /// Longest time for which uploads are kept if the tenant never paid; `None` for as long as the
    /// tenant wants.
    pub uploads: Option<Duration>,
}

/// 24 hours.
pub(super) const DAY: Duration = Duration::from_hours(24);

impl Default for UnbilledLimits {
    fn default() -> Self {
        Self {
            cancel_allowance: allowance::DEFAULT,
            // 5 US dollars.
            abandoned_cost_alert: 5_000_000,
            storage: Some(storage_limit::DEFAULT),
            undelivered_inputs: Some(7 * DAY),
            uploads: Some(30 * DAY),
        }
    }
}

/// Reads the limits from the environment.
pub(super) fn unbilled_limits() -> Result<UnbilledLimits, ConfigError> {
    let defaults = UnbilledLimits::default();
    // A number of days. 0 turns the limit off.
    let days = |name, default| -> Result<Option<Duration>, ConfigError> {
        Ok(match within(name, 0, 3_650)? {
            None => default,
            Some(0) => None,
            Some(days) => Some(Duration::from_secs(days * DAY.as_secs())),
        })
    };
    let number = |name, min, max| -> Result<Option<i64>, ConfigError> {
        Ok(within(name, min, max)?.and_then(|value| i64::try_from(value).ok()))
    };
    Ok(UnbilledLimits {
        // 0 allows no call to be abandoned.
        cancel_allowance: within("PLATEN_CANCEL_ALLOWANCE", 0, 1_000_000)?
            .and_then(|calls| u32::try_from(calls).ok())
            .unwrap_or(defaults.cancel_allowance),
        abandoned_cost_alert: number("PLATEN_ABANDONED_COST_USD", 1, 1_000_000)?
            .map_or(defaults.abandoned_cost_alert, |dollars| dollars * 1_000_000),
        storage: match number("PLATEN_TENANT_STORAGE_MB", 0, 1_000_000_000)? {
            None => defaults.storage,
            Some(0) => None,
            Some(megabytes) => Some(megabytes * 1_000_000),
        },
        undelivered_inputs: days(
            "PLATEN_UNDELIVERED_INPUTS_DAYS",
            defaults.undelivered_inputs,
        )?,
        uploads: days("PLATEN_UNPAID_UPLOADS_DAYS", defaults.uploads)?,
    })
}
