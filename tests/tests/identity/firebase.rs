//! Forged and wrong ID tokens of Firebase, each with a name and the rule that refuses it.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::people::identity::Refusal;
use domain::clock;
use fakes::SigningKey;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::{Project, claims, refusal};

/// What forgers start from.
struct Forger<'a> {
    /// A key of the provider, with which only the provider can sign.
    real: &'a SigningKey,
    /// The provider's key of P-256, which is published beside it.
    real_ec: &'a SigningKey,
    /// A key of the forger.
    own: &'a SigningKey,
    /// A good token.
    good: String,
    now: i64,
}

impl Forger<'_> {
    /// A token of the provider with these changes of its claims.
    fn claiming(&self, changes: &Value) -> String {
        self.real.token(&claims(changes))
    }

    /// A token of the provider with these changes of its header.
    fn heading(&self, changes: &Value) -> String {
        self.real
            .token_with(&self.header(changes), &claims(&json!({})))
    }

    fn header(&self, changes: &Value) -> Value {
        changed(self.real.header(), changes)
    }

    /// A good token signed by HMAC with this secret.
    fn hmac(&self, algorithm: Algorithm, secret: &[u8]) -> String {
        let mut header = Header::new(algorithm);
        header.kid = Some(self.real.id().to_owned());
        jsonwebtoken::encode(
            &header,
            &claims(&json!({})),
            &EncodingKey::from_secret(secret),
        )
        .unwrap()
    }

    fn parts(&self) -> [&str; 3] {
        let parts: Vec<&str> = self.good.split('.').collect();
        parts.try_into().unwrap()
    }

    /// The good token with this header, which is JSON as it stands, and with its old signature.
    fn with_header(&self, header: &str) -> String {
        let [_, claims, signature] = self.parts();
        format!("{}.{claims}.{signature}", URL_SAFE_NO_PAD.encode(header))
    }

    fn with_signature(&self, signature: &str) -> String {
        let [header, claims, _] = self.parts();
        format!("{header}.{claims}.{signature}")
    }
}

fn changed(mut object: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        object[name] = value.clone();
    }
    object
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    object
}

type Case = (&'static str, String, Refusal);

/// Tokens that are no tokens.
fn malformed(forger: &Forger<'_>) -> Vec<Case> {
    let [header, claims, signature] = forger.parts();
    let own_text = |text: &str| forger.real.token_of(&forger.header(&json!({})), text);
    let kid = forger.real.id();
    vec![
        ("nothing", String::new(), Refusal::Malformed),
        ("a word", "token".to_owned(), Refusal::Malformed),
        (
            "two parts",
            format!("{header}.{claims}"),
            Refusal::Malformed,
        ),
        (
            "four parts",
            format!("{}.{signature}", forger.good),
            Refusal::Malformed,
        ),
        (
            "an encrypted token of five parts",
            format!("{header}.a.b.c.d"),
            Refusal::Malformed,
        ),
        (
            "space in front",
            format!(" {}", forger.good),
            Refusal::Malformed,
        ),
        (
            "a line break at the end",
            format!("{}\n", forger.good),
            Refusal::Malformed,
        ),
        (
            "Bearer in front",
            format!("Bearer {}", forger.good),
            Refusal::Malformed,
        ),
        (
            "a header with padding",
            format!("{header}=.{claims}.{signature}"),
            Refusal::Malformed,
        ),
        (
            "a header that is no JSON",
            forger.with_header("alg"),
            Refusal::Malformed,
        ),
        (
            "a header that is a list",
            forger.with_header("[\"RS256\"]"),
            Refusal::Malformed,
        ),
        (
            "a header without an algorithm",
            forger.heading(&json!({"alg": null})),
            Refusal::Malformed,
        ),
        (
            "an algorithm that is a list",
            forger.heading(&json!({"alg": ["RS256"]})),
            Refusal::Malformed,
        ),
        (
            "two algorithms",
            forger.with_header(&format!(
                "{{\"alg\":\"RS256\",\"alg\":\"none\",\"kid\":\"{kid}\"}}"
            )),
            Refusal::Malformed,
        ),
        (
            "claims that are no JSON",
            own_text("claims"),
            Refusal::Malformed,
        ),
        ("claims that are a list", own_text("[]"), Refusal::Malformed),
        (
            "an audience twice",
            own_text("{\"aud\":\"platen-studio\",\"aud\":\"other\"}"),
            Refusal::Malformed,
        ),
        (
            "a subject that is a number",
            forger.claiming(&json!({"sub": 7})),
            Refusal::Malformed,
        ),
        (
            "an expiry that is text",
            forger.claiming(&json!({"exp": "9999999999"})),
            Refusal::Malformed,
        ),
        (
            "an expiry that is a fraction",
            forger.claiming(&json!({"exp": 9.9e9})),
            Refusal::Malformed,
        ),
        (
            "an issuer that is a list",
            forger.claiming(&json!({"iss": ["https://securetoken.google.com/platen-studio"]})),
            Refusal::Malformed,
        ),
        (
            "17 KiB",
            format!("{}{}", forger.good, "A".repeat(17 << 10)),
            Refusal::TooLong,
        ),
    ]
}

/// Tokens that are signed in another way than Google signs.
fn wrong_algorithm(forger: &Forger<'_>) -> Vec<Case> {
    let public = forger.real.public_key();
    let pem = format!(
        "-----BEGIN RSA PUBLIC KEY-----\n{}\n-----END RSA PUBLIC KEY-----\n",
        STANDARD.encode(&public)
    );
    let jwk = forger.real.jwk();
    let modulus = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    let [_, claims, signature] = forger.parts();
    let unsigned = |alg: &str| {
        let header = json!({"alg": alg, "typ": "JWT"}).to_string();
        format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(header))
    };
    let cases = [
        ("unsigned, as the emulator writes it", unsigned("none")),
        ("unsigned, None", unsigned("None")),
        ("unsigned, nOnE", unsigned("nOnE")),
        ("unsigned, no name", unsigned("")),
        (
            "none with a key and a good signature",
            forger.with_header(&json!({"alg": "none", "kid": forger.real.id()}).to_string()),
        ),
        (
            "none, with the old signature and no key",
            format!("{}{signature}", unsigned("none")),
        ),
        (
            "HMAC with the public key in DER",
            forger.hmac(Algorithm::HS256, &public),
        ),
        (
            "HMAC with the public key in PEM",
            forger.hmac(Algorithm::HS256, pem.as_bytes()),
        ),
        (
            "HMAC with the modulus",
            forger.hmac(Algorithm::HS256, &modulus),
        ),
        (
            "HMAC with the key's JSON",
            forger.hmac(Algorithm::HS256, jwk.to_string().as_bytes()),
        ),
        ("HMAC with nothing", forger.hmac(Algorithm::HS256, b"")),
        ("HS384", forger.hmac(Algorithm::HS384, &public)),
        ("HS512", forger.hmac(Algorithm::HS512, &public)),
        (
            "RS384 with Google's key",
            forger.heading(&json!({"alg": "RS384"})),
        ),
        (
            "RS512 with Google's key",
            forger.heading(&json!({"alg": "RS512"})),
        ),
        (
            "PS256 with Google's key",
            forger.heading(&json!({"alg": "PS256"})),
        ),
        (
            "rs256 in small letters",
            forger.heading(&json!({"alg": "rs256"})),
        ),
        (
            "ES256 with a key that is published",
            forger.real_ec.token(&super::claims(&json!({}))),
        ),
        (
            "RS256 with the name of a key of P-256",
            forger.heading(&json!({"kid": forger.real_ec.id()})),
        ),
        ("EdDSA", forger.heading(&json!({"alg": "EdDSA"}))),
        (
            "an algorithm of the future",
            forger.heading(&json!({"alg": "ML-DSA-44"})),
        ),
    ];
    cases
        .map(|(name, token)| (name, token, Refusal::Algorithm))
        .into()
}

/// Tokens with another header than Google writes.
fn wrong_header(forger: &Forger<'_>) -> Vec<Case> {
    let good_claims = claims(&json!({}));
    let own_with = |changes: &Value| (forger.own).token_with(&forger.header(changes), &good_claims);
    vec![
        (
            "no key",
            forger.heading(&json!({"kid": null})),
            Refusal::KeyId,
        ),
        (
            "a key without a name",
            forger.heading(&json!({"kid": ""})),
            Refusal::KeyId,
        ),
        (
            "a name of 257 bytes",
            forger.heading(&json!({"kid": "k".repeat(257)})),
            Refusal::KeyId,
        ),
        (
            "an unknown key",
            forger.own.token(&good_claims),
            Refusal::UnknownKey,
        ),
        (
            "a key that is a path",
            own_with(&json!({"kid": "../../../dev/null"})),
            Refusal::UnknownKey,
        ),
        (
            "a key that is SQL",
            own_with(&json!({"kid": "' OR 1=1 --"})),
            Refusal::UnknownKey,
        ),
        (
            "an unknown key at the forger's address",
            own_with(&json!({"kid": "mine", "jku": "https://evil.example/jwks"})),
            Refusal::UnknownKey,
        ),
        (
            "an extension",
            forger.heading(&json!({"crit": ["exp"], "exp": 1})),
            Refusal::CriticalHeader,
        ),
        (
            "claims without base64",
            forger.heading(&json!({"crit": ["b64"], "b64": false})),
            Refusal::CriticalHeader,
        ),
        (
            "an access token",
            forger.heading(&json!({"typ": "at+jwt"})),
            Refusal::Kind,
        ),
        (
            "a logout token",
            forger.heading(&json!({"typ": "logout+jwt"})),
            Refusal::Kind,
        ),
    ]
}

/// Tokens with another key or another signature.
fn wrong_signature(forger: &Forger<'_>) -> Vec<Case> {
    let [header, claims, signature] = forger.parts();
    let good_claims = super::claims(&json!({}));
    let own_with = |changes: &Value| forger.own.token_with(&forger.header(changes), &good_claims);
    let other = forger.claiming(&json!({"sub": "somebody"}));
    let other_signature = other.rsplit('.').next().unwrap();
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    bytes[100] ^= 1;
    let edited = json!({"alg": "RS256", "kid": forger.real.id()}).to_string();
    // The last character of 256 bytes in base64 has four bits that mean nothing.
    let (most, last) = signature.split_at(signature.len() - 1);
    let last = char::from(last.as_bytes()[0] + 1);
    vec![
        (
            "the forger's key under a real name",
            own_with(&json!({})),
            Refusal::Signature,
        ),
        (
            "the forger's key in the header",
            own_with(&json!({"jwk": forger.own.jwk()})),
            Refusal::Signature,
        ),
        (
            "the forger's certificate in the header",
            own_with(&json!({"x5u": "https://evil.example/cert", "x5t": "abc"})),
            Refusal::Signature,
        ),
        (
            "no signature",
            format!("{header}.{claims}."),
            Refusal::Signature,
        ),
        (
            "half a signature",
            forger.with_signature(&signature[..168]),
            Refusal::Signature,
        ),
        (
            "a signature of zeros",
            forger.with_signature(&URL_SAFE_NO_PAD.encode([0; 256])),
            Refusal::Signature,
        ),
        (
            "one bit of the signature",
            forger.with_signature(&URL_SAFE_NO_PAD.encode(&bytes)),
            Refusal::Signature,
        ),
        (
            "a signature twice",
            forger.with_signature(&URL_SAFE_NO_PAD.encode(bytes.repeat(2))),
            Refusal::Signature,
        ),
        (
            "a signature of another token",
            forger.with_signature(other_signature),
            Refusal::Signature,
        ),
        (
            "a signature with bits after its end",
            forger.with_signature(&format!("{most}{last}")),
            Refusal::Malformed,
        ),
        (
            "a header that was edited",
            forger.with_header(&edited),
            Refusal::Signature,
        ),
        (
            "claims that were edited",
            format!(
                "{header}.{}.{signature}",
                URL_SAFE_NO_PAD.encode(super::claims(&json!({"sub": "admin"})).to_string())
            ),
            Refusal::Signature,
        ),
    ]
}

/// Tokens that Google has signed, and that are not for us, or not now.
fn wrong_claims(forger: &Forger<'_>) -> Vec<Case> {
    let now = forger.now;
    let account = "firebase-adminsdk@platen-studio.iam.gserviceaccount.com";
    let identity_toolkit =
        "https://identitytoolkit.googleapis.com/google.identity.identitytoolkit.v1.IdentityToolkit";
    let cases = [
        ("no issuer", json!({"iss": null}), Refusal::Issuer),
        (
            "another project's issuer",
            json!({"iss": "https://securetoken.google.com/other"}),
            Refusal::Issuer,
        ),
        (
            "an issuer with a slash",
            json!({"iss": "https://securetoken.google.com/platen-studio/"}),
            Refusal::Issuer,
        ),
        (
            "an issuer without TLS",
            json!({"iss": "http://securetoken.google.com/platen-studio"}),
            Refusal::Issuer,
        ),
        (
            "a session cookie",
            json!({"iss": "https://session.firebase.google.com/platen-studio"}),
            Refusal::Issuer,
        ),
        (
            "a Google account",
            json!({"iss": "https://accounts.google.com"}),
            Refusal::Issuer,
        ),
        (
            "a custom token",
            json!({"iss": account, "sub": account, "aud": identity_toolkit}),
            Refusal::Issuer,
        ),
        ("no audience", json!({"aud": null}), Refusal::Audience),
        (
            "another audience",
            json!({"aud": "other"}),
            Refusal::Audience,
        ),
        ("an empty audience", json!({"aud": ""}), Refusal::Audience),
        (
            "an audience that begins like ours",
            json!({"aud": "platen-studio-2"}),
            Refusal::Audience,
        ),
        (
            "our audience in a list",
            json!({"aud": ["platen-studio"]}),
            Refusal::Audience,
        ),
        (
            "our audience beside another",
            json!({"aud": ["other", "platen-studio"]}),
            Refusal::Audience,
        ),
        ("no subject", json!({"sub": null}), Refusal::Subject),
        ("an empty subject", json!({"sub": ""}), Refusal::Subject),
        (
            "a subject of 129 bytes",
            json!({"sub": "s".repeat(129)}),
            Refusal::Subject,
        ),
        ("no expiry", json!({"exp": null}), Refusal::Expiry),
        (
            "expired an hour ago",
            json!({"exp": now - 3_600, "iat": now - 7_200}),
            Refusal::Expiry,
        ),
        (
            "expired 61 seconds ago",
            json!({"exp": now - 61}),
            Refusal::Expiry,
        ),
        ("an expiry before 1970", json!({"exp": -1}), Refusal::Expiry),
        (
            "an expiry that does not exist",
            json!({"exp": i64::MAX}),
            Refusal::Expiry,
        ),
        ("no time of issue", json!({"iat": null}), Refusal::IssuedAt),
        (
            "issued in an hour",
            json!({"iat": now + 3_600}),
            Refusal::IssuedAt,
        ),
        (
            "not valid before an hour",
            json!({"nbf": now + 3_600}),
            Refusal::NotBefore,
        ),
        (
            "no time of sign-in",
            json!({"auth_time": null}),
            Refusal::AuthTime,
        ),
        (
            "signed in tomorrow",
            json!({"auth_time": now + 86_400}),
            Refusal::AuthTime,
        ),
        (
            "another tenant",
            json!({"firebase": {"tenant": "acme", "sign_in_provider": "password"}}),
            Refusal::FirebaseTenant,
        ),
    ];
    cases
        .map(|(name, changes, refusal)| (name, forger.claiming(&changes), refusal))
        .into()
}

#[tokio::test]
async fn every_forged_token_is_refused_by_its_rule() {
    let project = Project::start().await;
    let (real, own) = (project.provider.signing_key(), SigningKey::rsa());
    let real_ec = project.provider.ec_key();
    let forger = Forger {
        real: &real,
        real_ec: &real_ec,
        own: &own,
        good: project.token(),
        now: clock::now().unix_timestamp(),
    };
    let cases: Vec<Case> = [
        malformed,
        wrong_algorithm,
        wrong_header,
        wrong_signature,
        wrong_claims,
    ]
    .into_iter()
    .flat_map(|cases| cases(&forger))
    .collect();
    let mut names = HashSet::new();
    let mut wrong = Vec::new();
    for (name, token, expected) in &cases {
        assert!(names.insert(name), "{name} occurs twice");
        let result = refusal(project.verify(token).await);
        if result != Some(*expected) {
            wrong.push(format!("{name}: {result:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(cases.len() >= 90, "{} tokens", cases.len());
    assert_eq!(refusal(project.verify(&forger.good).await), None);
}

#[tokio::test]
async fn a_good_token_says_who_signed_in() {
    let project = Project::start().await;
    let now = clock::now().unix_timestamp();
    let identity = project.verify(&project.token()).await.unwrap();
    assert_eq!(
        identity.issuer,
        "https://securetoken.google.com/platen-studio"
    );
    assert_eq!(identity.subject, "NbWxQ2jWd47BNWSDy6SdKNzJFBD8");
    assert_eq!(identity.verified_email(), Some("ada@example.com"));
    assert_eq!(identity.name.as_deref(), Some("Ada Lovelace"));
    assert_eq!(
        identity.picture.as_deref(),
        Some("https://img.example/ada.png")
    );
    assert_eq!(identity.sign_in_provider.as_deref(), Some("password"));
    assert!((now - 32..=now - 28).contains(&identity.authenticated_at.unix_timestamp()));
    assert!(identity.expires_at > clock::now());

    for (name, changes) in [
        (
            "no more than is needed",
            json!({"email": null, "name": null, "picture": null, "firebase": null, "user_id": null}),
        ),
        ("a subject of 128 bytes", json!({"sub": "s".repeat(128)})),
        (
            "a clock that is a minute late",
            json!({"iat": now + 55, "auth_time": now + 55, "exp": now - 50}),
        ),
        (
            "claims of the customer",
            json!({"roles": ["admin"], "plan": {"name": "pro"}}),
        ),
        (
            "an anonymous person",
            json!({"email": null, "provider_id": "anonymous", "firebase": {"identities": {}, "sign_in_provider": "anonymous"}}),
        ),
    ] {
        let token = project.provider.signing_key().token(&claims(&changes));
        assert_eq!(refusal(project.verify(&token).await), None, "{name}");
    }
}

#[tokio::test]
async fn a_tenants_verifier_takes_its_people_only() {
    let project = Project::start_as(|settings| settings.tenant = Some("acme".to_owned())).await;
    let of = |tenant: Value| {
        let firebase = json!({"sign_in_provider": "password", "tenant": tenant});
        project
            .provider
            .signing_key()
            .token(&claims(&json!({"firebase": firebase})))
    };
    assert_eq!(refusal(project.verify(&of(json!("acme"))).await), None);
    for tenant in [json!("other"), json!("ACME"), json!(""), json!(null)] {
        let result = refusal(project.verify(&of(tenant)).await);
        assert_eq!(result, Some(Refusal::FirebaseTenant));
    }
}

#[tokio::test]
async fn an_emulators_verifier_takes_unsigned_tokens_only() {
    let project = Project::start_as(|settings| {
        settings.project = "demo-platen".to_owned();
        settings.uses_emulator = true;
        settings.is_production = false;
    })
    .await;
    // The claims and the header that the emulator of firebase-tools 15.34.2 writes.
    let now = clock::now().unix_timestamp();
    let good = json!({
        "email": "ada@example.com", "email_verified": false, "auth_time": now, "user_id": "NbWxQ2jWd47BNWSDy6SdKNzJFBD8",
        "firebase": {"identities": {"email": ["ada@example.com"]}, "sign_in_provider": "password"},
        "iat": now, "exp": now + 3_600, "aud": "demo-platen", "iss": "https://securetoken.google.com/demo-platen",
        "sub": "NbWxQ2jWd47BNWSDy6SdKNzJFBD8",
    });
    let token = |header: &Value, claims: &Value, signature: &str| {
        let [header, claims] =
            [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        format!("{header}.{claims}.{signature}")
    };
    let header = json!({"alg": "none", "typ": "JWT"});
    let identity = project.verify(&token(&header, &good, "")).await.unwrap();
    assert_eq!(identity.subject, "NbWxQ2jWd47BNWSDy6SdKNzJFBD8");
    assert_eq!(identity.verified_email(), None);

    let signed = project.provider.signing_key().token(&good);
    let expired = changed(good.clone(), &json!({"exp": now - 100}));
    let other = changed(good.clone(), &json!({"aud": "demo-other"}));
    for (name, token, expected) in [
        ("a token that is signed", signed, Refusal::Algorithm),
        (
            "none with a signature",
            token(&header, &good, "AAAA"),
            Refusal::Signature,
        ),
        ("expired", token(&header, &expired, ""), Refusal::Expiry),
        (
            "another project",
            token(&header, &other, ""),
            Refusal::Audience,
        ),
        (
            "an extension",
            token(&json!({"alg": "none", "crit": ["x"]}), &good, ""),
            Refusal::CriticalHeader,
        ),
    ] {
        assert_eq!(
            refusal(project.verify(&token).await),
            Some(expected),
            "{name}"
        );
    }
    assert_eq!(
        project.provider.key_requests(),
        0,
        "there are no keys to ask for"
    );
}
