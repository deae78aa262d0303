//! A tenant and the keys it calls with.
//!
//! A key reads `pk_<12 characters id>_<52 characters secret>`: found by its id, proven by the SHA-256 of the whole.
//! The secret is 256 random bits, so no slow hash is needed; it is shown once and never stored.

use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ID_LENGTH: usize = 12;
const SECRET_LENGTH: usize = 52;

/// An API key in the clear.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// Its public part.
    pub id: String,
    secret: SecretString,
}

impl ApiKey {
    /// A new key. Shown to its owner once.
    pub fn generate() -> Self {
        let id = random_text(ID_LENGTH);
        let secret = SecretString::from(format!("pk_{id}_{}", random_text(SECRET_LENGTH)));
        Self { id, secret }
    }

    /// `None` when the text cannot be a key at all.
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

    /// What is stored of it.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.secret.expose_secret()).into()
    }

    /// The key itself, to show it to its owner.
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
    fn a_key_is_parsed_back_and_hides_itself() {
        let key = ApiKey::generate();
        assert_eq!(ApiKey::parse(key.expose()).unwrap().sha256(), key.sha256());
        assert!(!format!("{key:?}").contains(key.expose()));
    }

    #[test]
    fn what_cannot_be_a_key_is_refused() {
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
