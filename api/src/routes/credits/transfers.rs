//! `GET /v1/credits/transfers`: the statement, newest line first.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use domain::credits::Credits;
use domain::id::JobId;
use serde::{Deserialize, Serialize};
use storage::database;
use storage::ledger::StatementLine;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Principal;
use crate::error::Result;
use crate::extract::Parameters;
use crate::paging::{Limit, LineNumber, Page};

/// Which lines of the statement to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListTransfersQuery {
    /// The most lines to return.
    #[serde(default)]
    #[param(schema_with = Limit::schema)]
    limit: Limit,
    /// The `seq` of the last line you have. Older lines follow.
    #[param(schema_with = LineNumber::schema)]
    starting_after: Option<LineNumber>,
}

/// One immutable ledger line: `amount` moved from the account `debit` to the account `credit`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Transfer)]
pub struct TransferView {
    /// The number of the line in this tenant's ledger: from 1, without gaps.
    pub seq: i64,
    /// Why the credits moved, such as `hold`, `capture` or `release`.
    #[schema(example = "hold")]
    pub kind: String,
    /// How many credits moved.
    pub amount: Credits,
    /// The account the credits left.
    #[schema(example = "tenant:available")]
    pub debit: String,
    /// The account the credits reached.
    #[schema(example = "tenant:held")]
    pub credit: String,
    /// The job the line belongs to; `null` if it belongs to none.
    #[schema(value_type = Option<String>)]
    pub job: Option<JobId>,
    /// When the credits moved.
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

/// List the lines of your statement, newest first
#[utoipa::path(
    get,
    path = "/v1/credits/transfers",
    operation_id = "list_transfers",
    tag = "credits",
    security(("key" = [])),
    params(ListTransfersQuery),
    responses((status = 200, description = "A page of ledger lines", body = Page<TransferView>))
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
    Parameters(query): Parameters<ListTransfersQuery>,
) -> Result<Json<Page<TransferView>>> {
    let limit = query.limit.get();
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let lines = storage::ledger::statement(
        &mut transaction,
        tenant,
        query.starting_after.map(LineNumber::get),
        limit + 1,
    )
    .await?;
    let Page { data, has_more } = Page::new(lines, limit);
    let data = data
        .into_iter()
        .map(TransferView::new)
        .collect::<Result<_>>()?;
    Ok(Json(Page { data, has_more }))
}
