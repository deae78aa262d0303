//! The pictures of a job. Files in its body are read from base64, written anew as uploads are, and given the keys they will be
//! stored under; uploads are named, and stand under keys of their own.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use common::artifact::input_key;
use common::generation::Violation;
use common::generation::image::{Input, InputRole, MAX_INPUT_BYTES, MAX_INPUTS_BYTES, MediaType};
use common::id::{JobId, TenantId, UploadId};
use common::upload::Upload;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use utoipa::openapi::schema::Schema;

use super::violations::{Violations, choice, words};
use crate::budget::Budget;
use crate::error::{Problem, sentence};
use crate::shares::Share;

const MEDIA_TYPES: [MediaType; 3] = [MediaType::Png, MediaType::Jpeg, MediaType::Webp];
/// What a file counts at least towards [`MAX_INPUTS_BYTES`]: a picture written anew in fewer bytes would show nothing.
const MIN_CLEAN_BYTES: usize = 64 * 1024;
const ROLES: [InputRole; 4] = [
    InputRole::Product,
    InputRole::ModelReference,
    InputRole::Style,
    InputRole::Source,
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
    fn named(
        &self,
        index: usize,
        name: &str,
        uploads: &HashMap<UploadId, Upload>,
    ) -> Result<Upload, Violation> {
        for (field, said) in [
            ("data", self.data.is_some()),
            ("media_type", self.media_type.is_some()),
        ] {
            if said {
                return Err(Violation::new(
                    at(index, field),
                    "Leave it out: the upload says it all.",
                ));
            }
        }
        let at = at(index, "upload");
        let id: UploadId = (name.parse()).map_err(|error| Violation::new(&at, sentence(&error)))?;
        uploads.get(&id).cloned().ok_or_else(|| {
            let none = format!("There is no upload {id}: GET /v1/uploads lists yours.");
            Violation::new(at, none)
        })
    }

    /// The file in `data`, if it is what `media_type` says.
    fn file(self, found: &mut Violations, index: usize) -> Result<Bytes, Violation> {
        let media_type = self.media_type.unwrap_or_default();
        let said = found.keep(choice(&at(index, "media_type"), &media_type, &MEDIA_TYPES));
        let file = match self.data {
            Some(text) => decode(&text),
            None => Err(
                "Send the picture itself here, as base64, or name one of your uploads in `upload`."
                    .to_owned(),
            ),
        };
        let file = file.map_err(|why| Violation::new(at(index, "data"), why))?;
        if let (Some(said), Ok((is, _))) = (said, imaging::inspect(&file))
            && said != is
        {
            let (is, said) = (is.as_str(), said.as_str());
            let why = format!("The file is {is}, not {said}: say so in media_type.");
            return Err(Violation::new(at(index, "data"), why));
        }
        Ok(file)
    }
}

/// A file to be stored before the job is admitted.
pub struct Picture {
    pub object_key: String,
    pub bytes: Bytes,
}

/// The pictures of one job, and everything that is wrong with them.
#[derive(Default)]
pub struct Pictures {
    /// Uploads and files of the body, in the body's order.
    pub inputs: Vec<Input>,
    /// The files of the body, written anew.
    pub files: Vec<Picture>,
    pub violations: Vec<Violation>,
}

/// The pictures that a body names, with its files decoded from base64 and nothing else.
pub struct Sources {
    /// For each picture its role and its bytes, where they could be read.
    pictures: Vec<(Option<InputRole>, Option<Source>)>,
    found: Violations,
}

enum Source {
    Upload(Upload),
    File(Bytes),
}

impl Sources {
    /// `uploads` holds those that the body names and the tenant has. CPU work: megabytes of base64.
    pub fn read(bodies: Vec<InputBody>, uploads: &HashMap<UploadId, Upload>) -> Self {
        let mut found = Violations::default();
        let mut pictures = Vec::with_capacity(bodies.len());
        for (index, mut body) in bodies.into_iter().enumerate() {
            let role = found.keep(choice(&at(index, "role"), &body.role, &ROLES));
            let source = match body.upload.take() {
                Some(name) => body.named(index, &name, uploads).map(Source::Upload),
                None => body.file(&mut found, index).map(Source::File),
            };
            pictures.push((role, found.keep(source)));
        }
        Self { pictures, found }
    }

    /// Writes the files anew exactly as uploads are: a model gets the same bytes either way, without metadata, and a damaged file is
    /// refused before anything is held or stored.
    ///
    /// # Errors
    /// `overloaded`
    pub async fn clean(
        mut self,
        budget: &Budget,
        share: &Share,
        tenant: TenantId,
        job: JobId,
    ) -> Result<Pictures, Problem> {
        let most = self.most_bytes_of_a_file();
        let mut pictures = Pictures::default();
        for (index, (role, source)) in self.pictures.into_iter().enumerate() {
            let input = match (source, most) {
                (Some(Source::Upload(upload)), _) => role.map(|role| of_upload(upload, role)),
                (Some(Source::File(file)), Some(most)) => {
                    let cleaned = budget.clean(share, file, most).await?;
                    let cleaned = cleaned.map_err(|why| Violation::new(at(index, "data"), why));
                    let cleaned = self.found.keep(cleaned);
                    role.zip(cleaned).map(|(role, cleaned)| {
                        let file = Picture {
                            object_key: input_key(tenant, job, index),
                            bytes: cleaned.bytes,
                        };
                        let input = of_file(&file, cleaned.media_type, role);
                        pictures.files.push(file);
                        input
                    })
                }
                _ => None,
            };
            pictures.inputs.extend(input);
        }
        pictures.violations = self.found.all();
        Ok(pictures)
    }

    /// What is known of the pictures before one is opened: enough to say whether their model takes so many. How large a file becomes
    /// is not known yet.
    pub fn unopened(&mut self, tenant: TenantId, job: JobId) -> Pictures {
        self.most_bytes_of_a_file();
        let mut pictures = Pictures {
            violations: self.found.told(),
            ..Pictures::default()
        };
        for (index, (role, source)) in self.pictures.iter().enumerate() {
            let input = match (source, role) {
                (Some(Source::Upload(upload)), Some(role)) => of_upload(upload.clone(), *role),
                (Some(Source::File(file)), Some(role)) => Input {
                    upload: None,
                    object_key: input_key(tenant, job, index),
                    media_type: imaging::media_type(file).unwrap_or(MediaType::Png),
                    role: *role,
                    sha256: String::new(),
                    bytes: 1,
                },
                _ => continue,
            };
            pictures.inputs.push(input);
        }
        pictures
    }

    /// Whether there is a file to be opened.
    pub fn has_files(&self) -> bool {
        let mut sources = self.pictures.iter();
        sources.any(|(_, source)| matches!(source, Some(Source::File(_))))
    }

    /// How large each file may be once it is written anew, in bytes: an equal share of what the uploads leave of a request. `None`
    /// when all are too large already, which is a violation.
    fn most_bytes_of_a_file(&mut self) -> Option<usize> {
        let (mut uploaded, mut sent, mut files) = (0, 0, 0);
        for (_, source) in &self.pictures {
            match source {
                Some(Source::Upload(upload)) => uploaded += upload.bytes.unsigned_abs(),
                Some(Source::File(file)) => {
                    sent += file.len().max(MIN_CLEAN_BYTES) as u64;
                    files += 1;
                }
                None => {}
            }
        }
        let limit = MAX_INPUTS_BYTES as u64;
        if uploaded + sent > limit {
            let (sum, limit) = (mebibytes(uploaded + sent), mebibytes(limit));
            let detail = format!("{sum} in all are too much: at most {limit}.");
            self.found.add("/inputs", detail);
            return None;
        }
        let share = usize::try_from((limit - uploaded) / files.max(1)).ok()?;
        Some(share.min(MAX_INPUT_BYTES))
    }
}

fn of_file(file: &Picture, media_type: MediaType, role: InputRole) -> Input {
    Input {
        upload: None,
        object_key: file.object_key.clone(),
        media_type,
        role,
        sha256: hex::encode(Sha256::digest(&file.bytes)),
        bytes: file.bytes.len() as u64,
    }
}

fn of_upload(upload: Upload, role: InputRole) -> Input {
    Input {
        upload: Some(upload.id),
        object_key: upload.object_key,
        media_type: upload.media_type,
        role,
        sha256: hex::encode(upload.sha256),
        bytes: upload.bytes.unsigned_abs(),
    }
}

/// Decodes base64. Only that and the size are checked here: [`Budget::clean`] says what is wrong with the file.
fn decode(text: &str) -> Result<Bytes, String> {
    if text.starts_with("data:") {
        return Err("Send the base64 alone, without `data:…;base64,` before it.".to_owned());
    }
    let length = text.len() / 4 * 3;
    if length > MAX_INPUT_BYTES + 2 {
        return Err(too_large(length));
    }
    let bytes = STANDARD
        .decode(text)
        .map_err(|error| format!("This is not base64 (standard alphabet, padded): {error}."))?;
    if bytes.len() > MAX_INPUT_BYTES {
        return Err(too_large(bytes.len()));
    }
    Ok(bytes.into())
}

/// The place of a field of one picture.
fn at(index: usize, field: &str) -> String {
    format!("/inputs/{index}/{field}")
}

fn too_large(bytes: usize) -> String {
    format!(
        "A picture of {} is too large: at most {}.",
        mebibytes(bytes as u64),
        mebibytes(MAX_INPUT_BYTES as u64)
    )
}

fn mebibytes(bytes: u64) -> String {
    let tenths = (bytes * 10).div_ceil(1024 * 1024);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn media_types() -> Schema {
    words("How the file is encoded.", &MEDIA_TYPES, None)
}

fn roles() -> Schema {
    words("What the picture is for.", &ROLES, None)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use ::image::{ImageFormat, RgbImage};
    use common::config::API_MEMORY;
    use serde_json::{Value, json};

    use super::*;
    use crate::shares::Shares;

    async fn read(inputs: Value) -> Pictures {
        let bodies = serde_json::from_value(inputs).unwrap();
        let sources = Sources::read(bodies, &HashMap::new());
        let budget = Budget::within(API_MEMORY, 1);
        let tenant = TenantId::new();
        let share = Shares::new(budget.places(), budget.body_bytes()).of(tenant);
        let cleaned = sources.clean(&budget, &share, tenant, JobId::new()).await;
        cleaned.unwrap()
    }

    /// Noise, so that it does not compress.
    fn noise(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let mut state = 1_u32;
        let picture = RgbImage::from_fn(width, height, |_, _| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [red, green, blue, _] = state.to_be_bytes();
            ::image::Rgb([red, green, blue])
        });
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn input(file: &[u8], media_type: &str) -> Value {
        json!({"data": STANDARD.encode(file), "media_type": media_type, "role": "product"})
    }

    #[tokio::test]
    async fn a_picture_is_what_its_media_type_says() {
        let check = async |input: Value, pointer: &str, words: &str| {
            let found = read(json!([input])).await.violations;
            let [only] = found.as_slice() else {
                panic!("{found:?}")
            };
            assert_eq!(only.pointer, pointer, "{only:?}");
            assert!(only.detail.contains(words), "{only:?}");
        };
        let text = |data: &str| json!({"data": data, "media_type": "image/png", "role": "product"});
        let data = "/inputs/0/data";
        let png = noise(4, 4, ImageFormat::Png);
        check(input(&png, "image/jpeg"), data, "The file is image/png").await;
        check(text("%"), data, "not base64").await;
        check(text("R0lGODlh"), data, "GIF").await;
        check(text(""), data, "empty").await;
        check(text("data:image/png;base64,AAAA"), data, "alone").await;
        check(input(&png[..png.len() / 2], "image/png"), data, "cut off").await;
        let wide = noise(16_385, 1, ImageFormat::Png);
        check(input(&wide, "image/png"), data, "too large").await;
        check(text(&"A".repeat(10 * 1024 * 1024)), data, "at most 7.0 MiB").await;
        let gif =
            json!({"data": STANDARD.encode(&png), "media_type": "image/gif", "role": "style"});
        check(gif, "/inputs/0/media_type", "Use one of").await;
        let hero =
            json!({"data": STANDARD.encode(&png), "media_type": "image/png", "role": "hero"});
        check(hero, "/inputs/0/role", "Use one of").await;
        let upload = "/inputs/0/upload";
        check(
            json!({"upload": "upl_1", "role": "product"}),
            upload,
            "an id like `upl_`",
        )
        .await;
        let unknown = UploadId::new();
        check(
            json!({"upload": unknown, "role": "product"}),
            upload,
            "GET /v1/uploads",
        )
        .await;
        check(
            json!({"upload": unknown, "media_type": "image/png", "role": "product"}),
            "/inputs/0/media_type",
            "Leave it out",
        )
        .await;
        check(
            json!({"media_type": "image/png", "role": "product"}),
            data,
            "Send the picture",
        )
        .await;
    }

    #[tokio::test]
    async fn a_file_is_named_as_it_is_stored() {
        let png = noise(4, 4, ImageFormat::Png);
        let read = read(json!([input(&png, "image/png")])).await;
        assert!(read.violations.is_empty(), "{:?}", read.violations);
        let (input, file) = (&read.inputs[0], &read.files[0]);
        assert_eq!(input.object_key, file.object_key);
        assert_eq!(input.bytes, file.bytes.len() as u64);
        assert_eq!(input.sha256, hex::encode(Sha256::digest(&file.bytes)));
    }

    /// Written anew, a strongly compressed JPEG may be larger than before; all together must still fit into one request.
    #[tokio::test]
    async fn files_that_fit_when_sent_fit_when_written_anew() {
        let jpeg = noise(2_000, 1_200, ImageFormat::Jpeg);
        let count = MAX_INPUTS_BYTES / jpeg.len();
        assert!((4..=14).contains(&count), "{count}");
        let inputs = vec![input(&jpeg, "image/jpeg"); count];
        let read = read(Value::Array(inputs)).await;
        assert!(read.violations.is_empty(), "{:?}", read.violations);
        let sum: usize = read.files.iter().map(|file| file.bytes.len()).sum();
        assert!(sum <= MAX_INPUTS_BYTES, "{sum}");
    }
}
