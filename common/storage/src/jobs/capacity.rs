//! The capacity of models as arrays, of which a statement makes two tables with `unnest`.

use domain::job::Capacity;

/// A [`Capacity`] as arrays. The first three become the table `open`, with a row for each model.
/// The other three become the table `shut`, with a row for each exclusion.
#[derive(Default)]
pub(super) struct CapacityColumns {
    /// Column `model` of `open`.
    pub(super) models: Vec<String>,
    /// Column `anywhere` of `open`.
    pub(super) jobs_on_all_lanes: Vec<i64>,
    /// Column `at_home` of `open`.
    pub(super) jobs_on_first_lane: Vec<i64>,
    /// Column `model` of `shut`.
    pub(super) excluded_models: Vec<Option<String>>,
    /// Column `tenant` of `shut`: pseudonyms.
    pub(super) excluded_tenants: Vec<Option<String>>,
    /// Column `everywhere` of `shut`.
    pub(super) excluded_on_all_lanes: Vec<bool>,
}

impl CapacityColumns {
    /// The columns of this capacity.
    pub(super) fn of(capacity: &Capacity) -> Self {
        let mut columns = Self::default();
        for model in capacity.models() {
            columns.models.push(model.model.clone());
            columns.jobs_on_all_lanes.push(model.jobs_on_all_lanes);
            columns.jobs_on_first_lane.push(model.jobs_on_first_lane);
        }
        for exclusion in capacity.exclusions() {
            columns.excluded_models.push(exclusion.model.clone());
            columns.excluded_tenants.push(exclusion.tenant.clone());
            columns.excluded_on_all_lanes.push(exclusion.on_all_lanes);
        }
        columns
    }
}

/// A query that has a capacity as its tables `open` (the models whose jobs may be started) and
/// `shut` (the exclusions). The arguments are the SQL before the two tables, the parts of the SQL
/// after them, the [`CapacityColumns`], which are `$1` to `$6`, and the other parameters, from
/// `$7`.
macro_rules! with_capacity {
    ($before:tt, [$($after:tt),+], $columns:expr, $($arguments:tt)*) => {
        sqlx::query!(
            $before
                + "open AS (
          SELECT model, anywhere, at_home FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS open(model, anywhere, at_home)),
        shut AS (
          SELECT model, tenant, everywhere FROM unnest($4::text[], $5::text[], $6::boolean[]) AS shut(model, tenant, everywhere))"
                $(+ $after)+,
            &$columns.models,
            &$columns.jobs_on_all_lanes,
            &$columns.jobs_on_first_lane,
            &$columns.excluded_models as &[Option<String>],
            &$columns.excluded_tenants as &[Option<String>],
            &$columns.excluded_on_all_lanes,
            $($arguments)*
        )
    };
}
pub(super) use with_capacity;
