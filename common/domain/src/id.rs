//! Ids: a `UUIDv7` in the database, a prefix and 26 characters of Crockford base32 for people (`job_01jd…`).
//!
//! Time-ordered, so that a list sorted by id is sorted by age. The wrong prefix is refused, so that an
//! artifact's id pasted where a job's belongs says so instead of finding nothing. They are written in small letters and read in
//! any.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use uuid::Uuid;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LENGTH: usize = 26;

/// An id that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an id like `{prefix}_` followed by {LENGTH} characters of 0-9 and a-z")]
pub struct InvalidId {
    prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(transparent))]
        pub struct $name(pub Uuid);

        impl $name {
            /// What the id begins with, without the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// What it looks like, for `/openapi.json`: in letters of any size.
            pub fn schema() -> Schema {
                written($prefix)
            }

            /// A new id, later than all before it.
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}_{}", $prefix, encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                // People and programs write them in capitals too.
                text.to_ascii_lowercase()
                    .strip_prefix(concat!($prefix, "_"))
                    .and_then(decode)
                    .map(Self)
                    .ok_or(InvalidId { prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(/// Who owns jobs and credits.
    TenantId, "ten");
id!(/// What is billed and ends once.
    JobId, "job");
id!(/// One paid request to a provider.
    CallId, "cal");
id!(/// A file we made.
    ArtifactId, "art");
id!(/// A picture a tenant keeps with us.
    UploadId, "upl");
id!(/// A lot of credits.
    GrantId, "gra");
id!(/// One HTTP request, named in every answer and log line.
    RequestId, "req");

fn written(prefix: &str) -> Schema {
    let letters: String = prefix
        .chars()
        .flat_map(|letter| ['[', letter, letter.to_ascii_uppercase(), ']'])
        .collect();
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(format!(
            "^{letters}_[0-7][0-9a-hjkmnp-tv-zA-HJKMNP-TV-Z]{{25}}$"
        )))
        .into()
}

/// 128 bits as 26 characters, most significant first; the first character carries three bits.
fn encode(uuid: Uuid) -> String {
    let bits = uuid.as_u128();
    (0..LENGTH)
        .map(|i| {
            let shift = 5 * (LENGTH - 1 - i);
            char::from(ALPHABET[usize::try_from((bits >> shift) & 31).expect("five bits")])
        })
        .collect()
}

fn decode(text: &str) -> Option<Uuid> {
    if text.len() != LENGTH || text.as_bytes()[0] > b'7' {
        return None;
    }
    let bits = text.bytes().try_fold(0_u128, |bits, byte| {
        let digit = ALPHABET.iter().position(|&letter| letter == byte)?;
        Some((bits << 5) | digit as u128)
    })?;
    Some(Uuid::from_u128(bits))
}

impl TenantId {
    /// What stands for the tenant where its id must not: 16 hexadecimal digits of the SHA-256 of the id's 16 bytes.
    pub fn pseudonym(self) -> String {
        let digest = Sha256::digest(self.0.as_bytes());
        hex::encode(digest.get(..8).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_the_round_trip() {
        for bits in [0, 1, 31, 32, u128::MAX, Uuid::now_v7().as_u128()] {
            let id = JobId(Uuid::from_u128(bits));
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn capitals_mean_the_same_id() {
        let id = JobId::new();
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn ids_sort_by_age() {
        let ids: Vec<JobId> = (0..100).map(|_| JobId::new()).collect();
        let texts: Vec<String> = ids.iter().map(JobId::to_string).collect();
        assert!(ids.is_sorted() && texts.is_sorted());
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let good = JobId::new().to_string();
        let wrong_kind = good.replace("job_", "art_");
        for bad in [
            "",
            "job_",
            &good[..29],
            &format!("{good}0"),
            &wrong_kind,
            "job_zzzzzzzzzzzzzzzzzzzzzzzzzz",
        ] {
            assert!(bad.parse::<JobId>().is_err(), "{bad}");
        }
    }
}
