//! Reads a token in compact form (RFC 7515, 3.1) and verifies its signature.
//!
//! The header of a token is a claim of its sender, so it decides nothing. It only names a key, and
//! must agree with the algorithm of that key. Addresses and keys in it (`jku`, `jwk`, `x5u`, `x5c`)
//! are not read.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use jsonwebtoken::errors::ErrorKind;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::Refusal;
use super::key_set::Key;

/// The longest token that is read, in bytes. Tokens of Firebase have about 1 KiB, those of
/// organisations with long lists of groups some more.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// The longest name of a key, in bytes.
const MAX_KEY_ID_BYTES: usize = 256;

/// What the header of a token says.
#[derive(Deserialize)]
pub(super) struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<IgnoredAny>,
}

impl Header {
    /// The algorithm, if it is one of `accepted`.
    ///
    /// # Errors
    /// Returns an error if it is another one.
    pub(super) fn algorithm(&self, accepted: &[Algorithm]) -> Result<Algorithm, Refusal> {
        (self.alg.parse().ok())
            .filter(|algorithm| accepted.contains(algorithm))
            .ok_or(Refusal::Algorithm)
    }

    /// The name of the key.
    ///
    /// # Errors
    /// Returns an error if there is none, or if it is longer than any provider's.
    pub(super) fn key_id(&self) -> Result<&str, Refusal> {
        let kid = self.kid.as_deref().unwrap_or_default();
        let is_valid = (1..=MAX_KEY_ID_BYTES).contains(&kid.len());
        is_valid.then_some(kid).ok_or(Refusal::KeyId)
    }
}

/// Reads the header of a token. The signature is not verified.
///
/// # Errors
/// Returns an error if the token is too long, is no token, or is one of another kind.
pub(super) fn header(token: &str) -> Result<Header, Refusal> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Refusal::TooLong);
    }
    let [header, _, _] = parts(token)?;
    let header: Header = json(header)?;
    // An access or logout token of the same provider is signed with the same keys (RFC 8725, 3.11).
    if (header.typ.as_deref()).is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
        return Err(Refusal::Kind);
    }
    if header.crit.is_some() {
        return Err(Refusal::CriticalHeader);
    }
    Ok(header)
}

/// Verifies the signature of a token with this key, and reads its claims. What the claims say is not
/// checked.
///
/// # Errors
/// Returns an error if the algorithm is not the key's, or if the signature is wrong.
pub(super) fn signed_claims<C: DeserializeOwned>(token: &str, key: &Key) -> Result<C, Refusal> {
    match jsonwebtoken::decode(token, key.public(), key.validation()) {
        Ok(data) => Ok(data.claims),
        Err(error) => Err(match error.kind() {
            ErrorKind::InvalidSignature => Refusal::Signature,
            ErrorKind::InvalidAlgorithm => Refusal::Algorithm,
            _ => Refusal::Malformed,
        }),
    }
}

/// Reads the claims of a token of an emulator, which has `alg: none` and no signature.
///
/// # Errors
/// Returns an error if the token names an algorithm or has a signature.
pub(super) fn unsigned_claims<C: DeserializeOwned>(token: &str) -> Result<C, Refusal> {
    if header(token)?.alg != "none" {
        return Err(Refusal::Algorithm);
    }
    let [_, claims, signature] = parts(token)?;
    if !signature.is_empty() {
        return Err(Refusal::Signature);
    }
    json(claims)
}

fn parts(token: &str) -> Result<[&str; 3], Refusal> {
    let parts: Vec<&str> = token.splitn(4, '.').collect();
    parts.try_into().map_err(|_| Refusal::Malformed)
}

fn json<T: DeserializeOwned>(part: &str) -> Result<T, Refusal> {
    let json = URL_SAFE_NO_PAD.decode(part);
    let json = json.map_err(|_| Refusal::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| Refusal::Malformed)
}
