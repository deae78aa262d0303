//! The rules about an ID token (`OpenID` Connect Core 1.0, 3.1.3.7).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

use crate::people::identity::claims::{Audience, Claims};
use crate::people::identity::key_set::KeySet;
use crate::people::identity::{Identity, Refusal, TokenError, token};

/// The longest subject (Core 1.0, 2).
const MAX_SUBJECT_BYTES: usize = 255;

/// What the token of one sign-in must say.
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) client_id: &'a str,
    pub(super) nonce: &'a str,
    /// The access token that came with it.
    pub(super) access_token: Option<&'a str>,
}

/// Verifies the signature of a token and reads its claims.
///
/// # Errors
/// Returns an error if the token is not signed by the provider with one of these algorithms, or if the
/// provider's keys are not known.
pub(super) async fn signed_claims(
    token: &str,
    keys: &KeySet,
    algorithms: &[Algorithm],
) -> Result<Claims, TokenError> {
    let header = token::header(token)?;
    let algorithm = header.algorithm(algorithms)?;
    let key = keys.find(header.key_id()?, algorithm).await?;
    Ok(token::signed_claims(token, &key)?)
}

/// Checks the claims of a token whose signature is verified.
///
/// # Errors
/// Returns an error if a claim does not fit.
pub(super) fn check(
    claims: Claims,
    expected: &Expected<'_>,
    now: OffsetDateTime,
) -> Result<Identity, Refusal> {
    claims.check_issuer(expected.issuer)?;
    check_audience(&claims, expected.client_id)?;
    claims.check_times(now)?;
    let nonce = claims.nonce.as_deref().unwrap_or_default();
    if !bool::from(nonce.as_bytes().ct_eq(expected.nonce.as_bytes())) {
        return Err(Refusal::Nonce);
    }
    if let Some(hash) = &claims.at_hash
        && (expected.access_token).is_none_or(|token| *hash != access_token_hash(token))
    {
        return Err(Refusal::AccessTokenHash);
    }
    claims.into_identity(MAX_SUBJECT_BYTES)
}

/// Checks that the token is for us. One that is for others too must have been issued to us.
fn check_audience(claims: &Claims, client_id: &str) -> Result<(), Refusal> {
    let audiences = match &claims.aud {
        Some(Audience::One(audience)) => std::slice::from_ref(audience),
        Some(Audience::Many(audiences)) => audiences.as_slice(),
        None => &[],
    };
    if !audiences.iter().any(|audience| audience == client_id) {
        return Err(Refusal::Audience);
    }
    match &claims.azp {
        Some(azp) if azp == client_id => Ok(()),
        None if audiences.len() == 1 => Ok(()),
        _ => Err(Refusal::AuthorizedParty),
    }
}

/// The first half of the SHA-256 of an access token (Core 1.0, 3.1.3.6). RS256 and ES256 both mean
/// SHA-256.
fn access_token_hash(token: &str) -> String {
    let digest = Sha256::digest(token);
    URL_SAFE_NO_PAD.encode(&digest[..digest.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_of_the_standard() {
        // OpenID Connect Core 1.0, appendix A.3.
        let token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
        assert_eq!(access_token_hash(token), "77QmUPtjPfzWtF2AnpK9RQ");
    }
}
