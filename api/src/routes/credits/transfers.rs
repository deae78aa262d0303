//! `GET /v1/credits/transfers`: the statement, newest first.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use common::credits::Credits;
use common::id::JobId;
use common::ledger::store::StatementLine;
use common::{database, ledger};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Tenant;
use crate::error::Result;
use crate::extract::{Parameters, after, limit, line_number, page};

/// Which lines.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListTransfersQuery {
    /// At most so many.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// The `seq` of the last line you have: lines older than this one follow.
    #[param(schema_with = line_number)]
    starting_after: Option<i64>,
}

/// A page of the statement.
#[derive(Debug, Serialize, ToSchema)]
pub struct Transfers {
    pub data: Vec<TransferView>,
    /// Whether older lines follow.
    pub has_more: bool,
}

/// One immutable line: `amount` left `debit` and reached `credit`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Transfer)]
pub struct TransferView {
    /// Its number in this tenant's ledger, from 1, without gaps.
    pub seq: i64,
    #[schema(example = "hold")]
    pub kind: String,
    pub amount: Credits,
    #[schema(example = "tenant:available")]
    pub debit: String,
    #[schema(example = "tenant:held")]
    pub credit: String,
    /// The job that caused it, where one did.
    #[schema(value_type = Option<String>)]
    pub job: Option<JobId>,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

impl TransferView {
    fn new(line: StatementLine) -> Result<Self> {
        Ok(Self {
            job: line.job()?,
            seq: line.seq,
            kind: line.kind,
            amount: line.amount,
            debit: line.debit,
            credit: line.credit,
            at: line.at,
        })
    }
}

/// The statement, newest first
#[utoipa::path(
    get,
    path = "/v1/credits/transfers",
    operation_id = "list_transfers",
    tag = "credits",
    security(("key" = [])),
    params(ListTransfersQuery),
    responses((status = 200, description = "A page of ledger lines", body = Transfers))
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Tenant(tenant): Tenant,
    Parameters(which): Parameters<ListTransfersQuery>,
) -> Result<Json<Transfers>> {
    let limit = limit(which.limit)?;
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let lines = ledger::store::statement(
        &mut transaction,
        tenant,
        after(which.starting_after)?,
        limit + 1,
    )
    .await?;
    let (lines, has_more) = page(lines, limit);
    Ok(Json(Transfers {
        data: lines
            .into_iter()
            .map(TransferView::new)
            .collect::<Result<_>>()?,
        has_more,
    }))
}
