//! The public keys of a provider (RFC 7517), by their names.

use std::collections::HashMap;
use std::sync::Arc;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::cached::{CacheTiming, Cached, Fetch};
use super::http::{FetchError, Fetched, IdentityHttp};
use super::{Refusal, TokenError};

/// Shortest modulus of an RSA key, in bytes: 2048 bits (RFC 7518, 3.3).
const MIN_MODULUS_BYTES: usize = 256;
/// Most keys of a provider. Real ones have two to ten.
const MAX_KEYS: usize = 100;

/// A key and the one algorithm that it is for.
pub(super) struct Key {
    public: DecodingKey,
    algorithm: Algorithm,
    validation: Validation,
}

/// The keys of a provider.
pub(super) struct KeySet(Cached<Keys>);

/// The usable keys of one document.
pub(super) struct Keys(HashMap<String, Arc<Key>>);

/// A document of keys as it is sent. Each key is read by itself: a new kind of key must not make the
/// others unusable.
#[derive(Deserialize)]
pub(super) struct KeyDocument {
    keys: Vec<Value>,
}

impl Key {
    /// The key as a library wants it.
    pub(super) fn public(&self) -> &DecodingKey {
        &self.public
    }

    /// What the library checks: the algorithm and nothing else. The rules about claims are ours.
    pub(super) fn validation(&self) -> &Validation {
        &self.validation
    }

    /// Reads a key. Returns `None` for one that is not for signatures by RS256 or ES256.
    fn read(value: Value) -> Option<(String, Self)> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let is_for_signatures = matches!(
            jwk.common.public_key_use,
            None | Some(PublicKeyUse::Signature)
        ) && (jwk.common.key_operations.as_ref())
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            _ => return None,
        };
        let is_for_algorithm = (jwk.common.key_algorithm).is_none_or(|key| key == algorithm.into());
        let public = DecodingKey::from_jwk(&jwk).ok()?;
        if !is_for_signatures || !is_for_algorithm || is_short(&public) {
            return None;
        }
        let mut validation = Validation::new(algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let key = Self {
            public,
            algorithm,
            validation,
        };
        Some((jwk.common.key_id?, key))
    }
}

fn is_short(key: &DecodingKey) -> bool {
    match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len() < MIN_MODULUS_BYTES,
        DecodingKeyKind::SecretOrDer(_) => false,
    }
}

impl Keys {
    /// Reads the keys of a document, and leaves out those that are not usable.
    ///
    /// # Errors
    /// Returns an error if none is usable, or if there are too many.
    pub(super) fn read(document: KeyDocument) -> Result<Self, FetchError> {
        let count = document.keys.len();
        if count > MAX_KEYS {
            let why = format!("the key set has {count} keys, more than {MAX_KEYS}");
            return Err(FetchError::Unusable(why));
        }
        let keys: HashMap<_, _> = (document.keys.into_iter())
            .filter_map(Key::read)
            .map(|(id, key)| (id, Arc::new(key)))
            .collect();
        if keys.is_empty() {
            let why = format!("none of the {count} keys in the key set is usable");
            return Err(FetchError::Unusable(why));
        }
        Ok(Self(keys))
    }
}

impl KeySet {
    /// The keys at this address.
    pub(super) fn at(url: Url, http: IdentityHttp, timing: CacheTiming) -> Self {
        Self::new(
            timing,
            Box::new(move || {
                let (url, http) = (url.clone(), http.clone());
                Box::pin(async move { fetch(&http, url).await })
            }),
        )
    }

    /// The keys that this function fetches.
    pub(super) fn new(timing: CacheTiming, fetch: Fetch<Keys>) -> Self {
        Self(Cached::new("keys", timing, fetch))
    }

    /// Finds a key by its name.
    ///
    /// # Errors
    /// Returns an error if the provider does not have it, if it is for another algorithm, or if the
    /// keys are not known.
    pub(super) async fn find(
        &self,
        id: &str,
        algorithm: Algorithm,
    ) -> Result<Arc<Key>, TokenError> {
        let keys = self.0.get(|keys| keys.0.contains_key(id)).await?;
        let key = keys.0.get(id).ok_or(Refusal::UnknownKey)?;
        if key.algorithm != algorithm {
            return Err(Refusal::Algorithm.into());
        }
        Ok(Arc::clone(key))
    }
}

/// Fetches a key set.
///
/// # Errors
/// Returns an error if the provider does not send one that is usable.
pub(super) async fn fetch(http: &IdentityHttp, url: Url) -> Result<Fetched<Keys>, FetchError> {
    let fetched = http.get::<KeyDocument>(url).await?;
    Ok(Fetched {
        document: Keys::read(fetched.document)?,
        max_age: fetched.max_age,
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    /// A key of RSA with these changes; `null` removes a field. The modulus has no meaning.
    fn rsa(changes: &Value) -> Value {
        let modulus = URL_SAFE_NO_PAD.encode([0xC5; 256]);
        let key = json!({"kty": "RSA", "kid": "1", "use": "sig", "alg": "RS256", "n": modulus, "e": "AQAB"});
        changed(key, changes)
    }

    fn ec(changes: &Value) -> Value {
        let half = URL_SAFE_NO_PAD.encode([0x11; 32]);
        let key = json!({"kty": "EC", "crv": "P-256", "kid": "1", "x": half, "y": half});
        changed(key, changes)
    }

    fn changed(mut key: Value, changes: &Value) -> Value {
        for (name, value) in changes.as_object().unwrap() {
            key[name] = value.clone();
        }
        key.as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        key
    }

    fn algorithm(key: Value) -> Option<Algorithm> {
        Key::read(key).map(|(_, key)| key.algorithm)
    }

    #[test]
    fn only_keys_for_signatures_are_usable() {
        let short = URL_SAFE_NO_PAD.encode([0xC5; 128]);
        let cases = [
            (rsa(&json!({})), Some(Algorithm::RS256)),
            (
                rsa(&json!({"use": null, "alg": null})),
                Some(Algorithm::RS256),
            ),
            (rsa(&json!({"key_ops": ["verify"]})), Some(Algorithm::RS256)),
            (
                rsa(&json!({"x5c": ["a certificate"], "issuer": "any"})),
                Some(Algorithm::RS256),
            ),
            (rsa(&json!({"use": "enc"})), None),
            (rsa(&json!({"key_ops": ["encrypt"]})), None),
            (rsa(&json!({"alg": "RS512"})), None),
            (rsa(&json!({"alg": "RSA-OAEP"})), None),
            (rsa(&json!({"alg": "of the future"})), None),
            (rsa(&json!({"kid": null})), None),
            (rsa(&json!({"n": null})), None),
            (rsa(&json!({"n": "not base64!"})), None),
            (rsa(&json!({"n": short})), None),
            (ec(&json!({})), Some(Algorithm::ES256)),
            (
                ec(&json!({"alg": "ES256", "use": "sig"})),
                Some(Algorithm::ES256),
            ),
            (ec(&json!({"alg": "RS256"})), None),
            (ec(&json!({"crv": "P-384"})), None),
            (
                json!({"kty": "oct", "kid": "1", "k": "c2VjcmV0", "alg": "HS256"}),
                None,
            ),
            (
                json!({"kty": "OKP", "crv": "Ed25519", "kid": "1", "x": "AAAA"}),
                None,
            ),
            (json!({"kty": "of the future", "kid": "1"}), None),
            (json!("no key"), None),
        ];
        for (key, expected) in cases {
            assert_eq!(algorithm(key.clone()), expected, "{key}");
        }
    }

    #[test]
    fn a_key_that_is_not_usable_does_not_spoil_the_others() {
        let read = |keys: Vec<Value>| Keys::read(KeyDocument { keys }).map(|keys| keys.0.len());
        assert_eq!(read(vec![json!(1), rsa(&json!({}))]).unwrap(), 1);
        assert!(read(vec![json!(1)]).is_err());
        assert!(read(vec![]).is_err());
        assert!(read(vec![rsa(&json!({})); MAX_KEYS + 1]).is_err());
    }
}
