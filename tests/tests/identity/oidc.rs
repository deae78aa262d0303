//! Sign-in at an organisation's provider: the whole flow over HTTP, and what is refused on its way.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use common::people::identity::http::IdentityHttp;
use common::people::identity::oidc::{
    Callback, CallbackError, OidcError, OidcProvider, OidcSettings, PendingSignIn,
};
use common::people::identity::{CacheTiming, Identity, Refusal, TokenError};
use domain::clock;
use fakes::{Fake, IdentityProvider, IdentitySwitches};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::StatusCode;
use reqwest::header::LOCATION;
use reqwest::redirect::Policy;
use secrecy::SecretString;
use serde_json::{Value, json};
use url::Url;

const CLIENT: &str = "platen";
const SECRET: &str = "p&l a=t:e+n";

/// An organisation's provider, and we as its client.
struct Organisation {
    fake: Fake,
    provider: IdentityProvider,
    oidc: OidcProvider,
    browser: reqwest::Client,
}

impl Organisation {
    async fn start() -> Self {
        Self::start_as(|_| {}).await
    }

    async fn start_as(change: impl FnOnce(&mut OidcSettings)) -> Self {
        let fake = Fake::start(fakes::Options::default()).await.unwrap();
        let provider = fake.identity();
        let oidc = oidc(&fake, change);
        let browser = reqwest::Client::builder()
            .redirect(Policy::none())
            .timeout(Duration::from_secs(30));
        Self {
            fake,
            provider,
            oidc,
            browser: browser.build().unwrap(),
        }
    }

    fn switch(&self, change: impl FnOnce(&mut IdentitySwitches)) {
        let mut switches = self.provider.switches();
        change(&mut switches);
        self.provider.set(switches);
    }

    /// Begins a sign-in and lets the browser visit the provider.
    async fn visit(&self, person: &str) -> (Callback, PendingSignIn) {
        let (address, pending) = self.oidc.begin(clock::now()).await.unwrap();
        let mut address = Url::parse(&address).unwrap();
        address.query_pairs_mut().append_pair("login_hint", person);
        (self.follow(address).await, pending)
    }

    async fn follow(&self, address: Url) -> Callback {
        let response = self.browser.get(address).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::FOUND);
        let location = Url::parse(response.headers()[LOCATION].to_str().unwrap()).unwrap();
        assert_eq!(location.path(), "/sign-in/callback");
        let mut query: HashMap<String, String> = location.query_pairs().into_owned().collect();
        let mut value = |name: &str| query.remove(name);
        Callback {
            code: value("code"),
            state: value("state"),
            iss: value("iss"),
            error: value("error"),
        }
    }

    async fn sign_in(&self) -> Result<Identity, OidcError> {
        let (callback, pending) = self.visit("ada@example.com").await;
        self.oidc.finish(callback, &pending, clock::now()).await
    }
}

fn oidc(fake: &Fake, change: impl FnOnce(&mut OidcSettings)) -> OidcProvider {
    let mut settings = OidcSettings {
        issuer: format!("{}/identity", fake.base_url()),
        client_id: CLIENT.to_owned(),
        client_secret: Some(SecretString::from(SECRET)),
        redirect_url: "https://studio.example/sign-in/callback".to_owned(),
        scopes: vec!["email".to_owned(), "profile".to_owned()],
        timing: CacheTiming::default(),
    };
    change(&mut settings);
    OidcProvider::new(settings, IdentityHttp::new(true).unwrap()).unwrap()
}

/// Why the ID token was refused. `None` if somebody signed in.
fn token_refusal(result: Result<Identity, OidcError>) -> Option<Refusal> {
    match result {
        Ok(_) => None,
        Err(OidcError::Token(TokenError::Refused(refusal))) => Some(refusal),
        Err(error) => panic!("{error}"),
    }
}

/// The provider's `error` at the token endpoint.
fn exchange_error(result: Result<Identity, OidcError>) -> String {
    match result {
        Err(OidcError::Exchange(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn object(value: Value) -> serde_json::Map<String, Value> {
    serde_json::from_value(value).unwrap()
}

#[tokio::test]
async fn a_person_signs_in_by_redirect_and_code() {
    let organisation = Organisation::start().await;
    let (address, _) = organisation.oidc.begin(clock::now()).await.unwrap();
    let query: HashMap<String, String> = Url::parse(&address)
        .unwrap()
        .query_pairs()
        .into_owned()
        .collect();
    assert_eq!(query["scope"], "openid email profile");
    assert_eq!(query["code_challenge_method"], "S256");
    assert_eq!(
        [
            query["state"].len(),
            query["nonce"].len(),
            query["code_challenge"].len()
        ],
        [43; 3]
    );

    for algorithm in ["RS256", "ES256"] {
        organisation.switch(|it| it.algorithm = algorithm.to_owned());
        let identity = organisation.sign_in().await.unwrap();
        assert_eq!(
            identity.issuer,
            format!("{}/identity", organisation.fake.base_url())
        );
        assert_eq!(
            identity.verified_email(),
            Some("ada@example.com"),
            "{algorithm}"
        );
        assert_eq!(identity.name.as_deref(), Some("ada"));
    }
    let (callback, pending) = organisation.visit("bob@example.com").await;
    let bob = organisation
        .oidc
        .finish(callback, &pending, clock::now())
        .await
        .unwrap();
    let ada = organisation.sign_in().await.unwrap();
    assert_ne!(bob.subject, ada.subject);
    assert_eq!(
        organisation.provider.key_requests(),
        1,
        "keys are asked for once"
    );
}

#[tokio::test]
async fn what_is_kept_of_a_sign_in_survives_its_cookie() {
    let organisation = Organisation::start().await;
    let (callback, pending) = organisation.visit("ada@example.com").await;
    let cookie = serde_json::to_string(&pending).unwrap();
    let pending: PendingSignIn = serde_json::from_str(&cookie).unwrap();
    organisation
        .oidc
        .finish(callback, &pending, clock::now())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_wrong_id_token_is_refused_by_its_rule() {
    let organisation = Organisation::start().await;
    let now = clock::now().unix_timestamp();
    let cases = [
        ("good", json!({}), None),
        (
            "no hash of the access token",
            json!({"at_hash": null}),
            None,
        ),
        (
            "our audience in a list",
            json!({"aud": [CLIENT], "azp": null}),
            None,
        ),
        (
            "two audiences, issued to us",
            json!({"aud": ["other", CLIENT], "azp": CLIENT}),
            None,
        ),
        ("no time of sign-in", json!({"auth_time": null}), None),
        (
            "two audiences, issued to nobody",
            json!({"aud": ["other", CLIENT], "azp": null}),
            Some(Refusal::AuthorizedParty),
        ),
        (
            "two audiences, issued to another",
            json!({"aud": ["other", CLIENT], "azp": "other"}),
            Some(Refusal::AuthorizedParty),
        ),
        (
            "issued to another",
            json!({"azp": "other"}),
            Some(Refusal::AuthorizedParty),
        ),
        (
            "another audience",
            json!({"aud": "other", "azp": null}),
            Some(Refusal::Audience),
        ),
        ("no audience", json!({"aud": null}), Some(Refusal::Audience)),
        ("an empty list", json!({"aud": []}), Some(Refusal::Audience)),
        (
            "another issuer",
            json!({"iss": "https://evil.example"}),
            Some(Refusal::Issuer),
        ),
        ("no issuer", json!({"iss": null}), Some(Refusal::Issuer)),
        ("no nonce", json!({"nonce": null}), Some(Refusal::Nonce)),
        (
            "another nonce",
            json!({"nonce": "n".repeat(43)}),
            Some(Refusal::Nonce),
        ),
        ("an empty nonce", json!({"nonce": ""}), Some(Refusal::Nonce)),
        (
            "another access token",
            json!({"at_hash": "77QmUPtjPfzWtF2AnpK9RQ"}),
            Some(Refusal::AccessTokenHash),
        ),
        (
            "an empty hash",
            json!({"at_hash": ""}),
            Some(Refusal::AccessTokenHash),
        ),
        ("expired", json!({"exp": now - 61}), Some(Refusal::Expiry)),
        ("no expiry", json!({"exp": null}), Some(Refusal::Expiry)),
        (
            "issued tomorrow",
            json!({"iat": now + 86_400}),
            Some(Refusal::IssuedAt),
        ),
        (
            "no time of issue",
            json!({"iat": null}),
            Some(Refusal::IssuedAt),
        ),
        (
            "not valid yet",
            json!({"nbf": now + 3_600}),
            Some(Refusal::NotBefore),
        ),
        (
            "signed in tomorrow",
            json!({"auth_time": now + 86_400}),
            Some(Refusal::AuthTime),
        ),
        ("no subject", json!({"sub": null}), Some(Refusal::Subject)),
        (
            "a subject of 256 bytes",
            json!({"sub": "s".repeat(256)}),
            Some(Refusal::Subject),
        ),
        (
            "a subject that is a number",
            json!({"sub": 1}),
            Some(Refusal::Malformed),
        ),
    ];
    for (name, changes, expected) in cases {
        organisation.switch(|it| it.claims = object(changes));
        assert_eq!(
            token_refusal(organisation.sign_in().await),
            expected,
            "{name}"
        );
    }
    organisation.switch(|it| {
        it.claims.clear();
        it.answer = object(json!({"access_token": null}));
    });
    let result = token_refusal(organisation.sign_in().await);
    assert_eq!(result, Some(Refusal::AccessTokenHash), "a hash of nothing");
}

#[tokio::test]
async fn an_id_token_of_another_signer_is_refused() {
    let organisation = Organisation::start().await;
    let kid = organisation.provider.signing_key().id().to_owned();
    let now = clock::now().unix_timestamp();
    let issuer = format!("{}/identity", organisation.fake.base_url());
    let (_, pending) = organisation.visit("ada@example.com").await;
    let kept = serde_json::to_value(&pending).unwrap();
    let claims = json!({"iss": issuer, "aud": CLIENT, "sub": "ada", "iat": now, "exp": now + 600, "nonce": kept["nonce"]});
    let own = fakes::SigningKey::rsa();
    let named = |alg: &str| json!({"alg": alg, "kid": kid, "typ": "JWT"});
    let hmac = {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(kid.clone());
        jsonwebtoken::encode(
            &header,
            &claims,
            &EncodingKey::from_secret(SECRET.as_bytes()),
        )
        .unwrap()
    };
    let real = organisation.provider.signing_key().token(&claims);
    let (signed, _) = real.rsplit_once('.').unwrap();
    for (name, token, expected) in [
        ("HMAC with our secret", hmac, Refusal::Algorithm),
        (
            "unsigned",
            own.token_with(&named("none"), &claims),
            Refusal::Algorithm,
        ),
        (
            "RS512",
            organisation
                .provider
                .signing_key()
                .token_with(&named("RS512"), &claims),
            Refusal::Algorithm,
        ),
        ("another key", own.token(&claims), Refusal::UnknownKey),
        (
            "another key under a real name",
            own.token_with(&named("RS256"), &claims),
            Refusal::Signature,
        ),
        (
            "RS256 as ES256",
            own.token_with(&named("ES256"), &claims),
            Refusal::Algorithm,
        ),
        ("no signature", format!("{signed}."), Refusal::Signature),
        (
            "a logout token",
            organisation.provider.signing_key().token_with(
                &json!({"alg": "RS256", "kid": kid, "typ": "logout+jwt"}),
                &claims,
            ),
            Refusal::Kind,
        ),
    ] {
        organisation.switch(|it| it.answer = object(json!({"id_token": token})));
        assert_eq!(
            token_refusal(organisation.sign_in().await),
            Some(expected),
            "{name}"
        );
    }
    // Only RS256 is announced, so ES256 is refused although its key is published.
    let organisation = Organisation::start().await;
    organisation.switch(|it| {
        it.discovery = object(json!({"id_token_signing_alg_values_supported": ["RS256", "none"]}));
        it.algorithm = "ES256".to_owned();
    });
    assert_eq!(
        token_refusal(organisation.sign_in().await),
        Some(Refusal::Algorithm)
    );
}

#[tokio::test]
async fn a_callback_of_another_sign_in_is_refused() {
    let organisation = Organisation::start().await;
    let (callback, pending) = organisation.visit("ada@example.com").await;
    let (other, other_pending) = organisation.visit("mallory@example.com").await;
    let finish = |callback: Callback, pending: PendingSignIn, minutes: i64| {
        let now = clock::now() + time::Duration::minutes(minutes);
        let oidc = &organisation.oidc;
        async move { oidc.finish(callback, &pending, now).await }
    };
    let callback_error = |result: Result<Identity, OidcError>| match result {
        Err(OidcError::Callback(error)) => error,
        other => panic!("{other:?}"),
    };
    // Mallory's callback in Ada's browser.
    let result = finish(other.clone(), pending.clone(), 0).await;
    assert_eq!(callback_error(result), CallbackError::State);
    // Mallory's code with Ada's state: it was issued for another verifier.
    let stolen = Callback {
        code: other.code.clone(),
        ..callback.clone()
    };
    assert_eq!(
        exchange_error(finish(stolen, pending.clone(), 0).await),
        "invalid_grant"
    );
    // Too late.
    let result = finish(callback.clone(), pending.clone(), 11).await;
    assert_eq!(callback_error(result), CallbackError::Late);
    // A code is good for one exchange.
    finish(callback.clone(), pending.clone(), 0).await.unwrap();
    assert_eq!(
        exchange_error(finish(callback, pending, 0).await),
        "invalid_grant"
    );
    // The code was used up by the attempt with Ada's verifier.
    assert_eq!(
        exchange_error(finish(other, other_pending, 0).await),
        "invalid_grant"
    );

    for (name, redirect, expected) in [
        (
            "another issuer",
            json!({"iss": "https://evil.example"}),
            CallbackError::Issuer,
        ),
        ("no issuer", json!({"iss": null}), CallbackError::Issuer),
        ("no state", json!({"state": null}), CallbackError::State),
        (
            "another state",
            json!({"state": "s".repeat(43)}),
            CallbackError::State,
        ),
        ("no code", json!({"code": null}), CallbackError::NoCode),
    ] {
        organisation.switch(|it| it.redirect = object(redirect));
        assert_eq!(
            callback_error(organisation.sign_in().await),
            expected,
            "{name}"
        );
    }
    organisation.switch(|it| it.redirect.clear());
    let (callback, pending) = organisation.visit("nobody@example.com").await;
    let result = finish(callback, pending, 0).await;
    assert_eq!(
        callback_error(result),
        CallbackError::Declined("access_denied".to_owned())
    );
}

#[tokio::test]
async fn the_provider_knows_us_by_our_secret() {
    let organisation = Organisation::start_as(|settings| {
        settings.client_secret = Some(SecretString::from("wrong"));
    })
    .await;
    assert_eq!(
        exchange_error(organisation.sign_in().await),
        "invalid_client"
    );
    let body = last_form(&organisation);
    assert!(
        !body.contains("client_secret"),
        "it is in the header: {body}"
    );

    let organisation = Organisation::start().await;
    organisation.switch(|it| {
        it.discovery =
            object(json!({"token_endpoint_auth_methods_supported": ["client_secret_post"]}));
    });
    organisation.sign_in().await.unwrap();
    assert!(last_form(&organisation).contains("client_secret=p%26l+a%3Dt%3Ae%2Bn"));

    let organisation = Organisation::start_as(|settings| settings.client_secret = None).await;
    organisation.sign_in().await.unwrap();
    let body = last_form(&organisation);
    assert!(
        body.contains("client_id=platen") && !body.contains("client_secret"),
        "{body}"
    );
}

/// The form that the token endpoint got last.
fn last_form(organisation: &Organisation) -> String {
    let journal = organisation.fake.journal();
    let calls = journal.calls();
    let call = calls
        .iter()
        .rev()
        .find(|call| call.path == "/identity/token")
        .unwrap();
    String::from_utf8(journal.raw_body(call.number).unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn a_provider_that_speaks_for_another_is_not_used() {
    for (name, changes) in [
        (
            "another issuer",
            json!({"issuer": "https://login.example.com"}),
        ),
        (
            "PKCE without S256",
            json!({"code_challenge_methods_supported": ["plain"]}),
        ),
        ("keys in a file", json!({"jwks_uri": "file:///etc/passwd"})),
        ("no keys", json!({"jwks_uri": null})),
    ] {
        let organisation = Organisation::start().await;
        organisation.switch(|it| it.discovery = object(changes));
        assert!(
            organisation.oidc.begin(clock::now()).await.is_err(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_used_signs_nobody_in() {
    let organisation = Organisation::start().await;
    for (name, answer) in [
        ("no ID token", json!({"id_token": null})),
        ("an ID token that is a number", json!({"id_token": 1})),
        ("300 KB", json!({"padding": "x".repeat(300_000)})),
    ] {
        organisation.switch(|it| it.answer = object(answer));
        let result = organisation.sign_in().await;
        assert!(
            matches!(result, Err(OidcError::NoAnswer(_))),
            "{name}: {result:?}"
        );
    }
    organisation.switch(|it| it.answer.clear());

    let (callback, pending) = organisation.visit("ada@example.com").await;
    organisation.switch(|it| it.outage = true);
    let result = organisation
        .oidc
        .finish(callback.clone(), &pending, clock::now())
        .await;
    assert!(matches!(result, Err(OidcError::NoAnswer(_))), "{result:?}");
    // Nobody waits longer than five seconds. The person may try again with the same code.
    organisation.switch(|it| (it.outage, it.latency_ms) = (false, 20_000));
    let began = Instant::now();
    let result = organisation
        .oidc
        .finish(callback.clone(), &pending, clock::now())
        .await;
    assert!(matches!(result, Err(OidcError::NoAnswer(_))), "{result:?}");
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "{:?}",
        began.elapsed()
    );
    organisation.switch(|it| it.latency_ms = 0);
    organisation
        .oidc
        .finish(callback, &pending, clock::now())
        .await
        .unwrap();
}
