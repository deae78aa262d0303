//! Links to our own api, signed by HMAC-SHA256. Two keys may be active at a time: one signs, and the one of before is accepted, so
//! that a key is changed without breaking the links that were given out.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use std::ops::RangeInclusive;

/// How much the clock of whoever signed may be ahead of that of whoever checks.
const MAX_CLOCK_SKEW: Duration = Duration::from_mins(5);
/// Hex digits of a key's id.
const KEY_ID_LENGTH: usize = 8;

/// The keys that links are signed with.
#[derive(Clone)]
pub struct SigningKeys {
    current: SecretString,
    /// Still accepted.
    previous: Option<SecretString>,
}

/// A link that is not, or no longer, good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLink {
    #[error("this link has expired: ask for a fresh one")]
    Expired,
    #[error("this link says that it works for longer than any link does: ask for a fresh one")]
    TooLong,
    #[error("this link is not one of ours, or the key that signed it is no longer in use")]
    Forged,
}

/// What stands in a link beside the object's key.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// What the file is called; links of before files were called something have no name.
    pub file_name: Option<&'a str>,
    /// Until when it works, in seconds since 1970.
    pub expires: i64,
    /// Which key signed it; links of before keys had an id have none.
    pub key_id: Option<&'a str>,
    /// In hex.
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
    /// Also accepts links that another key has signed.
    #[must_use]
    pub fn and_previous(mut self, previous: Option<SecretString>) -> Self {
        self.previous = previous;
        self
    }

    /// Path and query of a link to an object, good for `lifetime` from `now` on.
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

    /// Whether a link to this object is ours and still good.
    ///
    /// # Errors
    ///
    /// It is forged, has expired, or works for longer than any link may: then the clock of whoever signed it was wrong.
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
        let is_ours = active.any(|key| {
            mac(key, object, file_name, expires)
                .verify_slice(&signature)
                .is_ok()
        });
        let longest = now + *LINKS.end() + MAX_CLOCK_SKEW;
        if !is_ours {
            Err(BadLink::Forged)
        } else if expires <= now.unix_timestamp() {
            Err(BadLink::Expired)
        } else if expires > longest.unix_timestamp() {
            Err(BadLink::TooLong)
        } else {
            Ok(())
        }
    }
}

/// Tells keys apart, and nothing about them: the first digits of a hash.
fn id(key: &SecretString) -> String {
    let mut id = hex::encode(Sha256::digest(key.expose_secret()));
    id.truncate(KEY_ID_LENGTH);
    id
}

fn mac(key: &SecretString, object: &str, file_name: Option<&str>, expires: i64) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose_secret().as_bytes())
        .expect("any length is a key");
    mac.update(format!("GET\n{object}\n{expires}").as_bytes());
    if let Some(name) = file_name {
        mac.update(format!("\n{name}").as_bytes());
    }
    mac
}

/// How long a link may work.
pub const LINKS: RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(24);

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

    /// One of the link's parameters.
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
        // As before keys had an id.
        let without = Signed {
            key_id: None,
            ..good
        };
        assert_eq!(keys.check(KEY, without, NOW), Ok(()));
    }

    #[test]
    fn a_clock_that_is_years_off_hands_out_no_link_that_works() {
        let keys = keys("key", None);
        let longest = *LINKS.end();
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
    fn a_key_is_changed_without_breaking_the_links_that_were_given_out() {
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
