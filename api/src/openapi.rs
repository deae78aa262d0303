//! `/openapi.json`: generated from the handlers. A snapshot in the tests shows every change of it.

mod complete;

use bytes::Bytes;
use serde_json::json;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::error::ProblemBody;
pub(crate) use complete::allow_null;
#[cfg(test)]
pub(crate) use complete::body_schemas;
use complete::complete;
pub use complete::make_nullable;

// What the document says besides its routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Platen",
        description = "Images from AI models. Only delivered images are charged. Errors are RFC 9457 `application/problem+json`; `/errors` explains every code.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(ProblemBody)),
    modifiers(&SecuritySchemes),
    tags(
        (name = "jobs", description = "Submit jobs and follow them"),
        (name = "models", description = "The models on offer, and their prices"),
        (name = "credits", description = "Balance and statement"),
        (name = "files", description = "Artifacts, uploads and how long they are kept"),
        (name = "keys", description = "API keys: who may call for your tenant"),
        (name = "operators", description = "For the staff who run this service"),
        (name = "service", description = "Whether the service runs, and what its errors mean"),
    )
)]
struct Base;

/// Adds the two kinds of keys: of tenants, and of operators.
struct SecuritySchemes;

impl Modify for SecuritySchemes {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API key, `pk_…`."))
            .build();
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("key", SecurityScheme::Http(scheme));
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The operators' key, as set in `PLATEN_OPERATOR_KEY`."))
            .build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("operator", SecurityScheme::Http(scheme));
    }
}

/// The document without routes. The router adds the handlers to it.
pub fn base() -> utoipa::openapi::OpenApi {
    Base::openapi()
}

/// The complete document, as it is served.
pub fn document(openapi: &utoipa::openapi::OpenApi) -> Bytes {
    Bytes::from(format!("{:#}", complete(json!(openapi))))
}
