//! What may be asked for, by kind. A kind is a file here and a variant of [`Generation`].

pub mod image;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::UploadId;
use image::ImageRequest;

/// What is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Image,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Image].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A request as it is stored with its job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Generation {
    Image(ImageRequest),
}

impl Generation {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Image(_) => Kind::Image,
        }
    }

    /// The uploads it names.
    pub fn uploads(&self) -> Vec<UploadId> {
        match self {
            Self::Image(request) => request
                .inputs
                .iter()
                .filter_map(|input| input.upload)
                .collect(),
        }
    }

    /// Bytes of the pictures that were sent along with it, and belong to its job.
    pub fn own_bytes(&self) -> i64 {
        match self {
            Self::Image(request) => request
                .inputs
                .iter()
                .filter(|input| input.upload.is_none())
                .map(|input| i64::try_from(input.bytes).unwrap_or(i64::MAX))
                .fold(0, i64::saturating_add),
        }
    }

    pub fn outputs(&self) -> u32 {
        match self {
            Self::Image(request) => request.outputs,
        }
    }
}

/// One thing wrong with a request: where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Violation {
    /// JSON pointer into the request body, such as `/inputs/0/data`.
    pub pointer: String,
    /// What is wrong and what would be right, in plain words.
    pub detail: String,
}

impl Violation {
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            detail: detail.into(),
        }
    }
}
