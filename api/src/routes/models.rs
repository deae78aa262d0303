//! Models, as clients see them. No API key is needed, because prices are public.

pub mod cache;
pub mod get;
pub mod list;

use std::collections::BTreeMap;

use domain::catalog::{Model, Stage};
use domain::credits::Credits;
use domain::generation::Kind;
use domain::generation::image::{AspectRatio, Size, pixels};
use serde::Serialize;
use serde_json::{Value, json};
use time::Date;
use utoipa::ToSchema;

use crate::openapi;
use crate::routes::jobs::create::draft::CreateJob;

/// A model of the catalogue.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Model)]
pub struct ModelView {
    /// The name to send as `model` of a job.
    #[schema(example = "gemini-3-pro-image")]
    pub id: String,
    /// The name for people.
    #[schema(example = "Nano Banana Pro")]
    pub title: String,
    /// What the model makes.
    #[schema(inline)]
    pub kind: Kind,
    /// Who runs the model.
    pub provider: String,
    /// The provider's region in which the model is called first.
    pub location: String,
    /// Lanes that are used, in this order, when the first one is unavailable or full and the job allows it: provider, project,
    /// location and model.
    #[schema(example = json!(["vertex/us/gemini-3-pro-image"]))]
    pub fallbacks: Vec<String>,
    /// The sizes a job may ask for.
    #[schema(value_type = Vec<String>)]
    pub sizes: Vec<Size>,
    /// The aspect ratios a job may ask for, width to height.
    #[schema(value_type = Vec<String>)]
    pub aspect_ratios: Vec<AspectRatio>,
    /// The most input images of a job.
    pub max_inputs: usize,
    /// The largest input image, in bytes, before base64.
    pub max_input_bytes: usize,
    /// The most images a job may ask for.
    pub max_outputs: u32,
    /// Width and height in pixels, by aspect ratio and size. Renditions have exactly these.
    #[schema(value_type = HashMap<String, HashMap<String, Vec<u32>>>)]
    pub pixels: BTreeMap<&'static str, BTreeMap<&'static str, [u32; 2]>>,
    /// Today's price; `null` before the first price begins.
    pub price: Option<PriceView>,
    /// How long the model is offered.
    pub lifecycle: Lifecycle,
    /// JSON Schema of the body of `POST /v1/jobs` for this model.
    #[schema(value_type = Object)]
    pub request_schema: Value,
    /// A valid body of `POST /v1/jobs`.
    #[schema(value_type = Object)]
    pub example: Value,
}

/// The price of today.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Price)]
pub struct PriceView {
    /// The day on which this price began.
    #[schema(example = "2026-05-28")]
    pub version: String,
    /// Credits for one delivered image, by size.
    #[schema(value_type = HashMap<String, Credits>)]
    pub credits: BTreeMap<&'static str, Credits>,
}

/// How long a model is offered.
#[derive(Debug, Serialize, ToSchema)]
pub struct Lifecycle {
    /// Whether jobs are accepted today.
    pub offered: bool,
    /// Where the model is in its life.
    #[schema(inline)]
    pub stage: Stage,
    /// The day on which the provider announced the model.
    #[schema(format = Date)]
    pub announced: String,
    /// The day on which the provider deprecated the model; `null` if it has not.
    #[schema(format = Date)]
    pub deprecated: Option<String>,
    /// From this day on, jobs for the model are refused; `null` if no such day is known.
    #[schema(format = Date)]
    pub shut_down: Option<String>,
    /// The model to use instead.
    pub successor: Option<String>,
}

impl ModelView {
    /// Describes a model, with its price and stage of `today`.
    pub fn new(model: &Model, today: Date) -> Self {
        let width_and_height = |ratio, size| {
            let pixels = pixels(ratio, size);
            [pixels.width, pixels.height]
        };
        let by_size = |&ratio: &AspectRatio| {
            let sizes = model.sizes.iter();
            let sizes = sizes.map(|&size| (size.as_str(), width_and_height(ratio, size)));
            (ratio.as_str(), sizes.collect())
        };
        Self {
            id: model.id.clone(),
            title: model.title.clone(),
            kind: model.kind,
            provider: model.lane().provider.clone(),
            location: model.lane().location.clone(),
            fallbacks: model.lanes[1..].iter().map(ToString::to_string).collect(),
            sizes: model.sizes.clone(),
            aspect_ratios: model.ratios.clone(),
            max_inputs: model.max_inputs,
            max_input_bytes: model.max_input_bytes,
            max_outputs: model.max_outputs,
            pixels: model.ratios.iter().map(by_size).collect(),
            price: model.current_price(today).map(|price| PriceView {
                version: price.from.to_string(),
                credits: price
                    .credits
                    .iter()
                    .map(|(size, credits)| (size.as_str(), *credits))
                    .collect(),
            }),
            lifecycle: Lifecycle {
                offered: model.stage(today) != Stage::ShutDown,
                stage: model.stage(today),
                announced: model.announced.to_string(),
                deprecated: model.deprecated.map(|on| on.to_string()),
                shut_down: model.shut_down.map(|on| on.to_string()),
                successor: model.successor.clone(),
            },
            request_schema: request_schema(model),
            example: json!({
                "model": model.id,
                "prompt": "The bottle on wet slate, morning light",
                "aspect_ratio": model.ratios[0],
                "size": model.sizes[0],
            }),
        }
    }
}

/// The schema of `POST /v1/jobs`, narrowed to what this model supports.
fn request_schema(model: &Model) -> Value {
    let mut schema = json!(<CreateJob as utoipa::PartialSchema>::schema());
    openapi::make_nullable(&mut schema);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!(format!("A job for {}", model.title));
    let properties = &mut schema["properties"];
    properties["model"] = json!({ "const": model.id });
    properties["size"]["enum"] = json!(model.sizes);
    openapi::allow_null(&mut properties["size"]);
    properties["aspect_ratio"]["enum"] = json!(model.ratios);
    openapi::allow_null(&mut properties["aspect_ratio"]);
    properties["outputs"]["maximum"] = json!(model.max_outputs);
    properties["inputs"]["maxItems"] = json!(model.max_inputs);
    // An input is either an upload, or a file in the body with its type.
    let input_forms = [
        json!({ "required": ["upload"] }),
        json!({ "required": ["data", "media_type"] }),
    ];
    properties["inputs"]["items"]["oneOf"] = json!(input_forms);
    schema
}

#[cfg(test)]
mod tests {
    use domain::catalog::Catalog;
    use time::macros::date;

    use super::*;

    #[test]
    fn a_models_schema_is_narrowed_and_has_no_references() {
        let catalog = Catalog::load(None, None).unwrap();
        for model in catalog.models() {
            let view = ModelView::new(model, date!(2026 - 11 - 22));
            let schema = view.request_schema;
            assert!(!schema.to_string().contains("$ref"), "{schema:#}");
            let mut sizes = json!(model.sizes);
            sizes.as_array_mut().unwrap().push(Value::Null);
            assert_eq!(schema["properties"]["size"]["enum"], sizes);
            assert_eq!(schema["additionalProperties"], false);
            let inputs = &schema["properties"]["inputs"];
            assert_eq!(inputs["maxItems"], model.max_inputs);
            assert_eq!(inputs["items"]["required"], json!(["role"]));
            assert_eq!(schema["required"], json!(["model", "prompt"]));
        }
    }

    #[test]
    fn a_view_has_pixels_price_and_lifecycle() {
        let catalog = Catalog::load(None, None).unwrap();
        let model = catalog.get("gemini-3-pro-image").unwrap();
        let view = ModelView::new(model, date!(2026 - 11 - 22));
        assert_eq!(view.pixels["4:5"]["2K"], [1856, 2304]);
        assert_eq!(view.price.unwrap().credits["2K"].get(), 24);
        assert!(view.lifecycle.offered);
        assert!(
            !ModelView::new(model, date!(2027 - 05 - 28))
                .lifecycle
                .offered
        );
    }
}
