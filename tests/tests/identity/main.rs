//! Identity tokens, against an identity provider over real HTTP: what is accepted, what is refused and why, and how often the
//! provider is asked.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

mod firebase;
mod keys;
mod oidc;

use common::people::identity::firebase::{FirebaseSettings, FirebaseVerifier};
use common::people::identity::http::IdentityHttp;
use common::people::identity::{CacheTiming, Identity, Refusal, TokenError};
use domain::clock;
use fakes::{Fake, IdentityProvider, IdentitySwitches};
use serde_json::{Value, json};

const PROJECT: &str = "platen-studio";

/// A Firebase project of the fake, and our verifier of its tokens.
pub(crate) struct Project {
    fake: Fake,
    provider: IdentityProvider,
    verifier: FirebaseVerifier,
}

impl Project {
    pub(crate) async fn start() -> Self {
        Self::start_with(CacheTiming::default()).await
    }

    pub(crate) async fn start_with(timing: CacheTiming) -> Self {
        Self::start_as(|settings| settings.timing = timing).await
    }

    pub(crate) async fn start_as(change: impl FnOnce(&mut FirebaseSettings)) -> Self {
        let fake = Fake::start(fakes::Options::default()).await.unwrap();
        let verifier = verifier(&fake, change);
        let provider = fake.identity();
        Self {
            fake,
            provider,
            verifier,
        }
    }

    pub(crate) async fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        self.verifier.verify(token, clock::now()).await
    }

    /// A good token.
    pub(crate) fn token(&self) -> String {
        self.provider.signing_key().token(&claims(&json!({})))
    }

    pub(crate) fn switch(&self, change: impl FnOnce(&mut IdentitySwitches)) {
        let mut switches = self.provider.switches();
        change(&mut switches);
        self.provider.set(switches);
    }
}

pub(crate) fn verifier(
    fake: &Fake,
    change: impl FnOnce(&mut FirebaseSettings),
) -> FirebaseVerifier {
    let base_url = fake.base_url();
    let path = "service_accounts/v1/jwk/securetoken@system.gserviceaccount.com";
    let mut settings = FirebaseSettings::new(PROJECT);
    settings.keys = format!("{base_url}/{path}");
    change(&mut settings);
    FirebaseVerifier::new(settings, &IdentityHttp::new(true).unwrap()).unwrap()
}

/// The claims that Firebase writes, with these changes. `null` removes a claim.
pub(crate) fn claims(changes: &Value) -> Value {
    let now = clock::now().unix_timestamp();
    let mut claims = json!({
        "iss": format!("https://securetoken.google.com/{PROJECT}"),
        "aud": PROJECT,
        "auth_time": now - 30,
        "user_id": "NbWxQ2jWd47BNWSDy6SdKNzJFBD8",
        "sub": "NbWxQ2jWd47BNWSDy6SdKNzJFBD8",
        "iat": now - 20,
        "exp": now + 3_580,
        "name": "Ada Lovelace",
        "picture": "https://img.example/ada.png",
        "email": "ada@example.com",
        "email_verified": true,
        "firebase": {"identities": {"email": ["ada@example.com"]}, "sign_in_provider": "password"},
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    let fields = claims.as_object_mut().unwrap();
    fields.retain(|_, value| !value.is_null());
    claims
}

/// Why a token was refused. `None` if it was accepted.
pub(crate) fn refusal(result: Result<Identity, TokenError>) -> Option<Refusal> {
    match result {
        Ok(_) => None,
        Err(TokenError::Refused(refusal)) => Some(refusal),
        Err(TokenError::Unavailable(error)) => panic!("{error}"),
    }
}
