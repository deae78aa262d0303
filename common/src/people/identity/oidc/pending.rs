//! The secrets of one sign-in between its beginning and its end, and what the browser brings back.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

/// How long a person may take at the provider, in seconds.
const LIFETIME_SECONDS: i64 = 10 * 60;
/// The longest code that is passed on, in bytes.
const MAX_CODE_BYTES: usize = 4 << 10;
/// How much of a provider's error is repeated, in bytes.
const MAX_ERROR_BYTES: usize = 64;

/// A sign-in that has begun. Keep it secret, and where only the browser that began can bring it back:
/// whoever has it could make a victim's browser finish the attacker's sign-in.
#[derive(Clone, Deserialize, Serialize)]
pub struct PendingSignIn {
    issuer: String,
    state: String,
    nonce: String,
    code_verifier: String,
    /// In seconds since 1970.
    began_at: i64,
}

/// The query with which a provider sends the browser back.
#[derive(Clone, Default, Deserialize)]
pub struct Callback {
    /// The code to exchange.
    pub code: Option<String>,
    /// What [`PendingSignIn`] has as well.
    pub state: Option<String>,
    /// The issuer, from providers that name it (RFC 9207).
    pub iss: Option<String>,
    /// Why there is no code, such as `access_denied`.
    pub error: Option<String>,
}

/// Why a callback gives no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallbackError {
    /// `state` is not the one of this sign-in.
    #[error("the answer belongs to another sign-in")]
    State,
    /// `iss` is another provider, or missing although the provider always sends it.
    #[error("the answer comes from another provider")]
    Issuer,
    /// More than ten minutes have passed.
    #[error("the sign-in took more than ten minutes")]
    Late,
    /// The person or the provider declined. The text is the provider's `error`.
    #[error("the identity provider declined: {0}")]
    Declined(String),
    /// There is neither a code nor an error.
    #[error("the answer has no code")]
    NoCode,
}

impl PendingSignIn {
    /// Begins a sign-in with new secrets.
    pub(super) fn new(issuer: &str, now: OffsetDateTime) -> Self {
        Self {
            issuer: issuer.to_owned(),
            state: secret(),
            nonce: secret(),
            code_verifier: secret(),
            began_at: now.unix_timestamp(),
        }
    }

    pub(super) fn state(&self) -> &str {
        &self.state
    }

    pub(super) fn nonce(&self) -> &str {
        &self.nonce
    }

    pub(super) fn code_verifier(&self) -> &str {
        &self.code_verifier
    }

    /// The hash of the verifier that the provider gets first (RFC 7636, 4.2).
    pub(super) fn code_challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(&self.code_verifier))
    }

    /// Returns the code of a callback that belongs to this sign-in.
    ///
    /// # Errors
    /// Returns an error if it belongs to another one, or has no code.
    pub(super) fn code(
        &self,
        callback: Callback,
        issuer: &str,
        sends_issuer: bool,
        now: OffsetDateTime,
    ) -> Result<String, CallbackError> {
        let state = callback.state.unwrap_or_default();
        if !bool::from(state.as_bytes().ct_eq(self.state.as_bytes())) {
            return Err(CallbackError::State);
        }
        // A provider must not finish what another began.
        let is_named = (callback.iss).map_or(!sends_issuer, |iss| iss == issuer);
        if self.issuer != issuer || !is_named {
            return Err(CallbackError::Issuer);
        }
        if now.unix_timestamp() - self.began_at > LIFETIME_SECONDS {
            return Err(CallbackError::Late);
        }
        if let Some(error) = callback.error {
            return Err(CallbackError::Declined(error_code(&error)));
        }
        (callback.code)
            .filter(|code| (1..=MAX_CODE_BYTES).contains(&code.len()))
            .ok_or(CallbackError::NoCode)
    }
}

/// The `error` of a provider (RFC 6749, 5.2), without what does not belong into a log.
pub(super) fn error_code(error: &str) -> String {
    let is_allowed =
        |character: &char| character.is_ascii_alphanumeric() || "_-.".contains(*character);
    error
        .chars()
        .filter(is_allowed)
        .take(MAX_ERROR_BYTES)
        .collect()
}

/// 256 random bits, as 43 characters that need no escape in a URL.
fn secret() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://issuer.example";

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    fn good(pending: &PendingSignIn) -> Callback {
        Callback {
            code: Some("a code".to_owned()),
            state: Some(pending.state.clone()),
            iss: None,
            error: None,
        }
    }

    #[test]
    fn the_challenge_is_the_one_of_the_rfc() {
        let mut pending = PendingSignIn::new(ISSUER, now());
        // RFC 7636, appendix B.
        pending.code_verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned();
        assert_eq!(
            pending.code_challenge(),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
    }

    #[test]
    fn each_sign_in_has_secrets_of_its_own() {
        let [a, b] = [0, 1].map(|_| PendingSignIn::new(ISSUER, now()));
        let secrets = [
            &a.state,
            &a.nonce,
            &a.code_verifier,
            &b.state,
            &b.nonce,
            &b.code_verifier,
        ];
        assert!(secrets.iter().all(|secret| secret.len() == 43));
        let different: std::collections::HashSet<_> = secrets.iter().collect();
        assert_eq!(different.len(), 6);
    }

    #[test]
    fn a_callback_must_belong_to_its_sign_in() {
        type Change = fn(&mut Callback);
        let cases: [(&str, Change, bool, Result<(), CallbackError>); 12] = [
            ("good", |_| {}, false, Ok(())),
            (
                "issuer named",
                |it| it.iss = Some(ISSUER.to_owned()),
                true,
                Ok(()),
            ),
            (
                "no state",
                |it| it.state = None,
                false,
                Err(CallbackError::State),
            ),
            (
                "empty state",
                |it| it.state = Some(String::new()),
                false,
                Err(CallbackError::State),
            ),
            (
                "other state",
                |it| it.state = Some("A".repeat(43)),
                false,
                Err(CallbackError::State),
            ),
            (
                "other issuer",
                |it| it.iss = Some("https://evil.example".to_owned()),
                false,
                Err(CallbackError::Issuer),
            ),
            ("issuer missing", |_| {}, true, Err(CallbackError::Issuer)),
            (
                "declined",
                |it| it.error = Some("access_denied".to_owned()),
                false,
                Err(CallbackError::Declined("access_denied".to_owned())),
            ),
            (
                "error with markup",
                |it| it.error = Some("<b>x</b>\n".to_owned()),
                false,
                Err(CallbackError::Declined("bxb".to_owned())),
            ),
            (
                "no code",
                |it| it.code = None,
                false,
                Err(CallbackError::NoCode),
            ),
            (
                "empty code",
                |it| it.code = Some(String::new()),
                false,
                Err(CallbackError::NoCode),
            ),
            (
                "long code",
                |it| it.code = Some("c".repeat(MAX_CODE_BYTES + 1)),
                false,
                Err(CallbackError::NoCode),
            ),
        ];
        let pending = PendingSignIn::new(ISSUER, now());
        for (name, change, sends_issuer, expected) in cases {
            let mut callback = good(&pending);
            change(&mut callback);
            let result = pending.code(callback, ISSUER, sends_issuer, now());
            assert_eq!(result.map(|_| ()), expected, "{name}");
        }
    }

    #[test]
    fn a_sign_in_ends_after_ten_minutes() {
        let pending = PendingSignIn::new(ISSUER, now());
        let after = |seconds| {
            let later = now() + time::Duration::seconds(seconds);
            pending.code(good(&pending), ISSUER, false, later)
        };
        assert!(after(600).is_ok());
        assert_eq!(after(601), Err(CallbackError::Late));
    }

    #[test]
    fn another_provider_cannot_finish_it() {
        let pending = PendingSignIn::new("https://other.example", now());
        let result = pending.code(good(&pending), ISSUER, false, now());
        assert_eq!(result, Err(CallbackError::Issuer));
    }
}
