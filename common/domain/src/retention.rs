//! Retention: how long files are kept, and receipts of their deletion.
//!
//! A tenant sets for each class of files how many seconds after the end of their job they are kept;
//! without a value they are kept for the lifetime of the account. The transaction that ends a job
//! also plans the deletions (`storage::retention::plan`), so no job ends without them.
//!
//! When a file is due, any worker deletes it, in steps that any other worker may repeat: links to
//! it are refused; the object is deleted; the bucket is asked whether it is gone; then its row
//! becomes a receipt. Rows stay: what was made, when, and for how much remains known. A legal hold
//! keeps a job's files for a purpose until a time.
//!
//! The text of a request is deleted like a file of its job, but from its row instead of the bucket.
//! An upload belongs to no job: it is due when its owner deletes it, or when no job has used it for
//! as long as its tenant has set (`common::files::uploading`).

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::id::{JobId, TenantId, UploadId};

/// The longest time that can be set, in seconds: ten years.
pub const MAX_SECONDS: u64 = 315_360_000;

/// How long a tenant's files and prompts are kept after their job has ended, by class, in seconds.
/// `null` keeps them for the lifetime of the account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Images that were sent with a job.
    #[schema(minimum = 0, maximum = 315_360_000)]
    pub inputs: Option<u64>,
    /// Images as the model delivered them.
    #[schema(minimum = 0, maximum = 315_360_000)]
    pub originals: Option<u64>,
    /// Renditions of originals, and their thumbnails.
    #[schema(minimum = 0, maximum = 315_360_000)]
    pub renditions: Option<u64>,
    /// Uploaded images. The time counts from the upload, or from the end of the last job that used
    /// the image. An open job keeps the images that it uses.
    #[schema(minimum = 60, maximum = 315_360_000)]
    pub uploads: Option<u64>,
    /// Prompts and art directions. A job whose prompt was deleted cannot be redriven.
    #[schema(minimum = 0, maximum = 315_360_000)]
    pub prompts: Option<u64>,
}

/// The shortest time for uploads, in seconds: with less an upload could be deleted before a job
/// uses it.
pub const MIN_UPLOAD_SECONDS: u64 = 60;

impl Retention {
    /// Keeps nothing longer than needed: inputs and prompts until their job has ended, the rest for
    /// a day.
    pub const EPHEMERAL: Self = Self {
        inputs: Some(0),
        originals: Some(86_400),
        renditions: Some(86_400),
        uploads: Some(86_400),
        prompts: Some(0),
    };

    /// For each class: its name in the API, how long it is kept (`None`: for the lifetime of the
    /// account), and the shortest time that may be chosen. Both times are in seconds.
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

/// What is deleted: a kind of file of a job, an upload, or the text of a request.
///
/// - `input`: an image that was sent with a job.
/// - `original`: an image as the model delivered it.
/// - `rendition`: an image in exactly the requested size and format.
/// - `thumbnail`: the small version of a rendition.
/// - `upload`: an image that was uploaded, for any number of jobs.
/// - `prompt`: the prompt and the art direction of a job. It is no file.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    ToSchema,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum FileClass {
    /// An image that was sent with a job.
    Input,
    /// An image as the model delivered it.
    Original,
    /// A rendition of an original.
    Rendition,
    /// A thumbnail of a rendition.
    Thumbnail,
    /// An upload.
    Upload,
    /// Prompt and art direction of a job.
    Prompt,
}

impl FileClass {
    /// All classes.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// Its name in the database, the API and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A file or a prompt that is due.
#[derive(Clone, Debug)]
pub struct Due {
    /// The id of its row in `deletions`.
    pub id: i64,
    /// Its tenant.
    pub tenant: TenantId,
    /// What it is.
    pub class: FileClass,
    /// Its key in the bucket; of a prompt `job_requests/<job>`.
    pub object_key: String,
}

/// A receipt: a file or a prompt was deleted.
#[derive(Clone, Debug)]
pub struct DeletionReceipt {
    /// The id of its row in `deletions`: higher if the deletion was planned later.
    pub id: i64,
    /// Its job; `None` for an upload.
    pub job: Option<JobId>,
    /// The upload; `None` for all other classes.
    pub upload: Option<UploadId>,
    /// What it was.
    pub class: FileClass,
    /// SHA-256 of the file. `None` for a prompt: a short text could be guessed, and the guess
    /// confirmed by its hash.
    pub sha256: Option<[u8; 32]>,
    /// Its size, in bytes; for a prompt the length of its texts.
    pub bytes: i64,
    /// When it was due.
    pub due_at: OffsetDateTime,
    /// When it was deleted.
    pub deleted_at: OffsetDateTime,
}

/// The purpose of a legal hold: why files are kept although they are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(
    serialize_all = "snake_case",
    parse_err_ty = String,
    parse_err_fn = unknown_purpose
)]
pub enum Purpose {
    /// The customer must still get the files.
    Delivery,
    /// The files are evaluated.
    Analytics,
    /// Support works on the job.
    Support,
}

impl Purpose {
    /// Its name in the database and the command line.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown_purpose(_: &str) -> String {
    "one of delivery, analytics, support".to_owned()
}
