//! Ids. In the database they are `UUIDv7`. Everywhere else they are
//! [TypeIDs](https://github.com/jetify-com/typeid/tree/main/spec): a prefix, an underscore and 26
//! characters of [Crockford's base32](https://www.crockford.com/base32.html), such as `job_01jd…`.
//!
//! Ids contain their time of creation, so a list sorted by id is sorted by age. An id with another
//! prefix is rejected: if the id of an artifact is used for a job, the error says so, and not "not
//! found". Ids are written in lower case, as the specification demands, and read in either case,
//! which it does not allow.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use uuid::Uuid;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of an id without its prefix: 128 bits with five bits each.
const LENGTH: usize = 26;

/// A text is not an id of the expected type.
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
        pub struct $name(
            /// The UUID in the database.
            pub Uuid,
        );

        impl $name {
            /// The prefix, without the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// The OpenAPI schema: a pattern that accepts upper and lower case.
            pub fn schema() -> Schema {
                id_schema($prefix)
            }

            /// A new id. It sorts after every id that this process has made before.
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
                parse($prefix, text).map(Self)
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

id!(/// Id of a tenant: who owns jobs and credits.
    TenantId, "ten");
id!(/// Id of a job: what is billed and ends once.
    JobId, "job");
id!(/// Id of a call: one paid request to a provider.
    CallId, "cal");
id!(/// Id of an artifact: a file that we made.
    ArtifactId, "art");
id!(/// Id of an upload: a file that the tenant sent.
    UploadId, "upl");
id!(/// Id of a grant: credits that were given or bought.
    GrantId, "gra");
id!(/// Id of an HTTP request. It is in the answer and in every log line of the request.
    RequestId, "req");

/// Schema of an id with this prefix.
fn id_schema(prefix: &str) -> Schema {
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

/// The UUID of an id with this prefix.
fn parse(prefix: &'static str, text: &str) -> Result<Uuid, InvalidId> {
    // Some programs turn ids into upper case, and so do people who read them aloud.
    text.to_ascii_lowercase()
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('_'))
        .and_then(decode)
        .ok_or(InvalidId { prefix })
}

/// 128 bits as 26 characters, the most significant first. The first character carries three bits,
/// the others five.
fn encode(uuid: Uuid) -> String {
    let bits = uuid.as_u128();
    (0..LENGTH)
        .map(|i| {
            let shift = 5 * (LENGTH - 1 - i);
            char::from(ALPHABET[usize::try_from((bits >> shift) & 31).expect("five bits")])
        })
        .collect()
}

/// The inverse of [`encode`]. `None` if the text has another length or character, or more than 128
/// bits.
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
    /// A pseudonym for places that must not contain the tenant's id, such as Redis: the first 16
    /// hexadecimal digits of the SHA-256 of the id's 16 bytes. SQL computes the same text in the
    /// statement `job::claim`.
    pub fn pseudonym(self) -> String {
        let digest = Sha256::digest(self.0.as_bytes());
        hex::encode(digest.get(..8).unwrap_or_default())
    }
}

impl JobId {
    /// The smallest id that can be made at this time.
    pub fn first_at(at: OffsetDateTime) -> Self {
        const LAST_MILLISECOND: u64 = (1 << 48) - 1;
        let milliseconds = at.unix_timestamp_nanos().max(0) / 1_000_000;
        let milliseconds = u64::try_from(milliseconds).unwrap_or(LAST_MILLISECOND);
        Self(Uuid::from_u128(
            u128::from(milliseconds.min(LAST_MILLISECOND)) << 80,
        ))
    }
}

#[cfg(test)]
mod typeid_tests;

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
    fn upper_case_is_the_same_id() {
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
    fn ids_contain_the_time_of_their_creation() {
        let id = JobId::new();
        let (seconds, _) = id.0.get_timestamp().unwrap().to_unix();
        let at = OffsetDateTime::from_unix_timestamp(seconds.try_into().unwrap()).unwrap();
        assert!(JobId::first_at(at) <= id);
        assert!(id < JobId::first_at(at + time::Duration::MINUTE));
        let ends = [time::PrimitiveDateTime::MIN, time::PrimitiveDateTime::MAX];
        let [first, last] = ends.map(|end| JobId::first_at(end.assume_utc()));
        assert!(first < id && id < last);
    }

    #[test]
    fn malformed_ids_are_rejected() {
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
