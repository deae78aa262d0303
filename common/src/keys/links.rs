//! The secrets of mailed links, such as that of a password reset.
//!
//! A secret is derived from the id of a token and a master key when the mail is sent, and again when
//! the link is followed. The database holds the token and not its secret, so nothing that stands in
//! the database opens anything. Whether a token was used or has expired is the token row's affair.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use secrecy::SecretString;
use sha2::Sha256;
use uuid::Uuid;

use super::MasterKeys;

/// What a link is for. A secret for one purpose is worth nothing for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkPurpose {
    /// Shows that a person reads the mail of an address.
    Verification,
    /// Lets a person choose a new password.
    PasswordReset,
    /// Lets a person join a tenant.
    Invitation,
}

impl LinkPurpose {
    /// Part of what is authenticated: never changed.
    fn label(self) -> &'static str {
        match self {
            Self::Verification => "verification",
            Self::PasswordReset => "password reset",
            Self::Invitation => "invitation",
        }
    }
}

impl MasterKeys {
    /// The secret of the link to a token, 43 characters of base64url, derived with the newest key.
    pub fn link_secret(&self, purpose: LinkPurpose, token: Uuid) -> SecretString {
        let mac = authenticate(&self.newest().links, purpose, token);
        BASE64_URL_SAFE_NO_PAD
            .encode(mac.finalize().into_bytes())
            .into()
    }

    /// Whether `shown` is the secret of the link to a token. Links that were mailed before a newer key
    /// was added still work. Takes the same time for every wrong secret of the right length.
    pub fn is_link_secret(&self, purpose: LinkPurpose, token: Uuid, shown: &str) -> bool {
        let Ok(shown) = BASE64_URL_SAFE_NO_PAD.decode(shown) else {
            return false;
        };
        self.0.iter().any(|key| {
            authenticate(&key.links, purpose, token)
                .verify_slice(&shown)
                .is_ok()
        })
    }
}

fn authenticate(key: &Hmac<Sha256>, purpose: LinkPurpose, token: Uuid) -> Hmac<Sha256> {
    let mut mac = key.clone();
    mac.update(purpose.label().as_bytes());
    mac.update(b"\0");
    mac.update(token.as_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_link_opens_its_own_token_for_its_purpose() {
        let keys: MasterKeys = format!("old:{}", "0a0b".repeat(16)).parse().unwrap();
        let (token, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let secret = keys.link_secret(LinkPurpose::PasswordReset, token);
        let secret = secret.expose_secret();
        // Fixed for ever, because links are in mailboxes: this one was made by Python's `hmac`.
        assert_eq!(secret, "u4xYYM-tRlTjZrhfk-KNOh0tOBARo9AnHiV7wwjD7Vo");
        let opens = |purpose, token, shown: &str| keys.is_link_secret(purpose, token, shown);
        assert!(opens(LinkPurpose::PasswordReset, token, secret));
        assert!(!opens(LinkPurpose::PasswordReset, other, secret));
        assert!(!opens(LinkPurpose::Verification, token, secret));
        assert!(!opens(LinkPurpose::Invitation, token, secret));
        for shown in [
            "",
            "=",
            &secret[1..],
            &format!("{secret}A"),
            &secret.to_lowercase(),
        ] {
            assert!(!opens(LinkPurpose::PasswordReset, token, shown), "{shown}");
        }

        // Links survive a newer key, and end with the key that made them.
        let newer = format!("new:{},old:{}", "0c0d".repeat(16), "0a0b".repeat(16));
        let newer: MasterKeys = newer.parse().unwrap();
        assert!(newer.is_link_secret(LinkPurpose::PasswordReset, token, secret));
        let alone: MasterKeys = format!("new:{}", "0c0d".repeat(16)).parse().unwrap();
        assert!(!alone.is_link_secret(LinkPurpose::PasswordReset, token, secret));
    }
}
