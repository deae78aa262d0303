//! Signs a person in at an organisation's identity provider, by `OpenID` Connect.
//!
//! The flow is the authorization code flow with PKCE (RFC 6749, RFC 7636, `OpenID` Connect Core 1.0):
//!
//! 1. [`OidcProvider::begin`] gives the address that the browser is sent to, and a [`PendingSignIn`].
//!    The caller keeps it where only this browser can bring it back, such as an encrypted cookie.
//! 2. The provider sends the browser back with a [`Callback`].
//! 3. [`OidcProvider::finish`] compares the two, exchanges the code for an ID token and verifies it.
//!
//! What the provider can do it says in its discovery document (`discovery`). `exchange` has the
//! request for the token, `id_token` the rules about it, `pending` the secrets of one sign-in.

mod discovery;
mod exchange;
mod id_token;
mod pending;

use std::sync::Arc;

use secrecy::SecretString;
use time::OffsetDateTime;

use super::cached::{CacheTiming, Cached, Unavailable};
use super::http::{FetchError, IdentityHttp};
use super::key_set::{self, KeySet};
use super::{Identity, TokenError};
use discovery::Metadata;
pub use pending::{Callback, CallbackError, PendingSignIn};

/// An organisation's provider, and who we are there.
#[derive(Clone, Debug)]
pub struct OidcSettings {
    /// The issuer, such as `https://login.example.com/organisation`. It is compared byte by byte.
    pub issuer: String,
    /// Our id at the provider.
    pub client_id: String,
    /// Our secret at the provider; `None` for a public client, which has PKCE only.
    pub client_secret: Option<SecretString>,
    /// Where the provider sends the browser back to.
    pub redirect_url: String,
    /// What is asked for besides `openid`, such as `email` and `profile`.
    pub scopes: Vec<String>,
    /// How long the discovery document and keys are kept.
    pub timing: CacheTiming,
}

/// An organisation's identity provider.
pub struct OidcProvider {
    settings: OidcSettings,
    http: IdentityHttp,
    metadata: Arc<Cached<Metadata>>,
    keys: KeySet,
}

/// Why nobody signed in.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// The callback does not belong to a sign-in of this browser, or the person or the provider
    /// declined. The caller offers to begin again.
    #[error(transparent)]
    Callback(#[from] CallbackError),
    /// The provider did not exchange the code. The text is the `error` of the provider.
    #[error("the identity provider does not exchange the code: {0}")]
    Exchange(String),
    /// The ID token is refused, or the keys are not known.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The provider cannot be asked, or its answer cannot be used.
    #[error("the identity provider cannot be asked: {0}")]
    NoAnswer(#[from] FetchError),
}

impl From<Unavailable> for OidcError {
    fn from(error: Unavailable) -> Self {
        Self::Token(error.into())
    }
}

impl OidcProvider {
    /// Makes a provider. Nothing is fetched yet.
    ///
    /// # Errors
    /// Returns an error if the issuer or the redirect address is not a URL that may be used.
    pub fn new(settings: OidcSettings, http: IdentityHttp) -> Result<Self, FetchError> {
        let url = discovery::address(&settings.issuer, &http)?;
        http.parse_address(&settings.redirect_url)?;
        let metadata = {
            let (http, issuer) = (http.clone(), settings.issuer.clone());
            Arc::new(Cached::new(
                "discovery",
                settings.timing,
                Box::new(move || {
                    let (http, url, issuer) = (http.clone(), url.clone(), issuer.clone());
                    Box::pin(async move { discovery::fetch(&http, url, &issuer).await })
                }),
            ))
        };
        let keys = {
            let (http, metadata) = (http.clone(), Arc::clone(&metadata));
            KeySet::new(
                settings.timing,
                Box::new(move || {
                    let (http, metadata) = (http.clone(), Arc::clone(&metadata));
                    Box::pin(async move {
                        // The address of the keys may change with the discovery document.
                        let metadata = metadata.get(|_| true).await;
                        let metadata =
                            metadata.map_err(|error| FetchError::Unusable(error.to_string()))?;
                        key_set::fetch(&http, metadata.keys.clone()).await
                    })
                }),
            )
        };
        Ok(Self {
            settings,
            http,
            metadata,
            keys,
        })
    }

    /// Begins a sign-in. Returns the address that the browser is sent to, and what must be kept for
    /// [`Self::finish`].
    ///
    /// # Errors
    /// Returns an error if the provider's discovery document is not known.
    pub async fn begin(&self, now: OffsetDateTime) -> Result<(String, PendingSignIn), Unavailable> {
        let metadata = self.metadata.get(|_| true).await?;
        let pending = PendingSignIn::new(&self.settings.issuer, now);
        let mut url = metadata.authorization.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.settings.client_id)
            .append_pair("redirect_uri", &self.settings.redirect_url)
            .append_pair("scope", &self.scope())
            .append_pair("state", pending.state())
            .append_pair("nonce", pending.nonce())
            .append_pair("code_challenge", &pending.code_challenge())
            .append_pair("code_challenge_method", "S256");
        Ok((url.into(), pending))
    }

    /// Finishes a sign-in: checks the callback, exchanges the code, and verifies the ID token. A
    /// provider accepts a code once, so a second call with the same code fails.
    ///
    /// # Errors
    /// Returns an error if the callback belongs to another sign-in, if the provider declines, or if the
    /// token is refused.
    pub async fn finish(
        &self,
        callback: Callback,
        pending: &PendingSignIn,
        now: OffsetDateTime,
    ) -> Result<Identity, OidcError> {
        let metadata = self.metadata.get(|_| true).await?;
        let sends_issuer = metadata.sends_issuer_with_code;
        let code = pending.code(callback, &self.settings.issuer, sends_issuer, now)?;
        let tokens =
            exchange::exchange(&self.settings, &self.http, &metadata, &code, pending).await?;
        let expected = id_token::Expected {
            issuer: &self.settings.issuer,
            client_id: &self.settings.client_id,
            nonce: pending.nonce(),
            access_token: tokens.access_token.as_deref(),
        };
        let claims =
            id_token::signed_claims(&tokens.id_token, &self.keys, &metadata.algorithms).await?;
        let identity = id_token::check(claims, &expected, now).map_err(TokenError::from)?;
        Ok(identity)
    }

    fn scope(&self) -> String {
        let mut scope = "openid".to_owned();
        for name in self.settings.scopes.iter().filter(|name| *name != "openid") {
            scope.push(' ');
            scope.push_str(name);
        }
        scope
    }
}
