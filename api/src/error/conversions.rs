//! Turns the errors of the layers below into problems.

use bucket::BucketError;
use common::admission::AdmissionError;
use common::people::operator::OperatorError;
use common::settlement::SettlementError;
use domain::catalog::NotOffered;
use domain::generation::Violation;
use storage::database;

use super::{Code, Problem, sentence, truncate};

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        if database::renew_connections_if_schema_changed(&error) || database::is_transient(&error) {
            tracing::warn!(%error, "Postgres could not answer");
            Self::from(Code::Unavailable)
        } else {
            tracing::error!(%error, "Postgres refused a query of the API");
            Self::from(Code::Internal)
        }
    }
}

impl From<AdmissionError> for Problem {
    fn from(error: AdmissionError) -> Self {
        match error {
            AdmissionError::InsufficientCredits { needed, available } => Self::new(
                Code::InsufficientCredits,
                format!(
                    "This needs {needed}, and {available} are available. Ask for less, or add credits."
                ),
            )
            .with("needed", needed.get())
            .with("available", available.get()),
            AdmissionError::UploadGone => Self::new(
                Code::Gone,
                "An upload of this job was deleted while the job was being submitted: leave it out.",
            ),
            AdmissionError::AllowanceUsed {
                used: usage,
                shortest_deadline,
            } => {
                let least = shortest_deadline.as_secs();
                Self::allowance_used(
                    usage,
                    format!(
                        "Until more calls may be abandoned, leave `Cancel-After` out, or send {least} or more, which is as long as a call of this model may take."
                    ),
                )
                .with("least", least)
            }
            AdmissionError::StorageFull {
                more,
                stored,
                limit,
            } => Self::new(
                Code::StorageFull,
                format!(
                    "This needs {more} more bytes, and {stored} of {limit} are in use. Delete uploads, or set how long files are kept (PUT \
                     /v1/retention)."
                ),
            )
            .with("needed", more)
            .with("stored", stored)
            .with("limit", limit),
            error @ AdmissionError::Redriven(_) => {
                // Only operators redrive jobs, and their requests do not come through here.
                tracing::error!(%error, "A tenant's request got an error that only a redrive can get");
                Self::from(Code::Internal)
            }
            AdmissionError::Inactive => Self::from(Code::TenantInactive),
            AdmissionError::KeyReused => Self::from(Code::IdempotencyKeyReused),
            AdmissionError::Amount(error) => {
                tracing::error!(%error, "The amount of a quote is out of range");
                Self::from(Code::Internal)
            }
            AdmissionError::Database(error) => error.into(),
        }
    }
}

impl From<OperatorError> for Problem {
    fn from(error: OperatorError) -> Self {
        match error {
            OperatorError::InsufficientCredits { .. } => {
                let detail = format!("Take less: {error}.");
                Self::invalid(vec![Violation::new("/credits", detail)])
            }
            OperatorError::CreditLimit(error) => {
                Self::invalid(vec![Violation::new("/credits", sentence(&error))])
            }
            OperatorError::KeyReused => Self::from(Code::IdempotencyKeyReused),
            OperatorError::NoTenant => Self::new(Code::NotFound, "There is no such tenant."),
            OperatorError::Bucket(error) => error.into(),
            OperatorError::Settlement(error) => error.into(),
            OperatorError::Database(error) => error.into(),
        }
    }
}

impl From<SettlementError> for Problem {
    fn from(error: SettlementError) -> Self {
        match error {
            SettlementError::Database(error) => error.into(),
            error => {
                tracing::error!(%error, "A job could not be settled");
                Self::from(Code::Internal)
            }
        }
    }
}

impl From<NotOffered> for Problem {
    fn from(error: NotOffered) -> Self {
        match error {
            NotOffered::Violations(violations) => Self::invalid(violations),
            NotOffered::UnknownModel(id) => {
                let error = NotOffered::UnknownModel(truncate(&id).into_owned());
                Self::new(Code::UnknownModel, sentence(&error))
            }
            NotOffered::ShutDown { ref successor, .. } => {
                let successor = successor.clone();
                Self::new(Code::ModelShutDown, sentence(&error)).with("successor", successor)
            }
        }
    }
}

impl From<BucketError> for Problem {
    fn from(error: BucketError) -> Self {
        tracing::error!(%error, "The bucket failed");
        Self::from(Code::Unavailable)
    }
}
