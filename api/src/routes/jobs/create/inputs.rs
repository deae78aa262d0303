//! The input images of a job. Files in the body are decoded from base64, encoded again like uploads, and get the keys they will be
//! stored under. Uploads are only named, because they are stored already.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use domain::artifact::input_key;
use domain::generation::Violation;
use domain::generation::image::{Input, InputRole, MAX_INPUT_BYTES, MAX_INPUTS_BYTES, MediaType};
use domain::id::{JobId, TenantId, UploadId};
use domain::upload::Upload;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use utoipa::openapi::schema::Schema;

use super::violations::{Violations, choice, words_schema};
use crate::budget::{Budget, CleanError};
use crate::error::{Problem, sentence};
use crate::shares::Share;

/// The types an input may have.
const MEDIA_TYPES: [MediaType; 3] = [MediaType::Png, MediaType::Jpeg, MediaType::Webp];
/// A smaller file counts as this many bytes towards [`MAX_INPUTS_BYTES`]. A useful image is hardly smaller than this, even after it
/// is encoded again. So this limits how many files share the total.
const MIN_CLEAN_BYTES: usize = 64 * 1024;
/// The roles an input may have.
const ROLES: [InputRole; 4] = [
    InputRole::Product,
    InputRole::ModelReference,
    InputRole::Style,
    InputRole::Source,
];

/// An image to work from: either an `upload`, or the file itself in `data` with its type in `media_type`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputBody {
    /// The id of one of your uploads.
    #[schema(value_type = Option<String>, example = "upl_01kavm5pw8e0t9xqyp7x9r7m4b")]
    upload: Option<String>,
    /// The file, in base64.
    #[schema(content_encoding = "base64")]
    data: Option<String>,
    #[schema(schema_with = media_type_schema)]
    media_type: Option<String>,
    #[serde(default)]
    #[schema(required, schema_with = role_schema)]
    role: String,
}

impl InputBody {
    /// The upload this input names; `None` if it names none or the id is not valid.
    pub(super) fn upload(&self) -> Option<UploadId> {
        self.upload.as_deref()?.parse().ok()
    }

    /// Finds the upload with the id in `id_text`, which the input names. `index` is the place of the input. Returns a violation if
    /// there is no such upload, or if the input also has other fields.
    fn named_upload(
        &self,
        index: usize,
        id_text: &str,
        uploads: &HashMap<UploadId, Upload>,
    ) -> Result<Upload, Violation> {
        for (field, is_present) in [
            ("data", self.data.is_some()),
            ("media_type", self.media_type.is_some()),
        ] {
            if is_present {
                return Err(Violation::new(
                    pointer(index, field),
                    "Leave it out: the upload is enough.",
                ));
            }
        }
        let place = pointer(index, "upload");
        let id: UploadId =
            (id_text.parse()).map_err(|error| Violation::new(&place, sentence(&error)))?;
        uploads.get(&id).cloned().ok_or_else(|| {
            let detail = format!("There is no upload {id}: GET /v1/uploads lists yours.");
            Violation::new(place, detail)
        })
    }

    /// Decodes the file in `data`. Returns a violation if the text cannot be decoded, or if the type of the file is not the one in
    /// `media_type`. Adds one if `media_type` is not a known type.
    fn decode_file(self, violations: &mut Violations, index: usize) -> Result<Bytes, Violation> {
        let media_type = self.media_type.unwrap_or_default();
        let place = pointer(index, "media_type");
        let declared = violations.add_if_err(choice(&place, &media_type, &MEDIA_TYPES));
        let file = match self.data {
            Some(text) => decode(&text),
            None => Err(
                "Send the image itself here, as base64, or name one of your uploads in `upload`."
                    .to_owned(),
            ),
        };
        let file = file.map_err(|why| Violation::new(pointer(index, "data"), why))?;
        // A file that cannot be read is reported later, by `Budget::clean`.
        if let (Some(declared), Ok((actual, _))) = (declared, imaging::inspect(&file))
            && declared != actual
        {
            let (actual, declared) = (actual.as_str(), declared.as_str());
            let why = format!("The file is {actual}, not {declared}: say so in media_type.");
            return Err(Violation::new(pointer(index, "data"), why));
        }
        Ok(file)
    }
}

/// A file to be stored before the job is admitted.
pub struct InputFile {
    /// The key under which the file is stored.
    pub object_key: String,
    /// The file.
    pub bytes: Bytes,
}

/// The input images of one job, and everything that is wrong with them.
#[derive(Default)]
pub struct JobInputs {
    /// Uploads and files of the body, in the order of the body.
    pub inputs: Vec<Input>,
    /// The files of the body, encoded again.
    pub files: Vec<InputFile>,
    /// What is wrong with the inputs.
    pub violations: Vec<Violation>,
}

/// The inputs of a body before any image is decoded: uploads, and files whose base64 was decoded.
pub struct Sources {
    /// Role and source of each input; `None` if it is not valid.
    inputs: Vec<(Option<InputRole>, Option<Source>)>,
    violations: Violations,
}

/// Where the image of an input comes from.
enum Source {
    Upload(Upload),
    File(Bytes),
}

impl Sources {
    /// Reads the inputs of a body. `uploads` are the tenant's uploads that the body names. This is CPU work, because it decodes
    /// megabytes of base64.
    pub fn read(bodies: Vec<InputBody>, uploads: &HashMap<UploadId, Upload>) -> Self {
        let mut violations = Violations::default();
        let mut inputs = Vec::with_capacity(bodies.len());
        for (index, mut body) in bodies.into_iter().enumerate() {
            let role = violations.add_if_err(choice(&pointer(index, "role"), &body.role, &ROLES));
            let source = match body.upload.take() {
                Some(id_text) => body
                    .named_upload(index, &id_text, uploads)
                    .map(Source::Upload),
                None => body.decode_file(&mut violations, index).map(Source::File),
            };
            inputs.push((role, violations.add_if_err(source)));
        }
        Self { inputs, violations }
    }

    /// Decodes the images in the files and encodes them again, exactly like uploads. So a model gets the same bytes either way,
    /// without metadata. A damaged file is refused before credits are held or anything is stored.
    ///
    /// # Errors
    /// Returns [`Code::Overloaded`](crate::error::Code::Overloaded) if no memory or render slot became free in time.
    pub async fn clean(
        mut self,
        budget: &Budget,
        share: &Share,
        tenant: TenantId,
        job: JobId,
    ) -> Result<JobInputs, Problem> {
        let max_bytes = self.max_bytes_per_file();
        let mut job_inputs = JobInputs::default();
        for (index, (role, source)) in self.inputs.into_iter().enumerate() {
            let input = match (source, max_bytes) {
                (Some(Source::Upload(upload)), _) => {
                    role.map(|role| input_from_upload(upload, role))
                }
                (Some(Source::File(file)), Some(max_bytes)) => {
                    let cleaned = match budget.clean(share, file, max_bytes).await {
                        Ok(cleaned) => Ok(cleaned),
                        Err(CleanError::Image(why)) => {
                            Err(Violation::new(pointer(index, "data"), why))
                        }
                        Err(CleanError::Request(problem)) => return Err(problem),
                    };
                    let cleaned = self.violations.add_if_err(cleaned);
                    role.zip(cleaned).map(|(role, cleaned)| {
                        let file = InputFile {
                            object_key: input_key(tenant, job, index),
                            bytes: cleaned.bytes,
                        };
                        let input = input_from_file(&file, cleaned.media_type, role);
                        job_inputs.files.push(file);
                        input
                    })
                }
                _ => None,
            };
            job_inputs.inputs.extend(input);
        }
        job_inputs.violations = self.violations.into_all();
        Ok(job_inputs)
    }

    /// Returns what is known about the inputs before an image is decoded. This is enough to check whether the model accepts this
    /// many inputs. The final size and hash of a file are not known yet, so they have placeholder values.
    pub fn before_decoding(&mut self, tenant: TenantId, job: JobId) -> JobInputs {
        // Called only for the violation that it may add.
        self.max_bytes_per_file();
        let mut job_inputs = JobInputs {
            violations: self.violations.all(),
            ..JobInputs::default()
        };
        for (index, (role, source)) in self.inputs.iter().enumerate() {
            let input = match (source, role) {
                (Some(Source::Upload(upload)), Some(role)) => {
                    input_from_upload(upload.clone(), *role)
                }
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
            job_inputs.inputs.push(input);
        }
        job_inputs
    }

    /// Whether there is an image to decode.
    pub fn has_files(&self) -> bool {
        let mut sources = self.inputs.iter();
        sources.any(|(_, source)| matches!(source, Some(Source::File(_))))
    }

    /// The most bytes each file may have once it is encoded again: an equal share of what the uploads leave of
    /// [`MAX_INPUTS_BYTES`], and at most [`MAX_INPUT_BYTES`]. Returns `None`, and adds a violation, if the inputs exceed the total
    /// already.
    fn max_bytes_per_file(&mut self) -> Option<usize> {
        // Bytes of the uploads, bytes of the files in the body, and the number of these files.
        let (mut uploaded, mut sent, mut files) = (0, 0, 0);
        for (_, source) in &self.inputs {
            match source {
                Some(Source::Upload(upload)) => uploaded += upload.file.bytes.unsigned_abs(),
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
            let detail = format!("{sum} in total are too much: at most {limit}.");
            self.violations.add("/inputs", detail);
            return None;
        }
        let share = usize::try_from((limit - uploaded) / files.max(1)).ok()?;
        Some(share.min(MAX_INPUT_BYTES))
    }
}

fn input_from_file(file: &InputFile, media_type: MediaType, role: InputRole) -> Input {
    Input {
        upload: None,
        object_key: file.object_key.clone(),
        media_type,
        role,
        sha256: hex::encode(Sha256::digest(&file.bytes)),
        bytes: file.bytes.len() as u64,
    }
}

fn input_from_upload(upload: Upload, role: InputRole) -> Input {
    let Upload { id, file, .. } = upload;
    Input {
        upload: Some(id),
        object_key: file.object_key,
        media_type: file.media_type,
        role,
        sha256: hex::encode(file.sha256),
        bytes: file.bytes.unsigned_abs(),
    }
}

/// Decodes base64 and checks the size. Whether the file is a valid image is checked by [`Budget::clean`].
fn decode(text: &str) -> Result<Bytes, String> {
    if text.starts_with("data:") {
        return Err("Send the base64 alone, without `data:…;base64,` before it.".to_owned());
    }
    // An estimate of the decoded length, at most 2 bytes too large. With it, an oversized file is refused before it is decoded.
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

/// The JSON pointer to a field of one input.
fn pointer(index: usize, field: &str) -> String {
    format!("/inputs/{index}/{field}")
}

fn too_large(bytes: usize) -> String {
    format!(
        "An image of {} is too large: at most {}.",
        mebibytes(bytes as u64),
        mebibytes(MAX_INPUT_BYTES as u64)
    )
}

/// A size in MiB with one decimal, rounded up.
fn mebibytes(bytes: u64) -> String {
    let tenths = (bytes * 10).div_ceil(1024 * 1024);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn media_type_schema() -> Schema {
    words_schema(
        "The type of the file in `data`: `image/png`, `image/jpeg` or `image/webp`.",
        &MEDIA_TYPES,
        None,
    )
}

fn role_schema() -> Schema {
    let description = "What the image is for. `product`: the thing to show. `model_reference`: the person to show. `style`: how the output should look. `source`: the image to change.";
    words_schema(description, &ROLES, None)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use ::image::{ImageFormat, RgbImage};
    use common::config::DEFAULT_API_MEMORY;
    use serde_json::{Value, json};

    use super::*;
    use crate::shares::Shares;

    async fn read(inputs: Value) -> JobInputs {
        let bodies = serde_json::from_value(inputs).unwrap();
        let sources = Sources::read(bodies, &HashMap::new());
        let budget = Budget::within(DEFAULT_API_MEMORY, 1);
        let tenant = TenantId::new();
        let share = Shares::new(budget.slots(), budget.body_bytes()).for_tenant(tenant);
        let cleaned = sources.clean(&budget, &share, tenant, JobId::new()).await;
        cleaned.unwrap()
    }

    /// An image of noise, which does not compress.
    fn noise(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let mut state = 1_u32;
        let image = RgbImage::from_fn(width, height, |_, _| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [red, green, blue, _] = state.to_be_bytes();
            ::image::Rgb([red, green, blue])
        });
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn input(file: &[u8], media_type: &str) -> Value {
        json!({"data": STANDARD.encode(file), "media_type": media_type, "role": "product"})
    }

    #[tokio::test]
    async fn every_violation_of_an_input_is_explained() {
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
            "Send the image",
        )
        .await;
    }

    #[tokio::test]
    async fn an_input_describes_the_file_that_is_stored() {
        let png = noise(4, 4, ImageFormat::Png);
        let read = read(json!([input(&png, "image/png")])).await;
        assert!(read.violations.is_empty(), "{:?}", read.violations);
        let (input, file) = (&read.inputs[0], &read.files[0]);
        assert_eq!(input.object_key, file.object_key);
        assert_eq!(input.bytes, file.bytes.len() as u64);
        assert_eq!(input.sha256, hex::encode(Sha256::digest(&file.bytes)));
    }

    /// A strongly compressed JPEG may become larger when it is encoded again; all together must still fit into one request.
    #[tokio::test]
    async fn files_within_the_limit_stay_within_it() {
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
