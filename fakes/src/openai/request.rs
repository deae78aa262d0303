//! Checks a request as `OpenAI` checks it, and keeps what the image needs.

use super::{
    super::faults::without_markers,
    error::ApiError,
    form::{Fields, File},
};
use drawing::{Format, Input, Scene};
use image::{DynamicImage, ImageFormat};
use serde_json::Value;
use sha2::{Digest, Sha256};

// The limits of `OpenAI`'s API.
const MAX_PROMPT_CHARACTERS: usize = 32_000;
/// How many images one request may ask for.
const MAX_IMAGES: u32 = 10;
/// How many input images one request may have.
const MAX_INPUTS: usize = 16;
const MAX_INPUT_BYTES: usize = 50 * 1024 * 1024;
const MAX_MASK_BYTES: usize = 4 * 1024 * 1024;
/// How many input images of a request are products. Further input images are references.
const MAX_PRODUCTS: usize = 3;
/// The input tokens of one image in the request.
const TOKENS_PER_INPUT: u32 = 765;

/// What a request asks for: new images, or an edit of input images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Generate,
    Edit,
}

impl Verb {
    pub(super) fn from_path(path: &str) -> Option<Self> {
        match path {
            "/v1/images/generations" => Some(Self::Generate),
            "/v1/images/edits" => Some(Self::Edit),
            _ => None,
        }
    }

    /// The fields that a GPT model accepts.
    fn parameters(self) -> impl Iterator<Item = &'static str> {
        const BOTH: &[&str] = &[
            "model",
            "prompt",
            "n",
            "size",
            "quality",
            "background",
            "output_format",
            "output_compression",
            "stream",
            "partial_images",
            "complexity",
            "safety_identifier",
            "user",
        ];
        let own: &[&str] = match self {
            Self::Generate => &["moderation"],
            Self::Edit => &["image", "mask", "input_fidelity"],
        };
        BOTH.iter().chain(own).copied()
    }
}

/// The kind of model.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Model {
    /// GPT Image 2.
    GptImage2,
    /// GPT Image 2.5, which has more qualities.
    GptImage2Point5,
    /// A model of a local server.
    Local,
}

impl Model {
    fn find(id: &str) -> Option<Self> {
        match id {
            "gpt-image-2" => Some(Self::GptImage2),
            "gpt-image-2.5-sunburst" | "gpt-image-2.5-flare" => Some(Self::GptImage2Point5),
            id if id.starts_with("local-") => Some(Self::Local),
            _ => None,
        }
    }

    fn qualities(self) -> &'static [&'static str] {
        match self {
            Self::GptImage2 => &["auto", "low", "medium", "high"],
            Self::GptImage2Point5 | Self::Local => {
                &["auto", "low", "medium", "high", "xhigh", "max"]
            }
        }
    }
}

/// A valid request.
pub(super) struct ImageRequest {
    /// The prompt, with its fault markers.
    pub(super) prompt: String,
    pub(super) scene: Scene,
    /// How many images are requested.
    pub(super) count: u32,
    pub(super) pixels: (u32, u32),
    pub(super) format: Format,
    pub(super) quality: &'static str,
    /// Whether the answer is a URL and not the image itself.
    pub(super) answers_with_url: bool,
    /// The tokens of a GPT model. A local server reports none.
    pub(super) usage: Option<Usage>,
}

/// The tokens of a request and its reply.
pub(super) struct Usage {
    /// The input tokens of the prompt.
    pub(super) text: u32,
    /// The input tokens of the input images.
    pub(super) images: u32,
    /// The output tokens of all images.
    pub(super) output: u32,
}

impl ImageRequest {
    /// Checks the fields of a request. `number` is the seed of a request that has none.
    pub(super) fn read(verb: Verb, fields: &Fields, number: u64) -> Result<Self, ApiError> {
        let name = required(fields, "model")?;
        let model = Model::find(name).ok_or_else(|| ApiError::no_such_model(name))?;
        if model != Model::Local {
            check_names(verb, fields, name, model)?;
        }
        let prompt = required(fields, "prompt")?;
        let characters = prompt.chars().count();
        if characters > MAX_PROMPT_CHARACTERS {
            let sentence = format!(
                "Invalid 'prompt': string too long. Expected a string with maximum length {MAX_PROMPT_CHARACTERS}, but got a string with length {characters} instead."
            );
            return Err(ApiError::invalid(
                Some("prompt"),
                "string_above_max_length",
                sentence,
            ));
        }
        let count = fields.integer("n")?.unwrap_or(1);
        let count = u32::try_from(count)
            .ok()
            .filter(|count| (1..=MAX_IMAGES).contains(count))
            .ok_or_else(|| {
                let sentence = format!(
                    "Invalid 'n': integer out of range. Expected a value between 1 and {MAX_IMAGES}, but got {count} instead."
                );
                ApiError::invalid(Some("n"), "integer_out_of_range", sentence)
            })?;
        check_supported(fields)?;
        one_of(fields, "moderation", &["auto", "low"])?;
        one_of(fields, "complexity", &["low", "medium", "high"])?;
        let quality = match one_of(fields, "quality", model.qualities())? {
            None | Some("auto") => "medium",
            Some(quality) => quality,
        };
        let format = format(fields)?;
        let answers_with_url = match one_of(fields, "response_format", &["url", "b64_json"])? {
            Some(wanted) => wanted == "url",
            None => model == Model::Local,
        };

        let input_images = match verb {
            Verb::Generate => Vec::new(),
            Verb::Edit => input_images(fields)?,
        };
        let pixels = match fields.text("size")? {
            None | Some("auto") => input_images
                .first()
                .map_or((1024, 1024), nearest_standard_size),
            Some(size) => read_size(size, model)?,
        };
        let usage = (model != Model::Local).then(|| Usage {
            text: u32::try_from(characters.div_ceil(4)).unwrap_or(u32::MAX),
            images: u32::try_from(input_images.len()).unwrap_or(u32::MAX) * TOKENS_PER_INPUT,
            output: output_tokens(pixels, quality) * count,
        });
        // A given seed is one of the fields that are hashed.
        let number = match fields.integer("seed")? {
            Some(_) => 0,
            None => number,
        };
        let seed = Sha256::new()
            .chain_update(Value::from(fields.values().clone()).to_string())
            .chain_update(number.to_be_bytes())
            .finalize()
            .into();
        Ok(Self {
            prompt: prompt.to_owned(),
            scene: Scene {
                model: name.to_owned(),
                title: without_markers(prompt),
                inputs: inputs(input_images),
                ratio: ratio(pixels),
                seed,
            },
            count,
            pixels,
            format,
            quality,
            answers_with_url,
            usage,
        })
    }
}

/// The text of a field that must be there and not be empty.
fn required<'a>(fields: &'a Fields, name: &str) -> Result<&'a str, ApiError> {
    fields
        .text(name)?
        .filter(|text| !text.is_empty())
        .ok_or_else(|| {
            let sentence = format!("Missing required parameter: '{name}'.");
            ApiError::invalid(Some(name), "missing_required_parameter", sentence)
        })
}

/// Refuses fields that a GPT model does not have. `model_name` is for the error.
fn check_names(
    verb: Verb,
    fields: &Fields,
    model_name: &str,
    model: Model,
) -> Result<(), ApiError> {
    if model == Model::GptImage2 && fields.text("input_fidelity")?.is_some() {
        let sentence =
            format!("The model '{model_name}' does not support the 'input_fidelity' parameter.");
        return Err(ApiError::user_error(
            Some("input_fidelity"),
            "invalid_input_fidelity_model",
            sentence,
        ));
    }
    let unknown = fields
        .names()
        .find(|given| verb.parameters().all(|known| known != *given));
    match unknown {
        Some(unknown) => {
            let sentence = format!("Unknown parameter: '{unknown}'.");
            Err(ApiError::invalid(
                Some(unknown),
                "unknown_parameter",
                sentence,
            ))
        }
        None => Ok(()),
    }
}

/// Refuses fields that `OpenAI` offers and the fake does not. So nothing is ignored silently.
fn check_supported(fields: &Fields) -> Result<(), ApiError> {
    let unsupported =
        |name: &str, sentence: &str| Err(ApiError::invalid(Some(name), "not_played", sentence));
    one_of(fields, "background", &["auto", "opaque", "transparent"])?;
    if fields.bool("stream")? || fields.integer("partial_images")?.unwrap_or(0) != 0 {
        return unsupported(
            "stream",
            "This fake does not stream: leave out stream and partial_images.",
        );
    }
    if fields.text("background")? == Some("transparent") {
        return unsupported("background", "This fake paints no transparent backgrounds.");
    }
    if let Some(wanted @ ("gif" | "svg")) = fields.text("output_format")? {
        return unsupported("output_format", &format!("This fake makes no {wanted}."));
    }
    Ok(())
}

/// The value of a field that must be one of a list. Returns `None` if the field is missing.
fn one_of(
    fields: &Fields,
    name: &str,
    known: &'static [&'static str],
) -> Result<Option<&'static str>, ApiError> {
    let Some(given) = fields.text(name)? else {
        return Ok(None);
    };
    let found = known.iter().find(|known| **known == given);
    found.copied().map(Some).ok_or_else(|| {
        let listed: Vec<_> = known.iter().map(|known| format!("'{known}'")).collect();
        let sentence = format!(
            "Invalid value: '{given}'. Supported values are: {}.",
            listed.join(", ")
        );
        ApiError::invalid(Some(name), "invalid_value", sentence)
    })
}

/// The format of the images, with the quality for JPEG.
fn format(fields: &Fields) -> Result<Format, ApiError> {
    let format = one_of(fields, "output_format", &["png", "jpeg", "webp"])?;
    // OpenAI calls it compression, but it is a quality: 100 is the best one, and the default.
    let compression = fields.integer("output_compression")?;
    let quality = u8::try_from(compression.unwrap_or(100))
        .ok()
        .filter(|quality| *quality <= 100);
    let quality = quality.ok_or_else(|| {
        let sentence = "Invalid 'output_compression': integer out of range. Expected a value between 0 and 100.";
        ApiError::invalid(Some("output_compression"), "integer_out_of_range", sentence)
    })?;
    match format {
        Some("jpeg") => Ok(Format::Jpeg { quality }),
        // The fake's WebP is lossless, so a quality has no effect.
        Some("webp") => Ok(Format::WebP),
        _ if quality < 100 => {
            let sentence = "Compression less than 100 is not supported for PNG output format.";
            Err(ApiError::invalid(
                Some("output_compression"),
                "invalid_png_output_compression",
                sentence,
            ))
        }
        _ => Ok(Format::Png),
    }
}

/// Reads a size such as `1536x1024`, and checks it against the model's limits.
fn read_size(size: &str, model: Model) -> Result<(u32, u32), ApiError> {
    let refused = |why: &str| {
        let sentence = format!("Invalid size '{size}'. {why}");
        ApiError::invalid(Some("size"), "invalid_value", sentence)
    };
    let sides = size.split_once('x').and_then(|(width, height)| {
        Some((width.parse::<u32>().ok()?, height.parse::<u32>().ok()?))
    });
    let (width, height) = sides
        .filter(|(width, height)| *width > 0 && *height > 0)
        .ok_or_else(|| refused("Expected WIDTHxHEIGHT or auto."))?;
    let (long, short) = (width.max(height), width.min(height));
    let pixels = u64::from(width) * u64::from(height);
    match model {
        Model::Local if long > 4096 => Err(refused("This server makes no side longer than 4096.")),
        Model::Local => Ok((width, height)),
        _ if width % 16 != 0 || height % 16 != 0 => {
            Err(refused("Width and height must both be divisible by 16."))
        }
        _ if long > short.saturating_mul(3) => {
            Err(refused("The aspect ratio must be between 1:3 and 3:1."))
        }
        _ if long > 3840 || pixels > 3840 * 2160 => Err(refused(
            "Requested resolution exceeds the current pixel budget of 3840x2160.",
        )),
        _ if pixels < 655_360 => Err(refused(
            "Requested resolution is below the current minimum pixel budget of 655360.",
        )),
        _ => Ok((width, height)),
    }
}

/// The standard size nearest to the shape of an input image.
fn nearest_standard_size(input: &DynamicImage) -> (u32, u32) {
    let (width, height) = (u64::from(input.width()), u64::from(input.height()));
    if width * 4 > height * 5 {
        (1536, 1024)
    } else if height * 4 > width * 5 {
        (1024, 1536)
    } else {
        (1024, 1024)
    }
}

/// The ratio of width and height in lowest terms, such as `3:2`.
fn ratio((width, height): (u32, u32)) -> String {
    let (mut divisor, mut rest) = (width, height);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    format!("{}:{}", width / divisor, height / divisor)
}

/// The output tokens of one image, by its number of squares of 32×32 pixels. 1,568 for 1536x864 (1,296 squares) in high
/// quality is `OpenAI`'s own figure. The other figures are estimates.
fn output_tokens((width, height): (u32, u32), quality: &str) -> u32 {
    let squares = (width * height).div_ceil(1024);
    match quality {
        "low" => squares / 4,
        "high" => squares * 1568 / 1296,
        "xhigh" => squares * 2,
        "max" => squares * 4,
        _ => squares,
    }
}

/// Decodes the input images of an edit, and checks the mask, which the fake does not use.
fn input_images(fields: &Fields) -> Result<Vec<DynamicImage>, ApiError> {
    let given = |name: &'static str| fields.files.iter().filter(move |file| file.field == name);
    let mut input_images = Vec::new();
    for (index, file) in given("image").enumerate() {
        let input = Some(file)
            .filter(|file| file.bytes.len() < MAX_INPUT_BYTES)
            .and_then(decode);
        input_images.push(input.ok_or_else(|| {
            let sentence = format!(
                "Invalid image file or mode for image {}, please check your image file.",
                index + 1
            );
            ApiError::user_error(None, "invalid_image_file", sentence)
        })?);
    }
    let Some(first) = input_images.first() else {
        return Err(ApiError::invalid(
            Some("image"),
            "missing_required_parameter",
            "Missing required parameter: 'image'.",
        ));
    };
    if input_images.len() > MAX_INPUTS {
        let sentence = format!(
            "Invalid 'image': array too long. Expected an array with maximum length {MAX_INPUTS}, but got an array with length {} instead.",
            input_images.len()
        );
        return Err(ApiError::invalid(
            Some("image"),
            "array_above_max_length",
            sentence,
        ));
    }
    if let Some(mask) = given("mask").next() {
        let readable = mask.bytes.len() < MAX_MASK_BYTES
            && image::guess_format(&mask.bytes).ok() == Some(ImageFormat::Png);
        let size = Some(mask)
            .filter(|_| readable)
            .and_then(decode)
            .map(|mask| (mask.width(), mask.height()));
        if size != Some((first.width(), first.height())) {
            let sentence = "Invalid mask image format - mask size does not match image size";
            return Err(ApiError::user_error(
                Some("mask"),
                "invalid_image_file",
                sentence,
            ));
        }
    }
    Ok(input_images)
}

/// Decodes an input image or a mask. Returns `None` if the file is not a valid PNG, JPEG or WebP image, or has a label
/// that contradicts its bytes.
fn decode(file: &File) -> Option<DynamicImage> {
    let format = image::guess_format(&file.bytes).ok()?;
    let known = matches!(
        format,
        ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP
    );
    let labelled = file
        .content_type
        .as_deref()
        .unwrap_or("application/octet-stream");
    // `OpenAI` refuses a label that contradicts the bytes as an unsupported mimetype. `application/octet-stream` says
    // nothing about them.
    let matches = labelled == "application/octet-stream" || labelled == format.to_mime_type();
    if !(known && matches) {
        return None;
    }
    image::load_from_memory_with_format(&file.bytes, format).ok()
}

/// The input images for the scene: the first few are products, and the others are references.
fn inputs(input_images: Vec<DynamicImage>) -> Vec<Input> {
    let inputs = input_images
        .into_iter()
        .enumerate()
        .map(|(index, image)| Input {
            image,
            is_reference: index >= MAX_PRODUCTS,
        });
    inputs.collect()
}
