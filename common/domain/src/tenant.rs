//! API keys of tenants.
//!
//! A key is `pk_<12 characters id>_<52 characters secret>`. It is found by its id and checked by
//! the SHA-256 of the whole text. The secret has 260 random bits, so no slow hash is needed. It is
//! shown once and never stored.

use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// Digits and lower-case letters without i, l, o and u (Crockford's base32).
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ID_LENGTH: usize = 12;
const SECRET_LENGTH: usize = 52;

/// An API key in plain text.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// Its public part, which is stored and listed.
    pub id: String,
    /// The whole key, not only its secret part.
    secret: SecretString,
}

impl ApiKey {
    /// Creates a random key.
    pub fn generate() -> Self {
        let id = random_text(ID_LENGTH);
        let secret = SecretString::from(format!("pk_{id}_{}", random_text(SECRET_LENGTH)));
        Self { id, secret }
    }

    /// Parses a key. Returns `None` if the text does not have the form of a key.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix("pk_")?.split_once('_')?;
        let well_formed = |part: &str, length| {
            part.len() == length && part.bytes().all(|byte| ALPHABET.contains(&byte))
        };
        (well_formed(id, ID_LENGTH) && well_formed(secret, SECRET_LENGTH)).then(|| Self {
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
    fn text_of_another_form_is_not_a_key() {
        let key = ApiKey::generate();
        let short = &key.expose()[..key.expose().len() - 1];
        for bad in [
            "",
            "pk_",
            "pk_a_b",
            short,
            &key.expose().to_uppercase(),
            &key.expose().replace("pk_", "sk_"),
        ] {
            assert!(ApiKey::parse(bad).is_none(), "{bad}");
        }
    }
}
