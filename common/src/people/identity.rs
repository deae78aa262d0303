//! Identities: who signed in, as a token of an identity provider says.
//!
//! Two kinds of provider are verified. [`firebase`] reads ID tokens of Firebase Authentication, which
//! a browser or an app brings with it. [`oidc`] signs a member of an organisation in at the
//! organisation's own provider (`OpenID` Connect), by redirect and code.
//!
//! Nothing here knows people, tenants or sessions, and nothing asks Postgres or Redis. The result is
//! an [`Identity`]. Whether a person has this identity is the caller's question.
//!
//! To read on: `token` reads a token and verifies its signature, `claims` has the rules about what a
//! token says, `cached` keeps keys for as long as their provider allows.

mod cached;
mod claims;
pub mod firebase;
pub mod http;
mod key_set;
pub mod oidc;
mod token;

use std::fmt;

use time::OffsetDateTime;

pub use cached::{CacheTiming, Unavailable};

/// What a verified token says about the person who signed in. Personal data: `Debug` prints none.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The provider: the `iss` of the token. A subject is unique within its issuer only.
    pub issuer: String,
    /// The provider's own id of the person, 1 to 255 bytes. It never changes, unlike the address.
    pub subject: String,
    /// The e-mail address, if the provider gave one.
    pub email: Option<String>,
    /// Whether the provider has verified the address. Identities are linked by verified addresses
    /// only.
    pub email_is_verified: bool,
    /// The name to show.
    pub name: Option<String>,
    /// The `https` address of a portrait.
    pub picture: Option<String>,
    /// How the person signed in at Firebase, such as `password`, `google.com` or `anonymous`.
    pub sign_in_provider: Option<String>,
    /// When the person signed in at the provider; when the token was issued, if it does not say so.
    pub authenticated_at: OffsetDateTime,
    /// When the token was issued.
    pub issued_at: OffsetDateTime,
    /// When the token expires.
    pub expires_at: OffsetDateTime,
}

impl Identity {
    /// The e-mail address, if the provider has verified it.
    pub fn verified_email(&self) -> Option<&str> {
        self.email.as_deref().filter(|_| self.email_is_verified)
    }

    /// Whether the sign-in came before `tokens_valid_after`, so that the token is revoked. Tokens
    /// count whole seconds, so a sign-in within the second of the revocation still counts.
    pub fn is_revoked(&self, tokens_valid_after: OffsetDateTime) -> bool {
        self.authenticated_at.unix_timestamp() < tokens_valid_after.unix_timestamp()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Identity")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

/// Why no identity is known.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The token is not accepted. The caller answers 401.
    #[error("the token is not accepted: {0}")]
    Refused(#[from] Refusal),
    /// The provider's keys are not known now, so the token can be neither accepted nor refused. The
    /// caller answers 503.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The rule that a token breaks. The names are for logs and counters. A client learns only that its
/// token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum Refusal {
    /// It is longer than any provider's token.
    #[error("it is too long")]
    TooLong,
    /// It is not three parts of base64 with JSON in them, a claim has the wrong type, or a name
    /// occurs twice.
    #[error("it is not a JSON Web Token")]
    Malformed,
    /// `typ` names another kind of token, such as an access token.
    #[error("it is a token of another kind")]
    Kind,
    /// `crit` lists extensions, and none is known here.
    #[error("it has an extension that is not known")]
    CriticalHeader,
    /// `alg` is not one that this provider signs with. `none` and HMAC never are.
    #[error("its algorithm is not accepted")]
    Algorithm,
    /// It does not name its key.
    #[error("it does not name its key")]
    KeyId,
    /// The provider has no such key.
    #[error("its key is not known")]
    UnknownKey,
    /// The signature is not made with the key that it names.
    #[error("its signature is wrong")]
    Signature,
    /// `iss` is another provider, or missing.
    #[error("it was issued by another provider")]
    Issuer,
    /// `aud` is somebody else, or missing.
    #[error("it was issued for somebody else")]
    Audience,
    /// `azp` is somebody else, or missing beside several audiences.
    #[error("it was issued to somebody else")]
    AuthorizedParty,
    /// `sub` is missing, empty or too long.
    #[error("its subject is not valid")]
    Subject,
    /// `exp` is missing or past.
    #[error("it has expired")]
    Expiry,
    /// `iat` is missing or in the future.
    #[error("it was issued in the future")]
    IssuedAt,
    /// `nbf` is in the future.
    #[error("it is not valid yet")]
    NotBefore,
    /// `auth_time` is in the future, or missing where the provider always sends it.
    #[error("its time of sign-in is not valid")]
    AuthTime,
    /// It belongs to another tenant of Firebase.
    #[error("it belongs to another tenant of the provider")]
    FirebaseTenant,
    /// `nonce` is not the one of this sign-in.
    #[error("it belongs to another sign-in")]
    Nonce,
    /// `at_hash` is not the hash of the access token that came with it.
    #[error("it does not belong to the access token")]
    AccessTokenHash,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            issuer: "https://issuer.example".to_owned(),
            subject: "ada".to_owned(),
            email: Some("ada@example.com".to_owned()),
            email_is_verified: false,
            name: None,
            picture: None,
            sign_in_provider: None,
            authenticated_at: OffsetDateTime::from_unix_timestamp(1_000).unwrap(),
            issued_at: OffsetDateTime::from_unix_timestamp(1_500).unwrap(),
            expires_at: OffsetDateTime::from_unix_timestamp(5_000).unwrap(),
        }
    }

    #[test]
    fn an_address_counts_only_when_it_is_verified() {
        let mut identity = identity();
        assert_eq!(identity.verified_email(), None);
        identity.email_is_verified = true;
        assert_eq!(identity.verified_email(), Some("ada@example.com"));
    }

    #[test]
    fn a_sign_in_before_the_revocation_is_revoked() {
        let at = |seconds: f64| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds_f64(seconds);
        assert!(!identity().is_revoked(at(999.0)));
        assert!(!identity().is_revoked(at(1_000.9)));
        assert!(identity().is_revoked(at(1_001.0)));
    }

    #[test]
    fn debug_prints_nothing_personal() {
        let text = format!("{:?}", identity());
        assert!(!text.contains("ada"), "{text}");
    }
}
