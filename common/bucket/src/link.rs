//! Links to our own api, signed with HMAC-SHA256.
//!
//! Two keys may be active: links are signed with the current key, and links that the previous key
//! has signed are still accepted. So a key can be changed without breaking the links that clients
//! have.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use std::ops::RangeInclusive;

/// How far the clock of the process that signs may be ahead of the clock of the process that
/// checks.
const MAX_CLOCK_SKEW: Duration = Duration::from_mins(5);
/// How many hex digits a key's id has.
const KEY_ID_LENGTH: usize = 8;

/// The keys that sign links.
#[derive(Clone)]
pub struct SigningKeys {
    /// Signs new links.
    current: SecretString,
    /// Signs no new links, but its links are still accepted.
    previous: Option<SecretString>,
}

/// Why a link does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLink {
    /// The link has expired.
    #[error("this link has expired: ask for a new one")]
    Expired,
    /// The link expires later than any link may. The clock of the process that signed it was wrong.
    #[error("this link works for longer than any link may: ask for a new one")]
    TooLong,
    /// The signature was not made with an active key.
    #[error("this link is not one of ours, or the key that signed it is no longer in use")]
    Forged,
}

/// The parameters of a link, besides the object's key.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// The name under which a browser saves the file; `None` in links of older versions, which had
    /// no file names.
    pub file_name: Option<&'a str>,
    /// When the link expires, in seconds since 1970.
    pub expires: i64,
    /// The id of the key that signed the link; `None` in links of older versions, which had no key
    /// ids.
    pub key_id: Option<&'a str>,
    /// The signature in hex.
    pub signature: &'a str,
}

impl From<SecretString> for SigningKeys {
    fn from(current: SecretString) -> Self {
        Self {
            current,
            previous: None,
        }
    }
}

impl SigningKeys {
    /// Also accepts links that the previous key has signed.
    #[must_use]
    pub fn and_previous(mut self, previous: Option<SecretString>) -> Self {
        self.previous = previous;
        self
    }

    /// Path and query of a link to an object that works for `lifetime` from `now` on.
    pub(super) fn link(
        &self,
        object: &str,
        file_name: &str,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> String {
        let expires = (now + lifetime).unix_timestamp();
        let signature = mac(&self.current, object, Some(file_name), expires).finalize();
        let signature = hex::encode(signature.into_bytes());
        let id = id(&self.current);
        let name = utf8_percent_encode(file_name, NON_ALPHANUMERIC);
        format!("/files/{object}?expires={expires}&name={name}&kid={id}&signature={signature}")
    }

    /// Checks a link to this object.
    ///
    /// # Errors
    /// Returns an error if the link is forged, has expired, or works for longer than any link may.
    pub(super) fn check(
        &self,
        object: &str,
        signed: Signed<'_>,
        now: OffsetDateTime,
    ) -> Result<(), BadLink> {
        let Signed {
            file_name,
            expires,
            key_id,
            signature,
        } = signed;
        let signature = hex::decode(signature).map_err(|_| BadLink::Forged)?;
        let mut active = [Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .filter(|key| key_id.is_none_or(|named| named == id(key)));
        // `verify_slice` compares in constant time.
        let is_ours = active.any(|key| {
            mac(key, object, file_name, expires)
                .verify_slice(&signature)
                .is_ok()
        });
        let latest = now + *LINK_LIFETIMES.end() + MAX_CLOCK_SKEW;
        if !is_ours {
            Err(BadLink::Forged)
        } else if expires <= now.unix_timestamp() {
            Err(BadLink::Expired)
        } else if expires > latest.unix_timestamp() {
            Err(BadLink::TooLong)
        } else {
            Ok(())
        }
    }
}

/// The id of a key: the first digits of its hash. It identifies the key and does not reveal it.
fn id(key: &SecretString) -> String {
    let mut id = hex::encode(Sha256::digest(key.expose_secret()));
    id.truncate(KEY_ID_LENGTH);
    id
}

/// The signature of a link. `GET` separates it from other texts that are signed with the same key.
fn mac(key: &SecretString, object: &str, file_name: Option<&str>, expires: i64) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose_secret().as_bytes())
        .expect("any length is a key");
    mac.update(format!("GET\n{object}\n{expires}").as_bytes());
    if let Some(name) = file_name {
        mac.update(format!("\n{name}").as_bytes());
    }
    mac
}

/// The shortest and the longest time for which a link may work.
pub const LINK_LIFETIMES: RangeInclusive<Duration> =
    Duration::from_mins(1)..=Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const LIFETIME: Duration = Duration::from_mins(15);
    const NOW: OffsetDateTime = datetime!(2026-11-22 12:00 UTC);
    const KEY: &str = "t/1/a.png";

    fn keys(current: &str, previous: Option<&str>) -> SigningKeys {
        SigningKeys::from(SecretString::from(current))
            .and_previous(previous.map(SecretString::from))
    }

    /// A parameter of the link.
    fn part<'a>(link: &'a str, name: &str) -> &'a str {
        let (_, rest) = link.split_once(&format!("{name}=")).unwrap();
        rest.split('&').next().unwrap()
    }

    fn signed(link: &str) -> Signed<'_> {
        Signed {
            file_name: Some("a"),
            expires: part(link, "expires").parse().unwrap(),
            key_id: Some(part(link, "kid")),
            signature: part(link, "signature"),
        }
    }

    #[test]
    fn links_expire_and_cannot_be_altered() {
        let keys = keys("key", None);
        let link = keys.link(KEY, "a", NOW, LIFETIME);
        let good = signed(&link);
        assert_eq!(keys.check(KEY, good, NOW), Ok(()));
        let later = NOW + LIFETIME;
        assert_eq!(keys.check(KEY, good, later), Err(BadLink::Expired));
        assert_eq!(keys.check("t/1/b.png", good, NOW), Err(BadLink::Forged));
        let expires = good.expires + 1;
        for altered in [
            Signed { expires, ..good },
            Signed {
                signature: "zz",
                ..good
            },
            Signed {
                file_name: None,
                ..good
            },
            Signed {
                file_name: Some("b.exe"),
                ..good
            },
            Signed {
                key_id: Some("00000000"),
                ..good
            },
        ] {
            assert_eq!(
                keys.check(KEY, altered, NOW),
                Err(BadLink::Forged),
                "{altered:?}"
            );
        }
        // A link of a version without key ids.
        let without = Signed {
            key_id: None,
            ..good
        };
        assert_eq!(keys.check(KEY, without, NOW), Ok(()));
    }

    #[test]
    fn links_signed_by_a_clock_years_ahead_do_not_work() {
        let keys = keys("key", None);
        let longest = *LINK_LIFETIMES.end();
        let wrong = NOW + Duration::from_hours(24 * 365 * 30);
        let link = keys.link(KEY, "a", wrong, LIFETIME);
        assert_eq!(keys.check(KEY, signed(&link), NOW), Err(BadLink::TooLong));
        let link = keys.link(KEY, "a", NOW + MAX_CLOCK_SKEW, longest);
        assert_eq!(keys.check(KEY, signed(&link), NOW), Ok(()));
        let a_moment = MAX_CLOCK_SKEW + Duration::from_secs(1);
        let link = keys.link(KEY, "a", NOW + a_moment, longest);
        assert_eq!(keys.check(KEY, signed(&link), NOW), Err(BadLink::TooLong));
    }

    #[test]
    fn links_of_the_previous_key_still_work() {
        let link = keys("old", None).link(KEY, "a", NOW, LIFETIME);
        let old = signed(&link);
        let without_id = Signed {
            key_id: None,
            ..old
        };
        for given in [old, without_id] {
            assert_eq!(keys("new", Some("old")).check(KEY, given, NOW), Ok(()));
            assert_eq!(
                keys("new", None).check(KEY, given, NOW),
                Err(BadLink::Forged)
            );
        }
        let fresh = keys("new", Some("old")).link(KEY, "a", NOW, LIFETIME);
        assert_eq!(keys("new", None).check(KEY, signed(&fresh), NOW), Ok(()));
        assert_eq!(signed(&fresh).key_id, Some(&*id(&"new".into())));
    }
}
