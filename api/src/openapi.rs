//! `/openapi.json`: written by the handlers, held still by a snapshot.

mod complete;

use bytes::Bytes;
use serde_json::json;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::error::ProblemBody;
#[cfg(test)]
pub(crate) use complete::bodies;
use complete::complete;
pub use complete::nullable;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Platen",
        description = "Pictures from AI models, charged for what is delivered and nothing else. Problems are RFC 9457 `application/problem+json`; `/errors` explains every code.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(ProblemBody)),
    modifiers(&Key),
    tags(
        (name = "jobs", description = "Ask for pictures and see what became of it"),
        (name = "models", description = "What may be asked for, and its price"),
        (name = "credits", description = "Balance and statement"),
        (name = "files", description = "The pictures"),
        (name = "operators", description = "For whoever runs this service"),
        (name = "service", description = "Whether it runs, and what its errors mean"),
    )
)]
struct Base;

struct Key;

impl Modify for Key {
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
            .description(Some("The operators' key, of `PLATEN_OPERATOR_KEY`."))
            .build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("operator", SecurityScheme::Http(scheme));
    }
}

/// What the handlers add themselves to.
pub fn base() -> utoipa::openapi::OpenApi {
    Base::openapi()
}

/// The document as it is served.
pub fn document(openapi: &utoipa::openapi::OpenApi) -> Bytes {
    Bytes::from(format!("{:#}", complete(json!(openapi))))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_contract_changes_on_purpose_only() {
        let document = super::complete(super::json!(crate::router::documented().into_openapi()));
        insta::assert_json_snapshot!("openapi", document);
    }
}
