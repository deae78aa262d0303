//! The body of a request for a job: what may stand in it, and everything that is wrong with it at once.

use std::collections::BTreeMap;
use std::time::Duration;

use common::catalog::{Catalog, NotOffered};
use common::credits::Quote;
use common::generation::image::{AspectRatio, Format, ImageRequest, MAX_TEXT, Size};
use common::generation::{Generation, Violation};
use common::visible;
use serde::Deserialize;
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::pictures::{InputBody, Picture, Pictures};
use super::rendering::{self, EncodingBody, RenderingFields, fits};
use super::violations::{Violations, words};
use crate::error::{Problem, Result};

const SIZES: [Size; 2] = [Size::OneK, Size::TwoK];
const FORMATS: [Format; 3] = [Format::Png, Format::Jpeg, Format::Webp];
const MAX_NAME: usize = 200;
const MAX_METADATA: usize = 50;
const MAX_METADATA_KEY: usize = 64;
const MAX_METADATA_VALUE: usize = 500;
/// Text without NUL, which Postgres does not keep, for `/openapi.json`.
const NO_NUL: &str = "^[^\\u0000]*$";
const MAX_PRIORITY: i16 = 10;
/// How far ahead a job may be planned.
const MAX_AHEAD: Duration = Duration::from_hours(7 * 24);

// No `Debug` in this file: what holds a prompt is never printed.

/// What is asked for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateJob {
    /// A model of `GET /v1/models`.
    #[serde(default)]
    #[schema(required, example = "gemini-3-pro-image")]
    model: String,
    /// What the picture should show.
    #[serde(default)]
    #[schema(required, schema_with = prompt)]
    prompt: String,
    /// How it should look, said apart from what it shows.
    #[schema(max_length = 8000, pattern = "^[^\\u0000]*$")]
    art_direction: Option<String>,
    /// Pictures to work from: at most 7 MiB each and 20 MiB in all. The model gets them upright, in sRGB and without metadata.
    #[serde(default)]
    #[schema(inline, max_items = 64)]
    inputs: Vec<InputBody>,
    #[schema(schema_with = ratios)]
    aspect_ratio: Option<String>,
    #[schema(schema_with = sizes)]
    size: Option<String>,
    /// How many pictures.
    #[schema(minimum = 1, maximum = 4, default = 1)]
    outputs: Option<u32>,
    #[schema(schema_with = formats)]
    format: Option<String>,
    #[schema(inline)]
    encoding: Option<EncodingBody>,
    #[schema(schema_with = fits)]
    fit: Option<String>,
    /// Whether more than 5 % may be cropped away, where the model's picture has another shape.
    #[serde(default)]
    #[schema(default = false)]
    allow_crop: bool,
    /// Whether the picture may be enlarged by more than 5 %, where the model's is smaller.
    #[serde(default)]
    #[schema(default = false)]
    allow_upscale: bool,
    /// Whether what was made smaller is sharpened a little.
    #[serde(default)]
    #[schema(default = false)]
    sharpen: bool,
    /// For you, to find it again.
    #[schema(max_length = 200, pattern = "^[^\\u0000]*$")]
    name: Option<String>,
    /// For you: at most 50 entries, keys of 64 and values of 500 characters.
    #[serde(default)]
    #[schema(schema_with = metadata)]
    metadata: BTreeMap<String, String>,
    /// The same seed makes similar pictures, where the model can.
    #[schema(minimum = -2_147_483_648, maximum = 2_147_483_647)]
    seed: Option<i32>,
    /// Not before this time, at most 7 days ahead.
    #[schema(value_type = Option<String>, format = DateTime)]
    run_at: Option<String>,
    /// Among your own jobs, higher goes first.
    #[serde(default)]
    #[schema(minimum = -10, maximum = 10, default = 0)]
    priority: i16,
    /// Whether it may be made elsewhere when the model's own place is closed or full: `fallbacks` of
    /// `GET /v1/models/{id}` says where. The price stays.
    #[schema(default = true)]
    fallback: Option<bool>,
    /// Whether the successor may be taken, at its price, when the model was shut down.
    #[serde(default)]
    #[schema(default = false)]
    switch_to_successor: bool,
}

impl CreateJob {
    /// Its pictures, which [`Sources`](super::pictures::Sources) reads.
    pub fn take_inputs(&mut self) -> Vec<InputBody> {
        std::mem::take(&mut self.inputs)
    }
}

/// A request that was read. [`Asked::quote`] tells what is wrong with it, before anything else is done.
pub struct JobDraft {
    pub model: String,
    pub name: Option<String>,
    pub metadata: serde_json::Value,
    pub priority: i16,
    /// Whether that is in the future is for the database to say.
    pub run_at: Option<OffsetDateTime>,
    pub generation: Generation,
    /// To be stored before the job is admitted.
    pub files: Vec<Picture>,
    pub fallback: bool,
    /// The model asked for, where its successor is taken instead.
    pub switched_from: Option<String>,
    switch_to_successor: bool,
    violations: Vec<Violation>,
}

impl JobDraft {
    /// Understands a body, as far as that can be. `pictures` are its inputs, which were taken out of it and read before.
    pub fn read(body: CreateJob, pictures: Pictures, now: OffsetDateTime) -> Self {
        let mut found = Violations::from(pictures.violations);
        if body.model.is_empty() {
            found.add("/model", "Name a model: GET /v1/models lists them.");
        }
        check(&mut found, &body);
        let run_at = found.keep(run_at(body.run_at.as_deref(), now)).flatten();
        let format = found.choice("/format", body.format, &FORMATS);
        let said = RenderingFields {
            fit: body.fit,
            allow_crop: body.allow_crop,
            allow_upscale: body.allow_upscale,
            sharpen: body.sharpen,
        };
        let request = ImageRequest {
            prompt: body.prompt,
            art_direction: body.art_direction,
            inputs: pictures.inputs,
            aspect_ratio: found.choice("/aspect_ratio", body.aspect_ratio, AspectRatio::ALL),
            size: found.choice("/size", body.size, &SIZES),
            outputs: body.outputs.unwrap_or(1),
            format,
            rendering: rendering::read(&mut found, said, body.encoding, format),
            seed: body.seed,
        };
        Self {
            model: body.model,
            name: body.name,
            metadata: serde_json::json!(body.metadata),
            priority: body.priority,
            run_at,
            generation: Generation::Image(request),
            files: pictures.files,
            fallback: body.fallback.unwrap_or(true),
            switched_from: None,
            switch_to_successor: body.switch_to_successor,
            violations: found.all(),
        }
    }

    /// The pictures as they are once they were opened and written anew, in place of what was known of them before.
    pub fn take_pictures(&mut self, pictures: Pictures) {
        let Generation::Image(request) = &mut self.generation;
        request.inputs = pictures.inputs;
        self.files = pictures.files;
        self.violations.extend(pictures.violations);
    }

    /// What it costs at most, or everything that is wrong with it: here and for its model, which is the successor
    /// of the one asked for where that was shut down and the client wants it so.
    pub fn quote(&mut self, catalog: &Catalog, today: Date) -> Result<Quote> {
        if self.switch_to_successor
            && let Ok(model) = catalog.offered_or_successor(&self.model, today)
            && model.id != self.model
        {
            self.switched_from = Some(std::mem::replace(&mut self.model, model.id.clone()));
        }
        let mut violations = self.violations.clone();
        match catalog.quote(&self.model, &self.generation, today) {
            Ok(quote) if violations.is_empty() => return Ok(quote),
            Ok(_) => {}
            Err(NotOffered::Violations(of_model)) => {
                // A choice that was not understood stands in the request as the default: once is enough.
                let known: Vec<String> = violations
                    .iter()
                    .map(|found| found.pointer.clone())
                    .collect();
                violations.extend(
                    of_model
                        .into_iter()
                        .filter(|found| !known.contains(&found.pointer)),
                );
            }
            Err(_) if self.model.is_empty() => {}
            Err(not_offered) => return Err(not_offered.into()),
        }
        Err(Problem::invalid(violations))
    }
}

fn prompt() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("What the picture should show."))
        .min_length(Some(1))
        .max_length(Some(MAX_TEXT))
        .pattern(Some(visible::visible_pattern()))
        .examples(["The bottle on wet slate, morning light"])
        .into()
}

fn metadata() -> Schema {
    let text = |least, most| {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(least))
            .max_length(Some(most))
            .pattern(Some(NO_NUL))
    };
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some(
            "For you: at most 50 entries, keys of 64 and values of 500 characters.",
        ))
        .max_properties(Some(MAX_METADATA))
        .property_names(Some(text(1, MAX_METADATA_KEY)))
        .additional_properties(Some(Schema::from(text(0, MAX_METADATA_VALUE))))
        .into()
}

fn ratios() -> Schema {
    words(
        "Width to height.",
        AspectRatio::ALL,
        Some(&AspectRatio::default()),
    )
}

fn sizes() -> Schema {
    let description =
        "How large; the pixels follow from the ratio: `GET /v1/models` has the table.";
    words(description, &SIZES, Some(&Size::default()))
}

fn formats() -> Schema {
    words(
        "How the pictures are encoded.",
        &FORMATS,
        Some(&Format::default()),
    )
}

/// When it may run; `None` for at once.
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
    if run_at > now + MAX_AHEAD {
        return Err(Violation::new("/run_at", "At most 7 days ahead."));
    }
    Ok(Some(run_at))
}

/// What is wrong with the words and numbers, whatever the model.
fn check(found: &mut Violations, body: &CreateJob) {
    for (pointer, text) in [
        ("/prompt", Some(&body.prompt)),
        ("/art_direction", body.art_direction.as_ref()),
        ("/name", body.name.as_ref()),
    ] {
        if text.is_some_and(|text| text.contains('\0')) {
            found.add(pointer, "Leave out the NUL character.");
        }
    }
    if body
        .art_direction
        .as_deref()
        .is_some_and(|text| !text.is_empty() && visible::is_blank(text))
    {
        found.add("/art_direction", "Nothing of it can be seen: leave it out.");
    }
    if body
        .name
        .as_ref()
        .is_some_and(|name| name.chars().count() > MAX_NAME)
    {
        found.add("/name", format!("At most {MAX_NAME} characters."));
    }
    if body.metadata.len() > MAX_METADATA {
        found.add("/metadata", format!("At most {MAX_METADATA} entries."));
    }
    let fits = |text: &str, most| text.chars().count() <= most && !text.contains('\0');
    if body.metadata.iter().any(|(key, value)| {
        key.is_empty() || !fits(key, MAX_METADATA_KEY) || !fits(value, MAX_METADATA_VALUE)
    }) {
        found.add(
                "/metadata",
                format!(
                    "Keys of 1 to {MAX_METADATA_KEY} and values of at most {MAX_METADATA_VALUE} characters, without NUL."
                ),
            );
    }
    if body.priority.unsigned_abs() > MAX_PRIORITY.unsigned_abs() {
        found.add(
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
        JobDraft::read(body, Pictures::default(), NOW)
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
    fn the_least_request_takes_the_defaults() {
        let body = json!({"model": "gemini-3-pro-image", "prompt": "a bottle"});
        assert_eq!(quoted(&body), Ok(24));
        let Generation::Image(request) = read(&body).generation;
        assert_eq!(
            (request.size, request.aspect_ratio, request.format),
            (Size::OneK, AspectRatio::Square, Format::Png)
        );
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
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
    fn a_choice_that_would_do_nothing_is_refused() {
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
    fn a_model_is_named() {
        let problem = quoted(&json!({"prompt": "a bottle"})).unwrap_err();
        assert_eq!(pointers(&problem), ["/model"]);
        let problem = quoted(&json!({"model": "dall-e", "prompt": "a bottle"})).unwrap_err();
        assert_eq!(problem["code"], "unknown_model");
    }

    #[test]
    fn a_field_nobody_knows_is_refused() {
        let body = json!({"model": "m", "promt": "a bottle"}).to_string();
        let Err(problem) = extract::json::<CreateJob>(body.as_bytes()) else {
            panic!("expected a problem")
        };
        assert_eq!(pointers(&problem.body("", "")), ["/promt"]);
    }

    #[test]
    fn a_job_may_be_planned_for_a_week() {
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
