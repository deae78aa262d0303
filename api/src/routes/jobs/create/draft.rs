//! The body of `POST /v1/jobs`: its fields, and everything that is wrong with it, reported at once.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::catalog::{Catalog, NotOffered};
use domain::credits::Quote;
use domain::generation::image::{AspectRatio, Format, ImageRequest, MAX_TEXT, Size};
use domain::generation::{Generation, Violation};
use domain::job::JobAttributes;
use domain::visible;
use serde::Deserialize;
use strum::VariantArray;
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::inputs::{InputBody, InputFile, JobInputs};
use super::rendering::{self, EncodingBody, RenderingFields, fit_schema};
use super::violations::{Violations, words_schema};
use crate::error::{Problem, Result};

/// The longest name of a job, in characters.
const MAX_NAME_LENGTH: usize = 200;
/// The most entries of `metadata`.
const MAX_METADATA_ENTRIES: usize = 50;
/// The longest key of `metadata`, in characters.
const MAX_METADATA_KEY_LENGTH: usize = 64;
/// The longest value of `metadata`, in characters.
const MAX_METADATA_VALUE_LENGTH: usize = 500;
/// The pattern of text without NUL, which Postgres cannot store, for `/openapi.json`.
const NO_NUL: &str = "^[^\\u0000]*$";
/// The highest priority; the lowest is its negative.
const MAX_PRIORITY: i16 = 10;
/// How far ahead a job may be planned.
const MAX_RUN_AT_DELAY: Duration = Duration::from_hours(7 * 24);

// No type in this file is `Debug`, so that no prompt can be printed by mistake.

/// A job to submit.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateJob {
    /// The id of a model in `GET /v1/models`.
    #[serde(default)]
    #[schema(required, example = "gemini-3-pro-image")]
    model: String,
    /// What the image should show.
    #[serde(default)]
    #[schema(required, schema_with = prompt_schema)]
    prompt: String,
    /// How the image should look, separate from what it shows.
    #[schema(max_length = 8000, pattern = "^[^\\u0000]*$")]
    art_direction: Option<String>,
    /// Images to work from: at most 7 MiB each and 20 MiB in total. The model gets them upright, in sRGB and without metadata.
    #[serde(default)]
    #[schema(inline, max_items = 64)]
    inputs: Vec<InputBody>,
    #[schema(schema_with = ratio_schema)]
    aspect_ratio: Option<String>,
    #[schema(schema_with = size_schema)]
    size: Option<String>,
    /// How many outputs to make.
    #[schema(minimum = 1, maximum = 4, default = 1)]
    outputs: Option<u32>,
    #[schema(schema_with = format_schema)]
    format: Option<String>,
    /// Choices of the format. A choice that the format does not have is refused.
    #[schema(inline)]
    encoding: Option<EncodingBody>,
    #[schema(schema_with = fit_schema)]
    fit: Option<String>,
    /// Whether more than 5 % may be cropped away if the model's image has another aspect ratio.
    #[serde(default)]
    #[schema(default = false)]
    allow_crop: bool,
    /// Whether the model's image may be enlarged by more than 5 % if it is too small.
    #[serde(default)]
    #[schema(default = false)]
    allow_upscale: bool,
    /// Whether an image that was made smaller is sharpened a little.
    #[serde(default)]
    #[schema(default = false)]
    sharpen: bool,
    /// Your name for the job. `q` of `GET /v1/jobs` searches it.
    #[schema(max_length = 200, pattern = "^[^\\u0000]*$")]
    name: Option<String>,
    /// Your own data about the job: at most 50 entries, with keys of 64 and values of 500 characters.
    #[serde(default)]
    #[schema(schema_with = metadata_schema)]
    metadata: BTreeMap<String, String>,
    /// The same seed makes similar images, if the model supports seeds.
    #[schema(minimum = -2_147_483_648, maximum = 2_147_483_647)]
    seed: Option<i32>,
    /// The job does not start before this time, which is at most 7 days ahead.
    #[schema(value_type = Option<String>, format = DateTime)]
    run_at: Option<String>,
    /// Among your own queued jobs, a higher priority starts first.
    #[serde(default)]
    #[schema(minimum = -10, maximum = 10, default = 0)]
    priority: i16,
    /// Whether `fallbacks` of `GET /v1/models/{id}` may be used when the model's first lane is unavailable or full. The price is the
    /// same.
    #[schema(default = true)]
    fallback: Option<bool>,
    /// Whether the model's successor may be used, at its own price, if the model was shut down.
    #[serde(default)]
    #[schema(default = false)]
    switch_to_successor: bool,
}

impl CreateJob {
    /// Takes the inputs out of the body. [`Sources`](super::inputs::Sources) reads them.
    pub fn take_inputs(&mut self) -> Vec<InputBody> {
        std::mem::take(&mut self.inputs)
    }
}

/// A job that was parsed but not admitted. [`JobDraft::quote`] reports everything that is wrong with it.
pub struct JobDraft {
    /// What the client chose about the job.
    pub attributes: JobAttributes,
    /// The earliest start. Only the database's clock decides whether it is in the future.
    pub run_at: Option<OffsetDateTime>,
    /// What to generate.
    pub generation: Generation,
    /// Files to store before the job is admitted.
    pub files: Vec<InputFile>,
    switch_to_successor: bool,
    /// What is wrong with the body and its inputs, as far as it does not depend on the model.
    violations: Vec<Violation>,
}

impl JobDraft {
    /// Parses a body as far as possible. `inputs` are its inputs, which were taken out of the body and read before.
    pub fn read(body: CreateJob, inputs: JobInputs, now: OffsetDateTime) -> Self {
        let mut violations = Violations::from(inputs.violations);
        if body.model.is_empty() {
            violations.add("/model", "Name a model: GET /v1/models lists them.");
        }
        check_texts_and_numbers(&mut violations, &body);
        let run_at = violations
            .add_if_err(run_at(body.run_at.as_deref(), now))
            .flatten();
        let format = violations.choice_or_default("/format", body.format, Format::VARIANTS);
        let fields = RenderingFields {
            fit: body.fit,
            allow_crop: body.allow_crop,
            allow_upscale: body.allow_upscale,
            sharpen: body.sharpen,
        };
        let request = ImageRequest {
            prompt: body.prompt,
            art_direction: body.art_direction,
            inputs: inputs.inputs,
            aspect_ratio: violations.choice_or_default(
                "/aspect_ratio",
                body.aspect_ratio,
                AspectRatio::ALL,
            ),
            size: violations.choice_or_default("/size", body.size, Size::VARIANTS),
            outputs: body.outputs.unwrap_or(1),
            format,
            rendering: rendering::read(&mut violations, fields, body.encoding, format),
            seed: body.seed,
        };
        Self {
            attributes: JobAttributes {
                model: body.model,
                switched_from: None,
                name: body.name,
                metadata: serde_json::json!(body.metadata),
                priority: body.priority,
                fallback: body.fallback.unwrap_or(true),
            },
            run_at,
            generation: Generation::Image(request),
            files: inputs.files,
            switch_to_successor: body.switch_to_successor,
            violations: violations.into_all(),
        }
    }

    /// Replaces the preliminary data about the input images with the final images, after they were decoded.
    pub fn replace_inputs(&mut self, inputs: JobInputs) {
        let Generation::Image(request) = &mut self.generation;
        request.inputs = inputs.inputs;
        self.files = inputs.files;
        self.violations.extend(inputs.violations);
    }

    /// Quotes the most that the job can cost. If the model was shut down and the client allows it, switches to the successor.
    ///
    /// # Errors
    /// Returns a problem that lists everything that is wrong with the job, in general and for its model.
    pub fn quote(&mut self, catalog: &Catalog, today: Date) -> Result<Quote> {
        let attributes = &mut self.attributes;
        if self.switch_to_successor
            && let Ok(model) = catalog.offered_or_successor(&attributes.model, today)
            && model.id != attributes.model
        {
            let requested = std::mem::replace(&mut attributes.model, model.id.clone());
            attributes.switched_from = Some(requested);
        }
        let mut violations = self.violations.clone();
        match catalog.quote(&attributes.model, &self.generation, today) {
            Ok(quote) if violations.is_empty() => return Ok(quote),
            Ok(_) => {}
            Err(NotOffered::Violations(of_model)) => {
                // A field that could not be parsed was replaced by its default. What the model says about that default would only
                // repeat the violation.
                let reported: Vec<String> = violations
                    .iter()
                    .map(|violation| violation.pointer.clone())
                    .collect();
                violations.extend(
                    of_model
                        .into_iter()
                        .filter(|violation| !reported.contains(&violation.pointer)),
                );
            }
            // The violations say already that the model is missing.
            Err(_) if attributes.model.is_empty() => {}
            Err(not_offered) => return Err(not_offered.into()),
        }
        Err(Problem::invalid(violations))
    }
}

fn prompt_schema() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("What the image should show."))
        .min_length(Some(1))
        .max_length(Some(MAX_TEXT))
        .pattern(Some(visible::visible_pattern()))
        .examples(["The bottle on wet slate, morning light"])
        .into()
}

fn metadata_schema() -> Schema {
    let text = |min, max| {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(min))
            .max_length(Some(max))
            .pattern(Some(NO_NUL))
    };
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some(
            "Your own data about the job: at most 50 entries, with keys of 64 and values of 500 characters.",
        ))
        .max_properties(Some(MAX_METADATA_ENTRIES))
        .property_names(Some(text(1, MAX_METADATA_KEY_LENGTH)))
        .additional_properties(Some(Schema::from(text(0, MAX_METADATA_VALUE_LENGTH))))
        .into()
}

fn ratio_schema() -> Schema {
    words_schema(
        "The aspect ratio of the image, width to height.",
        AspectRatio::ALL,
        Some(&AspectRatio::default()),
    )
}

fn size_schema() -> Schema {
    let description = "The size of the image: `1K` is about 1 megapixel, `2K` about 4. `pixels` of `GET /v1/models` has the exact width and height for each aspect ratio.";
    words_schema(description, Size::VARIANTS, Some(&Size::default()))
}

fn format_schema() -> Schema {
    words_schema(
        "The file format of the renditions. `png`: lossless. `jpeg`: small files for photos. `webp`: small files, lossy or lossless.",
        Format::VARIANTS,
        Some(&Format::default()),
    )
}

/// Parses the earliest start; `None` means at once.
fn run_at(
    text: Option<&str>,
    now: OffsetDateTime,
) -> std::result::Result<Option<OffsetDateTime>, Violation> {
    let Some(text) = text else { return Ok(None) };
    let run_at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        Violation::new(
            "/run_at",
            "Expected a time like 2026-11-22T18:00:00Z (RFC 3339).",
        )
    })?;
    if run_at > now + MAX_RUN_AT_DELAY {
        return Err(Violation::new("/run_at", "At most 7 days ahead."));
    }
    Ok(Some(run_at))
}

/// Adds everything that is wrong with the texts and numbers of a body, as far as it does not depend on the model.
fn check_texts_and_numbers(violations: &mut Violations, body: &CreateJob) {
    for (pointer, text) in [
        ("/prompt", Some(&body.prompt)),
        ("/art_direction", body.art_direction.as_ref()),
        ("/name", body.name.as_ref()),
    ] {
        if text.is_some_and(|text| text.contains('\0')) {
            violations.add(pointer, "Leave out the NUL character.");
        }
    }
    if body
        .art_direction
        .as_deref()
        .is_some_and(|text| !text.is_empty() && visible::is_blank(text))
    {
        violations.add(
            "/art_direction",
            "It has no visible character: leave it out.",
        );
    }
    if body
        .name
        .as_ref()
        .is_some_and(|name| name.chars().count() > MAX_NAME_LENGTH)
    {
        violations.add("/name", format!("At most {MAX_NAME_LENGTH} characters."));
    }
    if body.metadata.len() > MAX_METADATA_ENTRIES {
        violations.add(
            "/metadata",
            format!("At most {MAX_METADATA_ENTRIES} entries."),
        );
    }
    let is_valid = |text: &str, max| text.chars().count() <= max && !text.contains('\0');
    if body.metadata.iter().any(|(key, value)| {
        key.is_empty()
            || !is_valid(key, MAX_METADATA_KEY_LENGTH)
            || !is_valid(value, MAX_METADATA_VALUE_LENGTH)
    }) {
        violations.add(
            "/metadata",
            format!(
                "A key has 1 to {MAX_METADATA_KEY_LENGTH} characters and a value at most {MAX_METADATA_VALUE_LENGTH}, and neither may have the NUL character (U+0000)."
            ),
        );
    }
    if body.priority.unsigned_abs() > MAX_PRIORITY.unsigned_abs() {
        violations.add(
            "/priority",
            format!("Expected a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}."),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use time::macros::datetime;

    use super::*;
    use crate::extract;

    const NOW: OffsetDateTime = datetime!(2026-11-22 12:00 UTC);

    fn read(body: &Value) -> JobDraft {
        let body = extract::json(body.to_string().as_bytes()).unwrap();
        JobDraft::read(body, JobInputs::default(), NOW)
    }

    fn quoted(body: &Value) -> std::result::Result<i64, Value> {
        let catalog = Catalog::load(None, None).unwrap();
        read(body)
            .quote(&catalog, NOW.date())
            .map(|quote| quote.hold().unwrap().get())
            .map_err(|problem| problem.body("req", "/v1/jobs"))
    }

    fn pointers(problem: &Value) -> Vec<&str> {
        problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error["pointer"].as_str().unwrap())
            .collect()
    }

    #[test]
    fn fields_that_are_left_out_have_defaults() {
        let body = json!({"model": "gemini-3-pro-image", "prompt": "a bottle"});
        assert_eq!(quoted(&body), Ok(24));
        let Generation::Image(request) = read(&body).generation;
        assert_eq!(
            (request.size, request.aspect_ratio, request.format),
            (Size::OneK, AspectRatio::Square, Format::Png)
        );
    }

    #[test]
    fn all_violations_are_reported_at_once() {
        let problem = quoted(&json!({
            "model": "gemini-3-pro-image", "prompt": " ", "size": "8K", "aspect_ratio": "5:7", "format": "gif",
            "outputs": 9, "priority": 11, "name": "x".repeat(201), "run_at": "tomorrow",
        }))
        .unwrap_err();
        let mut found = pointers(&problem);
        found.sort_unstable();
        assert_eq!(
            found,
            [
                "/aspect_ratio",
                "/format",
                "/name",
                "/outputs",
                "/priority",
                "/prompt",
                "/run_at",
                "/size"
            ]
        );
        assert!(problem.to_string().contains("Use one of 1K, 2K."));
    }

    #[test]
    fn an_encoding_choice_without_effect_is_refused() {
        let check = |format: &str, encoding: Value, expected: &[&str]| {
            let body = json!({"model": "gemini-3-pro-image", "prompt": "a bottle", "format": format, "encoding": encoding});
            let found = quoted(&body).map_err(|problem| {
                let found = pointers(&problem).into_iter().map(str::to_owned);
                found.collect::<Vec<_>>()
            });
            match found {
                Ok(_) => assert!(expected.is_empty(), "{body}"),
                Err(found) => assert_eq!(found, expected, "{body}"),
            }
        };
        check(
            "jpeg",
            json!({"quality": 80, "progressive": true, "chroma_subsampling": "4:4:4"}),
            &[],
        );
        check("webp", json!({"quality": 80}), &[]);
        check("webp", json!({"lossless": true}), &[]);
        check(
            "webp",
            json!({"lossless": true, "quality": 80}),
            &["/encoding/quality"],
        );
        check(
            "png",
            json!({"quality": 80, "lossless": true}),
            &["/encoding/quality", "/encoding/lossless"],
        );
        check(
            "webp",
            json!({"progressive": false}),
            &["/encoding/progressive"],
        );
        check("jpeg", json!({"quality": 0}), &["/encoding/quality"]);
        check(
            "jpeg",
            json!({"chroma_subsampling": "4:2:2"}),
            &["/encoding/chroma_subsampling"],
        );
    }

    #[test]
    fn the_model_must_be_named_and_known() {
        let problem = quoted(&json!({"prompt": "a bottle"})).unwrap_err();
        assert_eq!(pointers(&problem), ["/model"]);
        let problem = quoted(&json!({"model": "dall-e", "prompt": "a bottle"})).unwrap_err();
        assert_eq!(problem["code"], "unknown_model");
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let body = json!({"model": "m", "promt": "a bottle"}).to_string();
        let Err(problem) = extract::json::<CreateJob>(body.as_bytes()) else {
            panic!("expected a problem")
        };
        assert_eq!(pointers(&problem.body("", "")), ["/promt"]);
    }

    #[test]
    fn a_job_may_be_planned_up_to_a_week_ahead() {
        let body =
            |run_at: &str| json!({"model": "gemini-3-pro-image", "prompt": "a", "run_at": run_at});
        let planned = read(&body("2026-11-22T13:00:00Z")).run_at;
        assert_eq!(
            planned.map(OffsetDateTime::unix_timestamp),
            Some(1_795_352_400)
        );
        assert!(quoted(&body("2026-11-30T12:00:00Z")).is_err());
    }
}
