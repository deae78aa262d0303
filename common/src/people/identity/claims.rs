//! The rules about what a token says: the claims that all providers have in common.

use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;
use url::Url;

use super::{Identity, Refusal};

/// How far the clocks of a provider and of ours may differ, in seconds.
const SKEW_SECONDS: i64 = 60;

/// Claims of an ID token (`OpenID` Connect Core 1.0, 2). A claim that occurs twice is an error.
#[derive(Default, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: Option<String>,
    pub(super) aud: Option<Audience>,
    pub(super) azp: Option<String>,
    pub(super) sub: Option<String>,
    pub(super) exp: Option<i64>,
    pub(super) iat: Option<i64>,
    pub(super) nbf: Option<i64>,
    pub(super) auth_time: Option<i64>,
    pub(super) nonce: Option<String>,
    pub(super) at_hash: Option<String>,
    pub(super) email: Option<String>,
    #[serde(default, deserialize_with = "flag")]
    pub(super) email_verified: bool,
    pub(super) name: Option<String>,
    pub(super) picture: Option<String>,
}

/// Whom a token is for.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Claims {
    /// Checks the issuer.
    ///
    /// # Errors
    /// Returns an error if it is another one, or missing.
    pub(super) fn check_issuer(&self, issuer: &str) -> Result<(), Refusal> {
        match &self.iss {
            Some(iss) if iss == issuer => Ok(()),
            _ => Err(Refusal::Issuer),
        }
    }

    /// Checks the times, by the clock of this process.
    ///
    /// # Errors
    /// Returns an error if the token has expired or comes from the future by more than the skew, or
    /// if it does not say when it was issued and when it expires.
    pub(super) fn check_times(&self, now: OffsetDateTime) -> Result<(), Refusal> {
        let now = now.unix_timestamp();
        let latest = now + SKEW_SECONDS;
        if self.exp.is_none_or(|exp| exp <= now - SKEW_SECONDS) {
            return Err(Refusal::Expiry);
        }
        if self.iat.is_none_or(|iat| iat > latest) {
            return Err(Refusal::IssuedAt);
        }
        if self.nbf.is_some_and(|nbf| nbf > latest) {
            return Err(Refusal::NotBefore);
        }
        if self.auth_time.is_some_and(|time| time > latest) {
            return Err(Refusal::AuthTime);
        }
        Ok(())
    }

    /// The identity, once all claims are checked.
    ///
    /// # Errors
    /// Returns an error if the subject is missing, empty or longer than `max_subject_bytes`, or if
    /// a time does not exist.
    pub(super) fn into_identity(self, max_subject_bytes: usize) -> Result<Identity, Refusal> {
        let subject = (self.sub)
            .filter(|sub| (1..=max_subject_bytes).contains(&sub.len()))
            .ok_or(Refusal::Subject)?;
        let time = |seconds: Option<i64>, refusal| {
            let time = OffsetDateTime::from_unix_timestamp(seconds.ok_or(refusal)?);
            time.map_err(|_| refusal)
        };
        let issued_at = time(self.iat, Refusal::IssuedAt)?;
        let authenticated_at = match self.auth_time {
            None => issued_at,
            some => time(some, Refusal::AuthTime)?,
        };
        Ok(Identity {
            issuer: self.iss.unwrap_or_default(),
            subject,
            email: self.email.filter(|email| !email.is_empty()),
            email_is_verified: self.email_verified,
            name: self.name.filter(|name| !name.trim().is_empty()),
            picture: self.picture.filter(|picture| is_https(picture)),
            sign_in_provider: None,
            authenticated_at,
            issued_at,
            expires_at: time(self.exp, Refusal::Expiry)?,
        })
    }
}

fn is_https(address: &str) -> bool {
    Url::parse(address).is_ok_and(|url| url.scheme() == "https")
}

/// Reads a flag. Some providers write it as text. Everything but `true` means no.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value == true || value == "true")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(NOW).unwrap()
    }

    /// Good claims with these changes; `null` removes a claim.
    fn claims(changes: &Value) -> Claims {
        let mut claims =
            json!({"iss": "https://issuer.example", "sub": "ada", "iat": NOW, "exp": NOW + 3_600});
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
            .as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        serde_json::from_value(claims).unwrap()
    }

    #[test]
    fn clocks_may_differ_by_a_minute() {
        let cases = [
            (json!({}), Ok(())),
            (json!({"exp": NOW - 59}), Ok(())),
            (json!({"exp": NOW - 60}), Err(Refusal::Expiry)),
            (json!({"exp": null}), Err(Refusal::Expiry)),
            (json!({"exp": i64::MIN}), Err(Refusal::Expiry)),
            (json!({"iat": NOW + 60}), Ok(())),
            (json!({"iat": NOW + 61}), Err(Refusal::IssuedAt)),
            (json!({"iat": null}), Err(Refusal::IssuedAt)),
            (json!({"iat": i64::MAX}), Err(Refusal::IssuedAt)),
            (json!({"nbf": NOW + 60}), Ok(())),
            (json!({"nbf": NOW + 61}), Err(Refusal::NotBefore)),
            (json!({"auth_time": NOW + 60}), Ok(())),
            (json!({"auth_time": NOW + 61}), Err(Refusal::AuthTime)),
        ];
        for (changes, expected) in cases {
            assert_eq!(claims(&changes).check_times(now()), expected, "{changes}");
        }
    }

    #[test]
    fn a_time_that_does_not_exist_is_refused() {
        for (changes, expected) in [
            (json!({"exp": i64::MAX}), Refusal::Expiry),
            (json!({"iat": i64::MIN}), Refusal::IssuedAt),
            (json!({"auth_time": i64::MIN}), Refusal::AuthTime),
        ] {
            let claims = claims(&changes);
            assert_eq!(claims.check_times(now()), Ok(()), "{changes}");
            assert_eq!(
                claims.into_identity(128).unwrap_err(),
                expected,
                "{changes}"
            );
        }
    }

    #[test]
    fn an_address_is_verified_only_by_true() {
        for (value, expected) in [
            (json!(true), true),
            (json!("true"), true),
            (json!(false), false),
            (json!("false"), false),
            (json!(1), false),
            (json!("yes"), false),
            (json!(["true"]), false),
            (json!(null), false),
        ] {
            let claims = claims(&json!({"email_verified": value}));
            assert_eq!(claims.email_verified, expected, "{value}");
        }
    }

    #[test]
    fn a_portrait_has_an_https_address() {
        for (picture, is_kept) in [
            ("https://img.example/ada.png", true),
            ("http://img.example/ada.png", false),
            ("javascript:alert(1)", false),
            ("data:text/html,hello", false),
            ("no address", false),
        ] {
            let identity = claims(&json!({"picture": picture})).into_identity(128);
            assert_eq!(identity.unwrap().picture.is_some(), is_kept, "{picture}");
        }
    }
}
