//! What of a request a model cannot do, with words for the client.

use super::Model;
use crate::generation::Violation;
use crate::generation::image::{ImageRequest, MAX_TEXT};
use crate::visible;

/// Everything in a request for images that this model cannot do. Empty if the model can do it all.
pub(super) fn of_image(request: &ImageRequest, model: &Model) -> Vec<Violation> {
    let mut found = of_texts(request);
    found.extend(of_outputs(request, model));
    found.extend(of_inputs(request, model));
    found
}

/// Checks the prompt and the art direction.
fn of_texts(request: &ImageRequest) -> Vec<Violation> {
    let mut found = Vec::new();
    if visible::is_blank(&request.prompt) {
        found.push(Violation::new(
            "/prompt",
            "The prompt has no visible character: describe what the image should show.",
        ));
    }
    for (pointer, text) in [
        ("/prompt", Some(&request.prompt)),
        ("/art_direction", request.art_direction.as_ref()),
    ] {
        let length = text.map_or(0, |text| text.chars().count());
        if length > MAX_TEXT {
            found.push(Violation::new(
                pointer,
                format!("{length} characters are too many: use at most {MAX_TEXT}"),
            ));
        }
    }
    found
}

/// Checks the number, the size and the shape of the outputs.
fn of_outputs(request: &ImageRequest, model: &Model) -> Vec<Violation> {
    let mut found = Vec::new();
    if request.outputs < 1 || request.outputs > model.max_outputs {
        found.push(Violation::new(
            "/outputs",
            format!(
                "{} makes 1 to {} images in one job",
                model.id, model.max_outputs
            ),
        ));
    }
    if !model.sizes.contains(&request.size) {
        let sizes: Vec<&str> = model.sizes.iter().map(|size| size.as_str()).collect();
        found.push(Violation::new(
            "/size",
            format!(
                "{} makes {}, not {}",
                model.id,
                sizes.join(" and "),
                request.size
            ),
        ));
    }
    if !model.ratios.contains(&request.aspect_ratio) {
        let ratios: Vec<&str> = model.ratios.iter().map(|ratio| ratio.as_str()).collect();
        found.push(Violation::new(
            "/aspect_ratio",
            format!(
                "{} makes images of {}, not {}",
                model.id,
                ratios.join(", "),
                request.aspect_ratio
            ),
        ));
    }
    found
}

/// Checks the number of the inputs, and the bytes of each.
fn of_inputs(request: &ImageRequest, model: &Model) -> Vec<Violation> {
    let mut found = Vec::new();
    if request.inputs.len() > model.max_inputs {
        found.push(Violation::new(
            "/inputs",
            format!(
                "{} takes at most {} input images, not {}",
                model.id,
                model.max_inputs,
                request.inputs.len()
            ),
        ));
    }
    for (index, input) in request.inputs.iter().enumerate() {
        let limit = u64::try_from(model.max_input_bytes).unwrap_or(u64::MAX);
        if input.bytes > limit {
            // The field of the request that named the image.
            let field = if input.upload.is_some() {
                "upload"
            } else {
                "data"
            };
            found.push(Violation::new(
                format!("/inputs/{index}/{field}"),
                format!("{} takes input images of at most {limit} bytes", model.id),
            ));
        }
    }
    found
}
