//! Compares our providers with the vendors' own clients, and drives the console in a real browser. Both run in Python. They are the
//! proof that the fakes behave like the vendors.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bucket::Address;
use bytes::Bytes;
use common::config::{self, Config};
use common::people::identity::firebase::{FirebaseSettings, FirebaseVerifier};
use common::people::identity::http::IdentityHttp;
use domain::catalog::{Catalog, Lane};
use domain::clock;
use domain::generation::image::{AspectRatio, InputRole, MediaType, Size};
use domain::id::{CallId, JobId};
use fakes::Fake;
use futures::stream;
use multer::Multipart;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tests::gcs::{self, Gcs};
use tests::s3::S3;
use tests::{Options, Pipeline, contract};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use worker::providers::{Answer, CallRequest, InputImage, Providers, Reply};

const PHOTO: &[u8] = include_bytes!("../../samples/product.jpg");
/// The time limit of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const PROMPT: &str = "the bottle on wet slate, soft window light";
const ART_DIRECTION: &str = "calm, natural, no text";

/// One API: how to call it by our provider and by the vendor's own client.
struct Oracle {
    script: &'static str,
    /// The name of the API in the script.
    api: &'static str,
    /// The model's id in our catalogue.
    model: &'static str,
    thinking: Option<&'static str>,
    photo: bool,
    /// The client's fields for input tokens and thought tokens.
    token_fields: [&'static str; 2],
}

const VERTEX: Oracle = Oracle {
    script: "google_oracle.py",
    api: "vertex",
    model: "gemini-3-pro-image",
    thinking: Some("HIGH"),
    photo: true,
    token_fields: ["prompt_token_count", "thoughts_token_count"],
};
const GEMINI: Oracle = Oracle {
    api: "gemini",
    model: "gemini-3-pro-image-developer",
    ..VERTEX
};
const INTERACTIONS: Oracle = Oracle {
    api: "interactions",
    model: "gemini-nano-banana-2.1-background",
    thinking: Some("high"),
    token_fields: ["total_input_tokens", "total_thought_tokens"],
    ..VERTEX
};
const EDITS: Oracle = Oracle {
    script: "openai_oracle.py",
    api: "edits",
    model: "gpt-image-2",
    thinking: None,
    photo: true,
    token_fields: ["input_tokens", "thought_tokens"],
};
const GENERATIONS: Oracle = Oracle {
    api: "generations",
    photo: false,
    ..EDITS
};
const ALL: [Oracle; 5] = [VERTEX, GEMINI, INTERACTIONS, GENERATIONS, EDITS];

#[tokio::test]
async fn our_requests_equal_those_of_the_vendors_clients() {
    for oracle in ALL {
        let order = Order::new(&oracle);
        let fake = fake().await;
        fake.faults().plain(true);
        order.ours(&fake).await;
        let received = order.theirs("body", None).await;

        let (journal, api) = (fake.journal(), oracle.api);
        let call = journal.calls().remove(0);
        assert_eq!((api, &json!(call.path)), (api, &received["path"]));
        let raw = journal.raw_body(call.number).unwrap();
        let ours = readable(raw).await;
        let raw = STANDARD.decode(received["body_base64"].as_str().unwrap());
        let mut theirs = readable(raw.unwrap().into()).await;
        if matches!(api, "vertex" | "gemini") {
            theirs = in_camel_case(theirs);
        }
        assert_eq!((api, ours), (api, theirs));
        // Only one kind of credentials may be sent. The fakes accept both kinds at once.
        let (with, without) = match api {
            "gemini" | "interactions" => ("x-goog-api-key", "authorization"),
            _ => ("authorization", "x-goog-api-key"),
        };
        let headers = &received["headers"];
        assert!(
            headers[with].is_string() && headers[without].is_null(),
            "{headers}"
        );
    }
}

#[tokio::test]
async fn the_vendors_clients_read_the_same_picture() {
    for oracle in ALL {
        let order = Order::new(&oracle);
        // One fake for each: some answers depend on the number of earlier calls.
        let (ours, theirs) = (fake().await, fake().await);
        // So that a poll sees background work in progress.
        theirs.faults().latency(300..=300);
        let answer = order.ours(&ours).await;
        let result = order.theirs("generate", Some(&theirs)).await;

        let picture = hex::encode(Sha256::digest(answer.image.unwrap()));
        assert_eq!(result["sha256"], picture, "{}: {result}", oracle.api);
        let [input, thought] = oracle
            .token_fields
            .map(|name| result["usage"][name].as_i64());
        assert_eq!(
            (input, thought.unwrap_or(0)),
            (Some(answer.tokens.input), answer.tokens.thought),
            "{}: {result}",
            oracle.api
        );
        if oracle.api != "interactions" {
            assert_eq!(
                [&result["width"], &result["height"]],
                [1856, 2304],
                "{result}"
            );
        }
        match oracle.api {
            "vertex" | "gemini" => {
                assert_eq!(result["finish_reason"], "STOP");
                assert_eq!(result["mime_type"], "image/png");
                assert_eq!(result["model_version"], "gemini-3-pro-image");
                assert_eq!(result["signed"], true);
            }
            "interactions" => {
                let statuses = result["statuses"].as_array().unwrap();
                let (last, before) = statuses.split_last().unwrap();
                assert_eq!(last, "completed");
                assert!(!before.is_empty() && before.iter().all(|status| status == "in_progress"));
                assert_eq!(result["steps"], json!(["thought", "model_output"]));
                assert_eq!(result["mime_type"], "image/jpeg");
                let ids = result["ids"].as_array().unwrap();
                assert_eq!(ids.len(), 1, "{result}");
                assert!(ids[0].as_str().unwrap().starts_with("v1_"), "{result}");
            }
            _ => {
                assert_eq!(result["size"], "1856x2304");
                assert_eq!(
                    (&result["quality"], &result["output_format"]),
                    (&json!("high"), &json!("png"))
                );
                assert!(
                    result["request_id"].as_str().unwrap().starts_with("req_"),
                    "{result}"
                );
            }
        }
    }
}

#[tokio::test]
async fn googles_client_understands_how_the_fake_fails() {
    for oracle in [VERTEX, GEMINI] {
        let errors = Order::new(&oracle)
            .theirs("errors", Some(&fake().await))
            .await;
        for (name, raised, code, status) in [
            ("throttle", "ClientError", 429, "RESOURCE_EXHAUSTED"),
            ("no_quota", "ClientError", 429, "RESOURCE_EXHAUSTED"),
            ("invalid", "ClientError", 400, "INVALID_ARGUMENT"),
            ("unknown_size", "ClientError", 400, "INVALID_ARGUMENT"),
            (
                "failed_precondition",
                "ClientError",
                400,
                "FAILED_PRECONDITION",
            ),
            ("unauthenticated", "ClientError", 401, "UNAUTHENTICATED"),
            ("denied", "ClientError", 403, "PERMISSION_DENIED"),
            ("retired", "ClientError", 404, "NOT_FOUND"),
            ("internal", "ServerError", 500, "INTERNAL"),
            ("unavailable", "ServerError", 503, "UNAVAILABLE"),
            ("deadline", "ServerError", 504, "DEADLINE_EXCEEDED"),
        ] {
            let expected = json!([raised, code, status]);
            assert_eq!(
                fields(&errors[name], ["raised", "code", "status"]),
                expected,
                "{name}: {}",
                errors[name]
            );
        }
        // Vertex AI sends a retry hint only if a fault asks for it. The Developer API sends one in the body.
        let hints = |name: &str| fields(&errors[name], ["retry_after", "retry_delay"]);
        let (once, with_hint) = match oracle.api {
            "gemini" => (json!([null, "1s"]), json!([null, "7s"])),
            _ => (json!([null, null]), json!(["7", null])),
        };
        assert_eq!(
            (hints("throttle"), hints("throttle_with_hint")),
            (once, with_hint)
        );
        assert_eq!(
            errors["refused_prompt"]["block_reason"],
            "PROHIBITED_CONTENT"
        );
        assert_eq!(errors["refused_picture"]["finish_reason"], "IMAGE_SAFETY");
        assert_eq!(errors["no_image"]["finish_reason"], "NO_IMAGE");
        assert_eq!(errors["max_tokens"]["finish_reason"], "MAX_TOKENS");
        assert_eq!(
            errors["unknown_reason"]["finish_reason"],
            "A_REASON_FROM_THE_FUTURE"
        );
        for name in ["cut", "not_json", "bad_base64"] {
            assert!(
                errors[name]["raised"].is_string(),
                "{name}: {}",
                errors[name]
            );
        }
    }
}

#[tokio::test]
async fn googles_client_understands_how_interactions_fail() {
    let errors = Order::new(&INTERACTIONS)
        .theirs("errors", Some(&fake().await))
        .await;
    for (name, raised, code, word) in [
        ("throttle", "RateLimitError", 429, "too_many_requests"),
        ("no_quota", "RateLimitError", 429, "too_many_requests"),
        ("invalid", "BadRequestError", 400, "invalid_request"),
        ("unknown_size", "BadRequestError", 400, "invalid_request"),
        (
            "failed_precondition",
            "BadRequestError",
            400,
            "failed_precondition",
        ),
        ("retired", "NotFoundError", 404, "not_found"),
        ("internal", "InternalServerError", 500, "internal"),
        ("unavailable", "InternalServerError", 503, "unavailable"),
        (
            "poll_unavailable",
            "InternalServerError",
            503,
            "unavailable",
        ),
        ("deadline", "InternalServerError", 504, "deadline_exceeded"),
        ("gone", "NotFoundError", 404, "not_found"),
        ("get_deleted", "NotFoundError", 404, "not_found"),
        ("delete_deleted", "NotFoundError", 404, "not_found"),
        ("cancel_ended", "BadRequestError", 400, "invalid_request"),
    ] {
        let errors = &errors[name];
        let result = json!([
            errors["raised"],
            errors["code"],
            errors["body"]["error"]["code"]
        ]);
        assert_eq!(result, json!([raised, code, word]), "{name}: {errors}");
    }
    // Google's front end checks credentials, and sends its errors in lists.
    for (name, raised, code, status) in [
        (
            "unauthenticated",
            "AuthenticationError",
            401,
            "UNAUTHENTICATED",
        ),
        ("denied", "PermissionDeniedError", 403, "PERMISSION_DENIED"),
    ] {
        let errors = &errors[name];
        let result = json!([
            errors["raised"],
            errors["code"],
            errors["body"][0]["error"]["status"]
        ]);
        assert_eq!(result, json!([raised, code, status]), "{name}: {errors}");
    }
    let hint = &errors["throttle_with_hint"];
    assert_eq!(
        fields(hint, ["retry_after", "retry_delay"]),
        json!(["7", "7s"]),
        "{hint}"
    );

    for (name, status, error) in [
        ("failed", "failed", Some("internal")),
        ("refused_prompt", "failed", Some("content_blocked")),
        ("incomplete", "incomplete", None),
        ("cancelled", "cancelled", None),
        (
            "budget_exceeded",
            "budget_exceeded",
            Some("budget_exceeded"),
        ),
        ("requires_action", "requires_action", None),
        ("text_only", "completed", None),
        ("empty", "completed", None),
        ("cancel", "cancelled", None),
        ("get_cancelled", "cancelled", None),
    ] {
        let errors = &errors[name];
        let last = errors["statuses"]
            .as_array()
            .and_then(|statuses| statuses.last());
        assert_eq!(
            (
                last,
                errors["errors"][0]["code"].as_str(),
                &errors["sha256"]
            ),
            (Some(&json!(status)), error, &Value::Null),
            "{name}: {errors}"
        );
    }
    for name in ["cut", "not_json", "bad_base64"] {
        assert!(
            errors[name]["raised"].is_string(),
            "{name}: {}",
            errors[name]
        );
    }
    // The code of this refusal is a sentence, as recorded from the real service.
    let filtered = &errors["refused_picture"]["errors"][0]["code"];
    assert!(
        filtered.as_str().unwrap().starts_with("Unable to show"),
        "{filtered}"
    );
    assert_eq!(errors["delete"], json!({"answer": "None"}));
}

#[tokio::test]
async fn openais_client_understands_how_the_fake_fails() {
    for oracle in [GENERATIONS, EDITS] {
        let errors = Order::new(&oracle)
            .theirs("errors", Some(&fake().await))
            .await;
        let none = None::<&str>;
        for (name, raised, status, code, hint) in [
            (
                "throttle",
                "RateLimitError",
                429,
                Some("rate_limit_exceeded"),
                Some("1"),
            ),
            (
                "throttle_with_hint",
                "RateLimitError",
                429,
                Some("rate_limit_exceeded"),
                Some("7"),
            ),
            (
                "no_quota",
                "RateLimitError",
                429,
                Some("insufficient_quota"),
                none,
            ),
            (
                "hard_limit",
                "BadRequestError",
                400,
                Some("billing_hard_limit_reached"),
                none,
            ),
            ("invalid", "BadRequestError", 400, none, none),
            (
                "unknown_size",
                "BadRequestError",
                400,
                Some("invalid_value"),
                none,
            ),
            (
                "refused_prompt",
                "BadRequestError",
                400,
                Some("moderation_blocked"),
                none,
            ),
            (
                "refused_policy",
                "BadRequestError",
                400,
                Some("content_policy_violation"),
                none,
            ),
            (
                "refused_at_length",
                "BadRequestError",
                400,
                Some("content_policy_violation"),
                none,
            ),
            (
                "unauthenticated",
                "AuthenticationError",
                401,
                Some("invalid_api_key"),
                none,
            ),
            ("denied", "PermissionDeniedError", 403, none, none),
            (
                "retired",
                "NotFoundError",
                404,
                Some("model_not_found"),
                none,
            ),
            (
                "internal",
                "InternalServerError",
                500,
                Some("server_error"),
                none,
            ),
            ("bad_gateway", "InternalServerError", 502, none, none),
            ("unavailable", "InternalServerError", 503, none, none),
        ] {
            let errors = &errors[name];
            let result = fields(errors, ["raised", "status", "code", "retry_after"]);
            assert_eq!(
                result,
                json!([raised, status, code, hint]),
                "{name}: {errors}"
            );
            assert!(errors["request_id"].is_string(), "{name}: {errors}");
        }
        assert_eq!(errors["unknown_size"]["param"], "size");
        assert_eq!(errors["empty"]["pictures"], 0);
        assert_eq!(errors["refused_in_200"]["pictures"], 0);
        assert_eq!(errors["escaped_slashes"]["pictures"], 1);
        for name in ["cut", "bad_base64"] {
            assert!(
                errors[name]["raised"].is_string(),
                "{name}: {}",
                errors[name]
            );
        }
    }
}

/// The fake identity provider is one that other people's client signs in at, and what that client reads is what ours reads.
#[tokio::test]
async fn authlib_signs_in_at_the_identity_provider() {
    let fake = fake().await;
    let issuer = format!("{}/identity", fake.base_url());
    for algorithm in ["RS256", "ES256"] {
        fake.identity().set(fakes::IdentitySwitches {
            algorithm: algorithm.to_owned(),
            ..fakes::IdentitySwitches::default()
        });
        let output = python("identity_oracle.py", &["sign-in", &issuer], "").await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(theirs["algorithm"], algorithm);
        assert_eq!(theirs["email"], "ada@example.com");
        assert_eq!(theirs["issuer_of_callback"], issuer);
        assert_eq!(theirs["once"], json!([200, 400, "invalid_grant"]));
        assert_eq!(theirs["other_verifier"], json!([400, 400, "invalid_grant"]));
    }
}

/// Google's own client verifies tokens with the fake's keys. What it refuses, we refuse. We refuse more: it does not check the
/// issuer, the subject, and the time of sign-in.
#[tokio::test]
async fn we_accept_no_token_that_googles_client_refuses() {
    let fake = fake().await;
    let base_url = fake.base_url();
    let path = "service_accounts/v1/jwk/securetoken@system.gserviceaccount.com";
    let keys = format!("{base_url}/{path}");
    let mut settings = FirebaseSettings::new("platen-studio");
    settings.keys.clone_from(&keys);
    let verifier = FirebaseVerifier::new(settings, &IdentityHttp::new(true).unwrap()).unwrap();

    let (key, own) = (fake.identity().signing_key(), fakes::SigningKey::rsa());
    let now = clock::now().unix_timestamp();
    let claims = |name: &str, value: Value| {
        let mut claims = json!({
            "iss": "https://securetoken.google.com/platen-studio", "aud": "platen-studio", "sub": "ada",
            "iat": now - 10, "auth_time": now - 10, "exp": now + 3_600, "email": "ada@example.com",
        });
        claims[name] = value;
        claims
    };
    let good = claims("name", json!("Ada"));
    let token = key.token(&good);
    let (signed, _) = token.rsplit_once('.').unwrap();
    let with = |header: Value| own.token_with(&header, &good);
    let tokens = json!({
        "good": token,
        "no signature": format!("{signed}."),
        "edited": token.replacen("eyJ", "eyK", 1),
        "unknown key": own.token(&good),
        "another key": with(key.header()),
        "unsigned": with(json!({"alg": "none", "kid": key.id(), "typ": "JWT"})),
        "RS512": key.token_with(&json!({"alg": "RS512", "kid": key.id()}), &good),
        "another audience": key.token(&claims("aud", json!("other"))),
        "expired": key.token(&claims("exp", json!(now - 100))),
        "issued tomorrow": key.token(&claims("iat", json!(now + 86_400))),
        "not valid yet": key.token(&claims("nbf", json!(now + 3_600))),
        "another issuer": key.token(&claims("iss", json!("https://securetoken.google.com/other"))),
        "no subject": key.token(&claims("sub", json!(""))),
    });
    let arguments = ["firebase", keys.as_str(), "platen-studio"];
    let output = python("identity_oracle.py", &arguments, &tokens.to_string()).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();

    let (mut accepted, mut refused) = (Vec::new(), 0);
    for (name, token) in tokens.as_object().unwrap() {
        let ours = verifier
            .verify(token.as_str().unwrap(), clock::now())
            .await
            .is_ok();
        let theirs = &theirs[name];
        assert!(!ours || *theirs == true, "{name}: {theirs}");
        refused += usize::from(*theirs != true);
        if ours {
            accepted.push(name.as_str());
        }
    }
    assert_eq!(accepted, ["good"]);
    assert_eq!(
        refused, 10,
        "Google's client refuses these as well: {theirs}"
    );
}

#[tokio::test]
async fn the_console_makes_a_picture_in_a_browser() {
    check_console(None).await;
}

#[tokio::test]
async fn the_console_shows_pictures_by_links_of_s3() {
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(folder.path()).await;
    check_console(Some((s3.address(), s3.endpoint()))).await;
    s3.stop().await;
}

#[tokio::test]
async fn the_console_shows_pictures_by_links_of_google() {
    let folder = tempfile::tempdir().unwrap();
    let account = folder.path().join("account.json");
    assert!(gcs::oracle("key", &account, "").status.success());
    let gcs = Gcs::start().await;
    let more = [("GOOGLE_SERVICE_ACCOUNT", account.to_str().unwrap())];
    check_console(Some((gcs.address("of/ours", &more), gcs.endpoint()))).await;
}

/// Makes an image in a real browser. `store` is the address and the origin of an object store, if files are not in a folder.
async fn check_console(store: Option<(Address, String)>) {
    let (bucket, store) = store.unzip();
    let pipeline = Pipeline::start_with(Options {
        credits: 1_000,
        bucket,
        ..Options::default()
    })
    .await;
    pipeline.fake.faults().latency(600..=900);
    let folder = tempfile::tempdir().unwrap();
    let photo = root().join("samples/product.jpg");
    let screenshot = folder.path().join("console.png");
    let mut arguments = vec![
        "--base-url",
        &pipeline.url,
        "--key",
        &pipeline.key,
        "--photo",
        photo.to_str().unwrap(),
        "--screenshot",
        screenshot.to_str().unwrap(),
    ];
    if let Some(origin) = &store {
        arguments.extend(["--store", origin]);
    }
    let output = python("console_page.py", &arguments, "").await;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{stdout}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(std::fs::metadata(&screenshot).unwrap().len() > 10_000);
    pipeline.close().await;
}

async fn fake() -> Fake {
    Fake::start(fakes::Options::default()).await.unwrap()
}

/// The same request, sent by our provider and by the vendor's client.
struct Order<'a> {
    oracle: &'a Oracle,
    catalog: Catalog,
    lane: Lane,
    inputs: Vec<InputImage>,
    job: JobId,
    call: CallId,
}

impl<'a> Order<'a> {
    fn new(oracle: &'a Oracle) -> Self {
        let catalog = Catalog::load(None, None).unwrap();
        let lane = Lane {
            project: Some("oracle".to_owned()),
            ..catalog.get(oracle.model).unwrap().lane().clone()
        };
        let photo = InputImage {
            bytes: Bytes::from_static(PHOTO),
            media_type: MediaType::Jpeg,
            role: InputRole::Product,
        };
        Self {
            oracle,
            catalog,
            lane,
            inputs: oracle.photo.then_some(photo).into_iter().collect(),
            job: JobId::new(),
            call: CallId::new(),
        }
    }

    /// Sends it by our provider.
    async fn ours(&self, fake: &Fake) -> Answer {
        let config = Config {
            providers: config::Providers {
                fake: Some(fake.base_url()),
                ..config::Providers::default()
            },
            ..Config::from_env().unwrap()
        };
        let providers =
            Providers::new(&self.catalog, &config, &worker::memory::within(0, 0)).unwrap();
        let provider = providers.get(&self.lane.provider).unwrap();
        let model = self.catalog.get(self.oracle.model).unwrap();
        let request = CallRequest {
            model,
            lane: &self.lane,
            prompt: PROMPT,
            art_direction: Some(ART_DIRECTION),
            inputs: self.inputs.clone(),
            aspect_ratio: AspectRatio::R4x5,
            size: Size::TwoK,
            seed: model.takes_seed.then_some(7),
            thinking: self.oracle.thinking,
            job: self.job,
            call: self.call,
            timeout: CALL_TIMEOUT,
            permit: None,
        };
        let mut reply = provider.submit(request).await;
        loop {
            match reply {
                Reply::Answered(answer) => return answer,
                Reply::Operation(operation) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    reply = provider
                        .poll(&self.lane, &operation, CALL_TIMEOUT)
                        .await
                        .unwrap();
                }
            }
        }
    }

    /// Sends it by the vendor's client. Returns what the script prints.
    async fn theirs(&self, mode: &str, fake: Option<&Fake>) -> Value {
        let Oracle { script, api, .. } = *self.oracle;
        let base_url = fake.map(Fake::base_url);
        let mut arguments = vec![api, mode];
        if let Some(base_url) = &base_url {
            arguments.extend(["--base-url", base_url]);
        }
        let output = python(script, &arguments, &self.client_request().to_string()).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{api} {mode}: {stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The request for the vendor's client. The texts that our providers build are written out here again.
    fn client_request(&self) -> Value {
        let model = &self.catalog.get(self.oracle.model).unwrap().name;
        let inputs: Vec<Value> = (self.inputs.iter())
            .map(|input| {
                json!({
                    "media_type": "image/jpeg",
                    "data_base64": STANDARD.encode(&input.bytes),
                    "caption": "Product photo:",
                })
            })
            .collect();
        let mut request = match self.oracle.script {
            "openai_oracle.py" => {
                let role = if self.oracle.photo {
                    "\n\nPicture 1: Product photo"
                } else {
                    ""
                };
                json!({
                    "prompt": format!("{ART_DIRECTION}\n\n{PROMPT}{role}"),
                    "size": "1856x2304", "quality": "high", "output_format": "png",
                })
            }
            _ => json!({
                "prompt": PROMPT, "art_direction": ART_DIRECTION,
                "aspect_ratio": "4:5", "size": "2K", "seed": 7, "thinking": self.oracle.thinking,
            }),
        };
        request["model"] = json!(model);
        request["inputs"] = json!(inputs);
        if self.oracle.api == "vertex" {
            request["mime_type"] = json!("image/png");
            request["labels"] = json!({"job": self.job.to_string(), "call": self.call.to_string()});
        }
        request
    }
}

/// These fields of an object, as a list.
fn fields<const N: usize>(object: &Value, names: [&str; N]) -> Value {
    names.iter().map(|name| object[name].clone()).collect()
}

/// A body of JSON or a form, with a digest in place of each image.
async fn readable(body: Bytes) -> Value {
    if body.starts_with(b"--") {
        form(body).await
    } else {
        without_pictures(serde_json::from_slice(&body).unwrap())
    }
}

/// The parts of a form: fields sorted by name, because their order does not matter, then files in their order.
async fn form(body: Bytes) -> Value {
    let first_line = body.split(|&byte| byte == b'\r').next().unwrap();
    let boundary = std::str::from_utf8(&first_line[2..]).unwrap().to_owned();
    let body = stream::iter([Ok::<_, Infallible>(body)]);
    let mut multipart = Multipart::new(body, boundary);
    let (mut texts, mut files) = (Vec::new(), Vec::new());
    while let Some(part) = multipart.next_field().await.unwrap() {
        let name = part.name().unwrap().to_owned();
        let content_type = part.content_type().map(ToString::to_string);
        // A part with a file name is a file. The name itself does not matter.
        if part.file_name().is_some() {
            let digest = hex::encode(Sha256::digest(part.bytes().await.unwrap()));
            files.push(json!({"name": name, "content_type": content_type, "sha256": digest}));
        } else {
            texts.push((name, content_type, part.text().await.unwrap()));
        }
    }
    texts.sort();
    json!({"fields": texts, "files": files})
}

/// The value with digests in place of images: base64 has two alphabets, and a digest is the same for both.
fn without_pictures(value: Value) -> Value {
    match value {
        Value::Object(fields) => (fields.into_iter())
            .map(|(name, value)| match (name.as_str(), value) {
                ("data", Value::String(data)) => {
                    let bytes = STANDARD.decode(&data).or_else(|_| URL_SAFE.decode(&data));
                    (name, hex::encode(Sha256::digest(bytes.unwrap())).into())
                }
                (_, value) => (name, without_pictures(value)),
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(without_pictures).collect(),
        other => other,
    }
}

/// The value with names in camel case. Proto JSON also accepts snake case, and Google's client sends some.
fn in_camel_case(value: Value) -> Value {
    match value {
        Value::Object(fields) => (fields.into_iter())
            .map(|(name, value)| {
                let mut words = name.split('_');
                let first = words.next().unwrap_or_default().to_owned();
                let name = words.fold(first, |name, word| {
                    let (initial, rest) = word.split_at(1);
                    name + &initial.to_uppercase() + rest
                });
                (name, in_camel_case(value))
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(in_camel_case).collect(),
        other => other,
    }
}

/// A short form of `make contract`.
#[tokio::test]
async fn the_api_conforms_to_its_openapi_document() {
    let pipeline = Pipeline::start_with(Options::in_earnest()).await;
    let words = ["--examples", "3", "--seed", "1"].map(str::to_owned);
    let status = contract::check(&pipeline, 500, &words).await;
    contract::tidy(&pipeline).await;
    pipeline.close().await;
    assert!(status.success(), "{status}");
}

async fn python(script: &str, arguments: &[&str], input: &str) -> Output {
    let python = root().join(".venv/bin/python");
    assert!(
        python.exists(),
        "there is no .venv: run `scripts/setup test` (or `make test`, which does)"
    );
    let mut command = Command::new(python);
    command
        .arg(root().join("tests/python").join(script))
        .args(arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .await
        .unwrap();
    child.wait_with_output().await.unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}
