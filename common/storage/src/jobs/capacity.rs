//! The capacity of models as two tables of a statement.

use domain::job::Capacity;

/// A [`Capacity`] as columns of these tables.
#[derive(Default)]
pub(super) struct CapacityColumns {
    pub(super) models: Vec<String>,
    pub(super) with_fallback: Vec<i64>,
    pub(super) primary_only: Vec<i64>,
    pub(super) excluded_models: Vec<Option<String>>,
    pub(super) excluded_tenants: Vec<Option<String>>,
    pub(super) excluded_everywhere: Vec<bool>,
}

impl CapacityColumns {
    /// The columns of this capacity.
    pub(super) fn of(capacity: &Capacity) -> Self {
        let mut columns = Self::default();
        for model in capacity.models() {
            columns.models.push(model.model.clone());
            columns.with_fallback.push(model.with_fallback);
            columns.primary_only.push(model.primary_only);
        }
        for exclusion in capacity.exclusions() {
            columns.excluded_models.push(exclusion.model.clone());
            columns.excluded_tenants.push(exclusion.tenant.clone());
            columns.excluded_everywhere.push(exclusion.everywhere);
        }
        columns
    }
}

/// A query that has a capacity as its tables `open` (the models that may be started) and `shut` (the
/// exclusions). The arguments are the SQL before and after the two tables, the [`CapacityColumns`],
/// which are `$1` to `$6`, and the other parameters, from `$7`.
macro_rules! with_capacity {
    ($before:tt, $after:tt, $columns:expr, $($arguments:tt)*) => {
        sqlx::query!(
            $before
                + "open AS (
          SELECT model, anywhere, at_home FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS open(model, anywhere, at_home)),
        shut AS (
          SELECT model, tenant, everywhere FROM unnest($4::text[], $5::text[], $6::boolean[]) AS shut(model, tenant, everywhere))"
                + $after,
            &$columns.models,
            &$columns.with_fallback,
            &$columns.primary_only,
            &$columns.excluded_models as &[Option<String>],
            &$columns.excluded_tenants as &[Option<String>],
            &$columns.excluded_everywhere,
            $($arguments)*
        )
    };
}
pub(super) use with_capacity;
