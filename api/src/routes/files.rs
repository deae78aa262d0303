//! `GET /files/{key}`: an object of the bucket, for whoever holds a signed link to it.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use common::artifact::file_name;
use common::clock;
use common::generation::image;
use serde::Deserialize;

use crate::app::App;
use crate::error::{Code, Problem, Result, sentence};
use crate::extract::Parameters;

/// What makes a path a link.
#[derive(Debug, Deserialize)]
pub struct Link {
    /// Until when it works, in seconds since 1970.
    expires: i64,
    /// Proof that we made it.
    signature: String,
}

/// Not in `/openapi.json`: clients follow `artifacts[].url` and need not know how it is made.
pub async fn handler(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    Parameters(link): Parameters<Link>,
) -> Result<impl IntoResponse> {
    app.bucket
        .check_link(&key, link.expires, &link.signature, clock::now())
        .map_err(|error| {
            let detail = format!("{} {}", sentence(&error), Code::BadLink.advice());
            Problem::new(Code::BadLink, detail)
        })?;
    let bytes = app
        .bucket
        .get(&key)
        .await?
        .ok_or_else(|| Problem::new(Code::NotFound, "This file was deleted."))?;
    let media_type = image::inspect(&bytes)
        .map_or("application/octet-stream", |(media_type, _)| {
            media_type.as_str()
        });
    Ok((
        [
            (header::CONTENT_TYPE, media_type.to_owned()),
            (
                header::CONTENT_DISPOSITION,
                format!("inline; filename=\"{}\"", file_name(&key)),
            ),
            // Whatever the bytes turn out to be, they are shown and never run.
            (
                header::CONTENT_SECURITY_POLICY,
                "default-src 'none'; sandbox".to_owned(),
            ),
            (
                header::CACHE_CONTROL,
                "private, max-age=900, immutable".to_owned(),
            ),
            // Studios on other origins show pictures too; the link is what protects them.
            (
                HeaderName::from_static("cross-origin-resource-policy"),
                "cross-origin".to_owned(),
            ),
        ],
        bytes,
    ))
}
