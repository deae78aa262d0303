//! API keys of tenants, and what each may do.
//!
//! A key is `pk_<12 characters id>_<52 characters secret><7 characters checksum>`. It is found by
//! its id and checked by the SHA-256 of the whole text. The secret has 260 random bits, so no slow
//! hash is needed. It is shown once and never stored. The checksum tells a mistyped key from an
//! unknown one without a query, and lets scanners recognize keys that were published by mistake.
//! Keys that were made before there was a checksum do not have it.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use crate::id::TenantId;
use crate::permission::Permissions;

/// Digits and lower-case letters without i, l, o and u (Crockford's base32).
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ID_LENGTH: usize = 12;
const SECRET_LENGTH: usize = 52;
/// The 32 bits of a CRC-32, five bits a character.
const CHECKSUM_LENGTH: usize = 7;

/// An API key in plain text.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// Its public part, which is stored and listed.
    pub id: String,
    /// The whole key, not only its secret part.
    secret: SecretString,
}

/// The public part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyId(
    /// The text, 12 characters.
    pub String,
);

/// The text is not the public part of a key.
#[derive(Debug, thiserror::Error)]
#[error("an id of an API key has 12 characters: those between `pk_` and the second `_` of the key")]
pub struct NoKeyId;

impl FromStr for KeyId {
    type Err = NoKeyId;

    fn from_str(text: &str) -> Result<Self, NoKeyId> {
        if text.len() == ID_LENGTH && is_in_alphabet(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NoKeyId)
        }
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl KeyId {
    /// The OpenAPI schema: a pattern.
    pub fn schema() -> Schema {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^[0-9a-hjkmnp-tv-z]{12}$"))
            .examples(["5m0q7xk2c9af"])
            .into()
    }
}

/// What the maker of a key chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTerms {
    /// The name, 1 to 200 characters.
    pub name: String,
    /// What the key may do. `None` for keys that were made before scopes could be chosen: they hold
    /// [`Permissions::of_keys`].
    pub scopes: Option<Permissions>,
    /// The networks that the key may be used from; empty for all.
    pub networks: Vec<IpNet>,
    /// From when on the key is refused; `None` for never.
    pub expires_at: Option<OffsetDateTime>,
}

/// A key as its tenant sees it, without its secret.
#[derive(Clone, Debug)]
pub struct KeyRecord {
    /// The public part of the key.
    pub id: String,
    /// What its maker chose.
    pub terms: KeyTerms,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was last used, to a minute; `None` if it was not used since uses are recorded.
    pub last_used_at: Option<OffsetDateTime>,
    /// From when on it was refused, because it was revoked.
    pub revoked_at: Option<OffsetDateTime>,
    /// The id of the key that replaces it, if it was rotated.
    pub successor: Option<String>,
}

/// What a valid key allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRights {
    /// The tenant that the key belongs to.
    pub tenant: TenantId,
    /// What the key may do.
    pub permissions: Permissions,
    /// The networks that the key may be used from; empty for all.
    pub networks: Arc<[IpNet]>,
}

impl ApiKey {
    /// Creates a random key.
    pub fn generate() -> Self {
        let id = random_text(ID_LENGTH);
        let text = format!("pk_{id}_{}", random_text(SECRET_LENGTH));
        let secret = SecretString::from(format!("{text}{}", checksum(&text)));
        Self { id, secret }
    }

    /// Parses a key. Returns `None` if the text does not have the form of a key, or if its checksum
    /// is wrong.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix("pk_")?.split_once('_')?;
        if id.len() != ID_LENGTH || !is_in_alphabet(id) || !is_in_alphabet(secret) {
            return None;
        }
        let is_checked = match secret.len().checked_sub(SECRET_LENGTH)? {
            0 => true,
            CHECKSUM_LENGTH => {
                let (checked, sum) = text.split_at(text.len() - CHECKSUM_LENGTH);
                checksum(checked) == sum
            }
            _ => false,
        };
        is_checked.then(|| Self {
            id: id.to_owned(),
            secret: SecretString::from(text.to_owned()),
        })
    }

    /// The hash of the whole key, which is stored.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.secret.expose_secret()).into()
    }

    /// The whole key, to show it to its owner once.
    pub fn expose(&self) -> &str {
        self.secret.expose_secret()
    }
}

impl KeyTerms {
    /// The terms of a key that holds what keys hold by default, everywhere and forever.
    pub fn named(name: impl Into<String>) -> Self {
        Self::with_scopes(name, Permissions::of_keys())
    }

    /// The terms of a key that holds these permissions, everywhere and forever.
    pub fn with_scopes(name: impl Into<String>, scopes: Permissions) -> Self {
        Self {
            name: name.into(),
            scopes: Some(scopes),
            networks: Vec::new(),
            expires_at: None,
        }
    }

    /// What a key with these terms may do.
    pub fn permissions(&self) -> Permissions {
        self.scopes.unwrap_or_else(Permissions::of_keys)
    }
}

impl KeyRights {
    /// Whether the key may be used from this address. A key that is limited to networks may not be
    /// used from an address that is not known.
    pub fn allow(&self, address: Option<IpAddr>) -> bool {
        self.networks.is_empty()
            || address.is_some_and(|address| {
                let address = address.to_canonical();
                self.networks
                    .iter()
                    .any(|network| network.contains(&address))
            })
    }
}

fn is_in_alphabet(text: &str) -> bool {
    text.bytes().all(|byte| ALPHABET.contains(&byte))
}

/// The checksum of a text: its CRC-32, as the last characters of a key.
fn checksum(text: &str) -> String {
    let sum = crc32fast::hash(text.as_bytes());
    (0..CHECKSUM_LENGTH)
        .rev()
        .map(|digit| char::from(ALPHABET[(sum >> (5 * digit) & 31) as usize]))
        .collect()
}

fn random_text(length: usize) -> String {
    let mut random = rand::rng();
    (0..length)
        .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_can_be_parsed_and_is_not_in_debug_output() {
        let key = ApiKey::generate();
        assert_eq!(ApiKey::parse(key.expose()).unwrap().sha256(), key.sha256());
        assert!(!format!("{key:?}").contains(key.expose()));
    }

    #[test]
    fn a_key_from_before_checksums_can_be_parsed() {
        let text = ApiKey::generate().expose().to_owned();
        let old = &text[..text.len() - CHECKSUM_LENGTH];
        assert_eq!(ApiKey::parse(old).unwrap().expose(), old);
    }

    #[test]
    fn text_of_another_form_is_not_a_key() {
        let key = ApiKey::generate();
        let short = &key.expose()[..key.expose().len() - 1];
        let mut mistyped = key.expose().to_owned();
        let other = if mistyped.contains("_0") { "_1" } else { "_0" };
        let secret = mistyped.rfind('_').unwrap();
        mistyped.replace_range(secret..secret + 2, other);
        for bad in [
            "",
            "pk_",
            "pk_a_b",
            short,
            &mistyped,
            &key.expose().to_uppercase(),
            &key.expose().replace("pk_", "sk_"),
            &format!("{}0", key.expose()),
        ] {
            assert!(ApiKey::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_key_may_be_limited_to_networks() {
        let rights = |networks: &[&str]| KeyRights {
            tenant: TenantId::new(),
            permissions: Permissions::of_keys(),
            networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
        };
        let address = |text: &str| Some(text.parse().unwrap());
        assert!(rights(&[]).allow(None));
        let limited = rights(&["192.0.2.0/24", "2001:db8::/32"]);
        assert!(limited.allow(address("192.0.2.7")));
        assert!(limited.allow(address("::ffff:192.0.2.7")));
        assert!(limited.allow(address("2001:db8::1")));
        assert!(!limited.allow(address("198.51.100.1")));
        assert!(!limited.allow(None));
    }
}
