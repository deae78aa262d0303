//! How long files are kept, and the proof that they are gone.
//!
//! A tenant says for each class of files how long after their job's end they are kept: for the account's lifetime when nothing is
//! said, or for so many seconds. What ends a job plans what is due in the same transaction (`storage::retention::plan`), so no end is
//! without it. From its time on a file is deleted by any worker, in steps that may be repeated by any other: its links are
//! refused first, then the object is removed, then the bucket is asked whether it is gone; only then is its row a receipt. Rows
//! stay: what was made, when, and for how much outlives the files. A hold keeps a job's files for a purpose, for a while.
//!
//! The text of a request is deleted like a file of its job, but from its row instead of the bucket. An upload belongs to no job: it
//! is due when its owner deletes it, or when no job has needed it for as long as its tenant said (`common::files::uploading`).

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::id::{JobId, TenantId, UploadId};

/// The longest time that can be named: ten years.
pub const MAX_SECONDS: u64 = 315_360_000;

/// How long a tenant's files and prompts are kept after their job has ended, by class, in seconds; `None` is the account's lifetime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Pictures sent along with a job.
    #[schema(minimum = 0, maximum = 315_360_000)]
    pub inputs: Option<u64>,
    /// Pictures as the model gave them.
    #[schema(minimum = 0, maximum = 315_360_000)]
    pub originals: Option<u64>,
    /// What was made of them, thumbnails too.
    #[schema(minimum = 0, maximum = 315_360_000)]
    pub renditions: Option<u64>,
    /// Pictures that are kept to be named in jobs: counted from when they were uploaded, or from the end of the last job that named
    /// them. An open job keeps what it names.
    #[schema(minimum = 60, maximum = 315_360_000)]
    pub uploads: Option<u64>,
    /// What was asked for in words: prompt and art direction. A job whose prompt was deleted cannot be done once more.
    #[schema(minimum = 0, maximum = 315_360_000)]
    pub prompts: Option<u64>,
}

/// The shortest time for uploads, in seconds: with less, one would be gone before a job could name it.
pub const MIN_UPLOAD_SECONDS: u64 = 60;

impl Retention {
    /// Nothing is kept for longer than it is needed: inputs and prompts until their job has ended, the rest for a day.
    pub const EPHEMERAL: Self = Self {
        inputs: Some(0),
        originals: Some(86_400),
        renditions: Some(86_400),
        uploads: Some(86_400),
        prompts: Some(0),
    };

    /// Each class by its name in the API, with the shortest time it may have.
    pub fn classes(&self) -> [(&'static str, Option<u64>, u64); 5] {
        [
            ("inputs", self.inputs, 0),
            ("originals", self.originals, 0),
            ("renditions", self.renditions, 0),
            ("uploads", self.uploads, MIN_UPLOAD_SECONDS),
            ("prompts", self.prompts, 0),
        ]
    }
}

/// What is deleted: what a file is to its job, an upload, or the text of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileClass {
    Input,
    Original,
    Rendition,
    Thumbnail,
    Upload,
    Prompt,
}

impl FileClass {
    pub const ALL: [Self; 6] = [
        Self::Input,
        Self::Original,
        Self::Rendition,
        Self::Thumbnail,
        Self::Upload,
        Self::Prompt,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Original => "original",
            Self::Rendition => "rendition",
            Self::Thumbnail => "thumbnail",
            Self::Upload => "upload",
            Self::Prompt => "prompt",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }
}

/// A file or a prompt that is due.
#[derive(Clone, Debug)]
pub struct Due {
    pub id: i64,
    pub tenant: TenantId,
    pub class: FileClass,
    pub object_key: String,
}

/// Proof that a file or a prompt is gone.
#[derive(Clone, Debug)]
pub struct Receipt {
    pub id: i64,
    /// `None` for an upload.
    pub job: Option<JobId>,
    pub upload: Option<UploadId>,
    pub class: FileClass,
    /// `None` for a prompt: whoever guesses a short text could confirm it by its hash.
    pub sha256: Option<[u8; 32]>,
    pub bytes: i64,
    pub due_at: OffsetDateTime,
    pub deleted_at: OffsetDateTime,
}

/// What a job's files may be kept for though they are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Delivery,
    Analytics,
    Support,
}

impl Purpose {
    pub const ALL: [Self; 3] = [Self::Delivery, Self::Analytics, Self::Support];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivery => "delivery",
            Self::Analytics => "analytics",
            Self::Support => "support",
        }
    }
}

impl std::str::FromStr for Purpose {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|purpose| purpose.as_str() == text)
            .ok_or_else(|| "one of delivery, analytics, support".to_owned())
    }
}
