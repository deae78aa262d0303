//! ID tokens: whatever is changed in a signed token, it is refused, unless it is the same token again.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::people::identity::TokenError;
use common::people::identity::firebase::{FirebaseSettings, FirebaseVerifier};
use common::people::identity::http::IdentityHttp;
use domain::clock;
use fakes::Fake;
use proptest::prelude::prop_assert;
use proptest::prop_oneof;
use proptest::sample::select;
use proptest::strategy::{Just, Strategy};
use serde_json::json;
use tokio::runtime::Runtime;

use super::edit::{apply_to_text, edits};
use super::{Verdict, fuzz};

const PROJECT: &str = "platen-studio";

/// What an attacker writes into a header or into claims.
const WORDS: &[&str] = &[
    "none", "HS256", "RS256", "ES256", "null", "admin", "0", "-1", "9e99", "[]", "{}", "\"",
    "\\u0000", PROJECT,
];

#[test]
fn a_changed_token_is_refused() {
    let runtime = Runtime::new().unwrap();
    let fake = runtime
        .block_on(Fake::start(fakes::Options::default()))
        .unwrap();
    let verifier = {
        let mut settings = FirebaseSettings::new(PROJECT);
        settings.keys = format!("{}/identity/jwks", fake.base_url());
        FirebaseVerifier::new(settings, &IdentityHttp::new(true).unwrap()).unwrap()
    };
    let key = fake.identity().signing_key();
    let now = clock::now().unix_timestamp();
    let claims = json!({
        "iss": format!("https://securetoken.google.com/{PROJECT}"), "aud": PROJECT, "sub": "ada",
        "iat": now, "auth_time": now, "exp": now + 3_600, "email": "ada@example.com", "email_verified": true,
        "firebase": {"sign_in_provider": "password"},
    });
    let (header, claims) = (key.header().to_string(), claims.to_string());
    let good = key.token_of(&key.header(), &claims);
    let parts: Vec<&str> = good.split('.').collect();
    let [_, _, signature] = parts[..] else {
        panic!("a token has three parts");
    };
    let signature = signature.to_owned();

    let alphabet = "ABCXYZabcxyz0189-_.=+/ ".chars().collect::<Vec<_>>();
    let json_alphabet = "{}[]\":,\\ abkidlgs019".chars().collect::<Vec<_>>();
    // Changes of the token as it is sent, and changes of what is in it.
    let whole = edits(select(alphabet), 3).prop_map({
        let good = good.clone();
        move |edits| apply_to_text(&good, &edits)
    });
    let inner = (
        edits(select(json_alphabet.clone()), 3),
        edits(select(json_alphabet), 3),
        select(WORDS),
    )
        .prop_map(move |(in_header, in_claims, word)| {
            let header = apply_to_text(&header, &in_header).replace("RS256", word);
            let claims = apply_to_text(&claims, &in_claims);
            let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
            format!("{header}.{claims}.{signature}")
        });
    let inputs = prop_oneof![whole, inner, Just(good.clone())];
    // One time for all inputs, so that the good token does not expire in a long run.
    let now = clock::now();
    fuzz("tokens", &inputs, |token| {
        let result = runtime.block_on(verifier.verify(&token, now));
        prop_assert!(
            result.is_ok() == (token == good),
            "accepted: {}",
            result.is_ok()
        );
        match result {
            Ok(_) => Ok(Verdict::Read),
            Err(TokenError::Refused(_)) => Ok(Verdict::Refused),
            Err(error) => panic!("{error}"),
        }
    });
    runtime.block_on(fake.stop());
}
