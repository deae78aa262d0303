//! Exchanges a code for an ID token at the provider's token endpoint (RFC 6749, 4.1.3).

use secrecy::ExposeSecret;
use serde::Deserialize;
use url::form_urlencoded;

use super::discovery::Metadata;
use super::pending::{PendingSignIn, error_code};
use super::{OidcError, OidcSettings};
use crate::people::identity::http::{FetchError, IdentityHttp};

/// What the provider gives for a code.
#[derive(Deserialize)]
pub(super) struct Tokens {
    pub(super) id_token: String,
    /// Read only to check that the ID token belongs to it. It is never used.
    pub(super) access_token: Option<String>,
}

#[derive(Deserialize)]
struct Declined {
    error: String,
}

/// Exchanges a code.
///
/// # Errors
/// Returns an error if the provider declines, or if its answer has no ID token.
pub(super) async fn exchange(
    settings: &OidcSettings,
    http: &IdentityHttp,
    metadata: &Metadata,
    code: &str,
    pending: &PendingSignIn,
) -> Result<Tokens, OidcError> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "authorization_code")
        .append_pair("code", code)
        .append_pair("redirect_uri", &settings.redirect_url)
        .append_pair("code_verifier", pending.code_verifier());
    let secret = settings
        .client_secret
        .as_ref()
        .map(ExposeSecret::expose_secret);
    let basic = match secret {
        // The header has both in the encoding of forms (RFC 6749, 2.3.1).
        Some(secret) if !metadata.takes_secret_in_form => {
            Some((encoded(&settings.client_id), encoded(secret)))
        }
        _ => {
            form.append_pair("client_id", &settings.client_id);
            if let Some(secret) = secret {
                form.append_pair("client_secret", secret);
            }
            None
        }
    };
    let url = metadata.token.clone();
    let (status, body) = http.post_form(url, form.finish(), basic).await?;
    if status.is_success() {
        return Ok(serde_json::from_slice(&body).map_err(FetchError::Unreadable)?);
    }
    match serde_json::from_slice::<Declined>(&body) {
        Ok(declined) if status.is_client_error() => {
            Err(OidcError::Exchange(error_code(&declined.error)))
        }
        _ => Err(FetchError::Status(status).into()),
    }
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
