//! Requests for generations, by kind. Each kind has a file here and a variant of [`Generation`].

pub mod image;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::UploadId;
use image::ImageRequest;

/// What a job makes.
///
/// - `image`: still images.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    ToSchema,
    strum::EnumString,
    strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Kind {
    /// Still images.
    Image,
}

impl Kind {
    /// The name in the database and in the API.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A validated request, as it is stored with its job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Generation {
    /// A request for still images.
    Image(ImageRequest),
}

impl Generation {
    /// What it makes.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Image(_) => Kind::Image,
        }
    }

    /// The uploads that its inputs name.
    pub fn uploads(&self) -> Vec<UploadId> {
        match self {
            Self::Image(request) => request
                .inputs
                .iter()
                .filter_map(|input| input.upload)
                .collect(),
        }
    }

    /// Total bytes of the inputs that were sent in the request itself. They belong to the job;
    /// uploads do not.
    pub fn inline_bytes(&self) -> i64 {
        match self {
            Self::Image(request) => request
                .inputs
                .iter()
                .filter(|input| input.upload.is_none())
                .map(|input| i64::try_from(input.bytes).unwrap_or(i64::MAX))
                .fold(0, i64::saturating_add),
        }
    }

    /// Requested outputs.
    pub fn outputs(&self) -> u32 {
        match self {
            Self::Image(request) => request.outputs,
        }
    }
}

/// One mistake in a request: where it is, and how to correct it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Violation {
    /// Place in the request body, as a JSON pointer such as `/inputs/0/data`.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub detail: String,
}

impl Violation {
    /// A mistake at a JSON pointer.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            detail: detail.into(),
        }
    }
}
