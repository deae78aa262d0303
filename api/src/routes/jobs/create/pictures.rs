//! The pictures of a job. Those in its body are read from base64, measured by their heads, and given the keys they will be stored
//! under; uploads are named, and stand under keys of their own.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use common::artifact::input_key;
use common::generation::Violation;
use common::generation::image::{
    Input, MAX_INPUT_BYTES, MAX_INPUTS_BYTES, MAX_PIXELS, MAX_SIDE, MediaType, Role, inspect,
};
use common::id::{JobId, TenantId, UploadId};
use common::upload::Upload;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use utoipa::openapi::schema::Schema;

use super::findings::{Findings, choice, words};
use crate::error::sentence;

const MEDIA_TYPES: [MediaType; 3] = [MediaType::Png, MediaType::Jpeg, MediaType::Webp];
const ROLES: [Role; 4] = [
    Role::Product,
    Role::ModelReference,
    Role::Style,
    Role::Source,
];

/// A picture to work from: an `upload`, or the file itself in `data` and what it is in `media_type`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputBody {
    /// One of your uploads.
    #[schema(value_type = Option<String>, example = "upl_01kavm5pw8e0t9xqyp7x9r7m4b")]
    upload: Option<String>,
    /// The file, in base64.
    #[schema(content_encoding = "base64")]
    data: Option<String>,
    #[schema(schema_with = media_types)]
    media_type: Option<String>,
    #[serde(default)]
    #[schema(required, schema_with = roles)]
    role: String,
}

impl InputBody {
    /// The upload it names, where that can be one.
    pub(super) fn upload(&self) -> Option<UploadId> {
        self.upload.as_deref()?.parse().ok()
    }

    /// Why there is no such upload, or why more is said than that.
    fn named<'a>(
        &self,
        index: usize,
        name: &str,
        uploads: &'a HashMap<UploadId, Upload>,
    ) -> Result<&'a Upload, Violation> {
        let at = |field: &str| format!("/inputs/{index}/{field}");
        for (field, said) in [
            ("data", self.data.is_some()),
            ("media_type", self.media_type.is_some()),
        ] {
            if said {
                return Err(Violation::new(
                    at(field),
                    "Leave it out: the upload says it all.",
                ));
            }
        }
        let id: UploadId =
            (name.parse()).map_err(|error| Violation::new(at("upload"), sentence(&error)))?;
        uploads.get(&id).ok_or_else(|| {
            let none = format!("There is no upload {id}: GET /v1/uploads lists yours.");
            Violation::new(at("upload"), none)
        })
    }
}

/// A picture to be stored before the job is admitted.
pub struct Picture {
    pub object_key: String,
    pub bytes: Bytes,
}

/// Reads the pictures of a job, and finds all that is wrong with them.
pub(super) fn read(
    found: &mut Findings,
    bodies: Vec<InputBody>,
    uploads: &HashMap<UploadId, Upload>,
    tenant: TenantId,
    job: JobId,
) -> (Vec<Input>, Vec<Picture>) {
    let (mut inputs, mut pictures) = (Vec::new(), Vec::new());
    let mut sum = 0;
    for (index, body) in bodies.into_iter().enumerate() {
        let at = |field: &str| format!("/inputs/{index}/{field}");
        let role = found.keep(choice(&at("role"), &body.role, &ROLES));
        if let Some(name) = &body.upload {
            let upload = found.keep(body.named(index, name, uploads));
            let (Some(role), Some(upload)) = (role, upload) else {
                continue;
            };
            let bytes = upload.bytes.unsigned_abs();
            sum += usize::try_from(bytes).unwrap_or(usize::MAX);
            inputs.push(Input {
                upload: Some(upload.id),
                object_key: upload.object_key.clone(),
                media_type: upload.media_type,
                role,
                sha256: hex::encode(upload.sha256),
                bytes,
            });
            continue;
        }
        let media_type = body.media_type.as_deref().unwrap_or_default();
        let media_type = found.keep(choice(&at("media_type"), media_type, &MEDIA_TYPES));
        let bytes = found
            .keep(picture(body.data, media_type).map_err(|why| Violation::new(at("data"), why)));
        let (Some(role), Some(media_type), Some(bytes)) = (role, media_type, bytes) else {
            continue;
        };
        sum += bytes.len();
        let object_key = input_key(tenant, job, index);
        inputs.push(Input {
            upload: None,
            object_key: object_key.clone(),
            media_type,
            role,
            sha256: hex::encode(Sha256::digest(&bytes)),
            bytes: bytes.len() as u64,
        });
        pictures.push(Picture { object_key, bytes });
    }
    if sum > MAX_INPUTS_BYTES {
        found.add(
            "/inputs",
            format!(
                "{} in all are too much: at most {}.",
                mebibytes(sum),
                mebibytes(MAX_INPUTS_BYTES)
            ),
        );
    }
    (inputs, pictures)
}

/// The file, if it is the picture it is said to be. Nothing of it is decoded yet but its head.
fn picture(data: Option<String>, said: Option<MediaType>) -> Result<Bytes, String> {
    let text = data.ok_or(
        "Send the picture itself here, as base64, or name one of your uploads in `upload`.",
    )?;
    if text.starts_with("data:") {
        return Err("Send the base64 alone, without `data:…;base64,` before it.".to_owned());
    }
    if text.len() / 4 * 3 > MAX_INPUT_BYTES + 2 {
        return Err(too_large(text.len() / 4 * 3));
    }
    let bytes = STANDARD
        .decode(text)
        .map_err(|error| format!("This is not base64 (standard alphabet, padded): {error}."))?;
    if bytes.len() > MAX_INPUT_BYTES {
        return Err(too_large(bytes.len()));
    }
    let (is, pixels) = inspect(&bytes)
        .ok_or("This is no picture we can read: send a whole PNG, JPEG or WebP file.")?;
    if let Some(said) = said
        && said != is
    {
        return Err(format!(
            "The file is {}, not {}: say so in media_type.",
            is.as_str(),
            said.as_str()
        ));
    }
    let (width, height) = (pixels.width, pixels.height);
    if width > MAX_SIDE || height > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!(
            "{width} × {height} pixels are too many: at most {MAX_SIDE} a side and 64 megapixels."
        ));
    }
    Ok(bytes.into())
}

fn too_large(bytes: usize) -> String {
    format!(
        "A picture of {} is too large: at most {}.",
        mebibytes(bytes),
        mebibytes(MAX_INPUT_BYTES)
    )
}

fn mebibytes(bytes: usize) -> String {
    let tenths = (bytes * 10).div_ceil(1024 * 1024);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn media_types() -> Schema {
    words("How the file is encoded.", &MEDIA_TYPES, None)
}

fn roles() -> Schema {
    words("What the picture is for.", &ROLES, None)
}
