//! Encryption of single values in the database, with master keys that the database does not hold.
//!
//! `PLATEN_MASTER_KEYS` names the keys: the first one encrypts, and all of them decrypt. So a key is
//! changed by putting a new one in front, and the old one stays until no value needs it.
//!
//! An encrypted value is a text: `v1.<id of the key>.<nonce>.<ciphertext>`, the last two in base64url.
//! It is bound to its place ([`Place`]): a value that somebody copies to another row does not open.
//! [`links`] derives the secrets of mailed links from the same keys.

pub mod links;
mod parse;

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::SecretSlice;
use sha2::Sha256;

/// The format of encrypted values.
const VERSION: &str = "v1";

/// The master keys, newest first. `Debug` shows their ids only.
#[derive(Clone, Debug)]
pub struct MasterKeys(Arc<[MasterKey]>);

/// What is derived from one master key. The key itself is not kept.
struct MasterKey {
    id: String,
    encryption: LessSafeKey,
    links: Hmac<Sha256>,
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.id)
    }
}

/// Where an encrypted value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The table.
    pub table: &'a str,
    /// The column.
    pub column: &'a str,
    /// The row's id, as text.
    pub row: &'a str,
}

/// Why a value cannot be encrypted or decrypted. The texts are for operators.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The value is not one that we encrypted.
    #[error("{place} is not an encrypted value of a known form")]
    Malformed {
        /// Table, column and row.
        place: String,
    },
    /// The key is not among the master keys.
    #[error(
        "{place} is encrypted with the master key {key:?}, which PLATEN_MASTER_KEYS does not contain: put it back, after the newest key"
    )]
    UnknownKey {
        /// Table, column and row.
        place: String,
        /// The id of the key.
        key: String,
    },
    /// The value was changed, or belongs to another place, or a key of the same id was another one.
    #[error(
        "{place} cannot be decrypted with the master key {key:?}: the value was changed or copied from another row, or PLATEN_MASTER_KEYS has another key under this id"
    )]
    Refused {
        /// Table, column and row.
        place: String,
        /// The id of the key.
        key: String,
    },
    /// The system gives no random numbers.
    #[error("the system gave no random numbers")]
    NoRandomness,
}

impl MasterKeys {
    /// The ids of the keys; the first one encrypts.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| key.id.as_str())
    }

    /// Encrypts a value for its place, with the newest key. The result is about 60 characters longer
    /// than the value in base64.
    ///
    /// One key may encrypt up to 2^32 values: nonces are random.
    ///
    /// # Errors
    /// Returns an error if the system gives no random numbers.
    pub fn encrypt(&self, place: Place<'_>, value: &[u8]) -> Result<String, KeyError> {
        let key = self.newest();
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| KeyError::NoRandomness)?;
        let mut ciphertext = value.to_vec();
        key.encryption
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                place.associated_data(&key.id),
                &mut ciphertext,
            )
            .map_err(|_| KeyError::NoRandomness)?;
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        Ok(format!(
            "{VERSION}.{}.{}.{}",
            key.id,
            encode(&nonce),
            encode(&ciphertext)
        ))
    }

    /// Decrypts the value that is stored at a place.
    ///
    /// # Errors
    /// Returns an error if the key is missing, or if the value was changed or belongs elsewhere.
    pub fn decrypt(&self, place: Place<'_>, stored: &str) -> Result<SecretSlice<u8>, KeyError> {
        let malformed = || KeyError::Malformed {
            place: place.to_string(),
        };
        let Envelope { key: id, rest } = Envelope::read(stored).ok_or_else(malformed)?;
        let (nonce, ciphertext) = rest.split_once('.').ok_or_else(malformed)?;
        let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed());
        let nonce: [u8; NONCE_LEN] = decode(nonce)?.try_into().map_err(|_| malformed())?;
        let mut value = decode(ciphertext)?;
        let known = self.0.iter().find(|key| key.id == id);
        let key = known.ok_or_else(|| KeyError::UnknownKey {
            place: place.to_string(),
            key: id.to_owned(),
        })?;
        let length = key
            .encryption
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                place.associated_data(id),
                &mut value,
            )
            .map_err(|_| KeyError::Refused {
                place: place.to_string(),
                key: id.to_owned(),
            })?
            .len();
        value.truncate(length);
        Ok(value.into())
    }

    /// Whether a stored value is encrypted with the newest key. If it is not, it should be encrypted
    /// anew, so that the old key can be removed.
    pub fn is_newest(&self, stored: &str) -> bool {
        Envelope::read(stored).is_some_and(|envelope| envelope.key == self.newest().id)
    }

    fn newest(&self) -> &MasterKey {
        self.0.first().expect("there is at least one master key")
    }
}

/// The parts of an encrypted value that are read first.
struct Envelope<'a> {
    key: &'a str,
    rest: &'a str,
}

impl<'a> Envelope<'a> {
    fn read(stored: &'a str) -> Option<Self> {
        let (key, rest) = stored
            .strip_prefix(VERSION)?
            .strip_prefix('.')?
            .split_once('.')?;
        Some(Self { key, rest })
    }
}

impl MasterKey {
    /// Derives one key for each use, so that what one use reveals tells nothing about the other.
    fn derive(id: &str, key: &[u8; 32]) -> Self {
        let derive = |purpose: &str| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any length");
            mac.update(purpose.as_bytes());
            mac.finalize().into_bytes()
        };
        let encryption = UnboundKey::new(&AES_256_GCM, &derive("platen: encryption, version 1"))
            .expect("AES-256 takes 32 bytes");
        let links = derive("platen: mailed links, version 1");
        Self {
            id: id.to_owned(),
            encryption: LessSafeKey::new(encryption),
            links: Hmac::new_from_slice(&links).expect("HMAC takes any length"),
        }
    }
}

impl Place<'_> {
    /// Authenticated with the value, and not stored: each part with its length before it, so that no
    /// two places have the same bytes.
    fn associated_data(&self, key: &str) -> Aad<Vec<u8>> {
        let mut data = Vec::new();
        for part in [VERSION, key, self.table, self.column, self.row] {
            data.extend_from_slice(&(part.len() as u64).to_be_bytes());
            data.extend_from_slice(part.as_bytes());
        }
        Aad::from(data)
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{} of {}", self.table, self.column, self.row)
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    const PLACE: Place<'static> = Place {
        table: "endpoints",
        column: "secret",
        row: "1",
    };

    fn keys(text: &str) -> MasterKeys {
        text.parse().unwrap()
    }

    fn old() -> String {
        format!("old:{}", "0a0b".repeat(16))
    }

    fn new() -> String {
        format!("new:{}", "0c0d".repeat(16))
    }

    #[test]
    fn a_value_opens_in_its_place_only() {
        let keys = keys(&old());
        let stored = keys.encrypt(PLACE, b"a secret").unwrap();
        assert!(stored.starts_with("v1.old."), "{stored}");
        assert_ne!(stored, keys.encrypt(PLACE, b"a secret").unwrap());
        assert_eq!(
            keys.decrypt(PLACE, &stored).unwrap().expose_secret(),
            b"a secret"
        );
        for place in [
            Place { row: "2", ..PLACE },
            Place {
                column: "secret2",
                ..PLACE
            },
            Place {
                table: "endpoint",
                column: "ssecret",
                ..PLACE
            },
        ] {
            let error = keys.decrypt(place, &stored).unwrap_err();
            assert!(matches!(error, KeyError::Refused { .. }), "{error}");
        }
    }

    #[test]
    fn no_changed_byte_is_accepted() {
        let keys = keys(&old());
        let stored = keys.encrypt(PLACE, b"a secret").unwrap();
        let mut refused = 0;
        for position in 0..stored.len() {
            for replacement in [b'A', b'B', b'.', b'=', b' '] {
                let mut bytes = stored.clone().into_bytes();
                if bytes[position] == replacement {
                    continue;
                }
                bytes[position] = replacement;
                let changed = String::from_utf8(bytes).unwrap();
                let result = keys.decrypt(PLACE, &changed);
                assert!(result.is_err(), "{changed}");
                refused += 1;
            }
            assert!(keys.decrypt(PLACE, &stored[..position]).is_err());
        }
        assert!(refused > 200, "{refused}");
    }

    #[test]
    fn the_newest_key_encrypts_and_all_decrypt() {
        let before = keys(&old());
        let stored = before.encrypt(PLACE, b"kept").unwrap();
        let both = keys(&format!("{},{}", new(), old()));
        assert_eq!(both.ids().collect::<Vec<_>>(), ["new", "old"]);
        assert_eq!(
            both.decrypt(PLACE, &stored).unwrap().expose_secret(),
            b"kept"
        );
        assert!(before.is_newest(&stored) && !both.is_newest(&stored));
        let anew = both.encrypt(PLACE, b"kept").unwrap();
        assert!(both.is_newest(&anew));

        let error = keys(&new())
            .decrypt(PLACE, &stored)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "endpoints.secret of 1 is encrypted with the master key \"old\", which PLATEN_MASTER_KEYS does not contain: put it back, after the newest key"
        );
        let other_key_same_id = keys(&new().replace("new", "old"));
        let error = other_key_same_id.decrypt(PLACE, &stored).unwrap_err();
        assert!(matches!(error, KeyError::Refused { .. }), "{error}");
    }

    /// Values that were encrypted must stay readable: this one was made by another implementation
    /// (Python's `cryptography`).
    #[test]
    fn the_format_is_fixed() {
        let keys = keys(&old());
        let stored = "v1.old.AAECAwQFBgcICQoL.hx4IEzYiMeU9DRj6iLk_Np8kiPtBBPtKvxJG0l9S";
        assert_eq!(
            keys.decrypt(PLACE, stored).unwrap().expose_secret(),
            b"fixed for ever"
        );
    }

    #[test]
    fn nothing_secret_is_printed() {
        let keys = keys(&format!("{},{}", new(), old()));
        assert_eq!(format!("{keys:?}"), "MasterKeys([new, old])");
        let stored = keys.encrypt(PLACE, b"a secret").unwrap();
        let opened = keys.decrypt(PLACE, &stored).unwrap();
        assert!(!format!("{opened:?}").contains("97"), "{opened:?}");
    }
}
