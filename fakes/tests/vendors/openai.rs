//! `OpenAI` Images, and a local server with the same API.

use super::{every_common_fault_is_played, size, start};
use base64::{Engine, prelude::BASE64_STANDARD};
use fakes::Fake;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

fn generation(fake: &Fake, http: &Client, body: &Value) -> RequestBuilder {
    let call = http.post(format!("{}/v1/images/generations", fake.base_url()));
    call.bearer_auth("key").json(body)
}

fn request(prompt: &str) -> Value {
    json!({"model": "gpt-image-2", "prompt": prompt, "size": "1536x864", "quality": "high"})
}

async fn ask(fake: &Fake, http: &Client, body: &Value) -> (u16, Value) {
    read(generation(fake, http, body).send().await.unwrap()).await
}

async fn read(response: Response) -> (u16, Value) {
    let id = response.headers()["x-request-id"].to_str().unwrap();
    assert!(id.starts_with("req_"));
    (response.status().as_u16(), response.json().await.unwrap())
}

fn picture(reply: &Value, index: usize) -> Vec<u8> {
    let data = reply["data"][index]["b64_json"].as_str().unwrap();
    BASE64_STANDARD.decode(data).unwrap()
}

fn photo(width: u32, height: u32) -> Vec<u8> {
    let photo = image::RgbaImage::from_fn(width, height, |x, y| {
        let inside = x > width / 3 && x < width * 2 / 3 && y > height / 4;
        image::Rgba(if inside {
            [200, 20, 30, 255]
        } else {
            [250, 250, 250, 255]
        })
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    photo.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A field of a form: its name, its file name and media type if it is a file, and its bytes.
type Part<'a> = (&'a str, Option<(&'a str, &'a str)>, &'a [u8]);

/// A multipart form.
fn form(parts: &[Part<'_>]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (name, file, bytes) in parts {
        body.extend_from_slice(
            format!("--line\r\nContent-Disposition: form-data; name=\"{name}\"").as_bytes(),
        );
        if let Some((file_name, content_type)) = file {
            body.extend_from_slice(
                format!("; filename=\"{file_name}\"\r\nContent-Type: {content_type}").as_bytes(),
            );
        }
        body.extend_from_slice(b"\r\n\r\n");
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--line--\r\n");
    ("multipart/form-data; boundary=line".to_owned(), body)
}

async fn edit(fake: &Fake, http: &Client, parts: &[Part<'_>]) -> (u16, Value) {
    let (content_type, body) = form(parts);
    let call = http
        .post(format!("{}/v1/images/edits", fake.base_url()))
        .bearer_auth("key");
    let call = call.header("content-type", content_type).body(body);
    read(call.send().await.unwrap()).await
}

#[tokio::test]
async fn a_good_reply_has_pictures_and_usage() {
    let (fake, http) = start().await;
    let mut body = request("A cup on linen, twenty letters");
    body["n"] = 2.into();
    let (status, reply) = ask(&fake, &http, &body).await;
    assert_eq!(status, 200);
    assert_eq!(size(&picture(&reply, 0)), (1536, 864));
    assert_ne!(picture(&reply, 0), picture(&reply, 1));
    assert_eq!(
        (
            &reply["size"],
            &reply["quality"],
            &reply["output_format"],
            &reply["background"]
        ),
        (
            &json!("1536x864"),
            &json!("high"),
            &json!("png"),
            &json!("opaque")
        )
    );
    let usage = &reply["usage"];
    assert_eq!(usage["output_tokens"], 2 * 1568);
    assert_eq!(
        usage["total_tokens"],
        2 * 1568 + usage["input_tokens"].as_u64().unwrap()
    );
    assert!(reply["created"].as_i64().unwrap() > 1_700_000_000);
    let (_, again) = ask(&fake, &http, &body).await;
    assert_ne!(
        picture(&reply, 0),
        picture(&again, 0),
        "no model has a fixed seed"
    );
    let calls = fake.journal().calls();
    assert_eq!(
        (calls[0].vendor, calls[0].model.as_str()),
        ("openai", "gpt-image-2")
    );
    assert_eq!(calls[0].picture_sha256.as_ref().unwrap().len(), 64);
}

#[tokio::test]
async fn pictures_have_the_requested_format() {
    let (fake, http) = start().await;
    for (word, format) in [
        ("png", image::ImageFormat::Png),
        ("jpeg", image::ImageFormat::Jpeg),
        ("webp", image::ImageFormat::WebP),
    ] {
        let mut body = request("A cup");
        body["output_format"] = word.into();
        let (status, reply) = ask(&fake, &http, &body).await;
        assert_eq!((status, &reply["output_format"]), (200, &json!(word)));
        assert_eq!(image::guess_format(&picture(&reply, 0)).unwrap(), format);
    }
}

#[tokio::test]
async fn invalid_requests_are_refused() {
    let (fake, http) = start().await;
    for (field, value, param, code) in [
        (
            "response_format",
            json!("b64_json"),
            "response_format",
            "unknown_parameter",
        ),
        ("style", json!("vivid"), "style", "unknown_parameter"),
        (
            "input_fidelity",
            json!("high"),
            "input_fidelity",
            "invalid_input_fidelity_model",
        ),
        ("size", json!("1000x1000"), "size", "invalid_value"),
        ("size", json!("3200x1024"), "size", "invalid_value"),
        ("size", json!("3840x2176"), "size", "invalid_value"),
        ("size", json!("512x512"), "size", "invalid_value"),
        ("size", json!("big"), "size", "invalid_value"),
        ("n", json!(0), "n", "integer_out_of_range"),
        ("n", json!(11), "n", "integer_out_of_range"),
        ("n", json!("2"), "n", "invalid_type"),
        ("quality", json!("max"), "quality", "invalid_value"),
        ("moderation", json!("none"), "moderation", "invalid_value"),
        (
            "output_compression",
            json!(50),
            "output_compression",
            "invalid_png_output_compression",
        ),
        ("output_format", json!("gif"), "output_format", "not_played"),
        (
            "background",
            json!("transparent"),
            "background",
            "not_played",
        ),
        ("stream", json!(true), "stream", "not_played"),
        (
            "prompt",
            json!("a".repeat(32_001)),
            "prompt",
            "string_above_max_length",
        ),
        (
            "prompt",
            json!(null),
            "prompt",
            "missing_required_parameter",
        ),
        ("model", json!(null), "model", "missing_required_parameter"),
    ] {
        let mut body = request("A cup");
        body[field] = value;
        let (status, reply) = ask(&fake, &http, &body).await;
        let error = &reply["error"];
        assert_eq!(
            (status, &error["param"], &error["code"]),
            (400, &json!(param), &json!(code)),
            "{reply}"
        );
        assert!(error["type"].is_string() && error["message"].is_string());
    }
    let mut finer = request("A cup");
    finer["model"] = "gpt-image-2.5-sunburst".into();
    finer["quality"] = "max".into();
    assert_eq!(ask(&fake, &http, &finer).await.0, 200);
    for largest in ["3840x2160", "2160x3840", "auto"] {
        fake.faults().plain(true);
        let mut body = request("A cup");
        body["size"] = largest.into();
        assert_eq!(ask(&fake, &http, &body).await.0, 200, "{largest}");
    }
}

#[tokio::test]
async fn other_paths_and_credentials_are_refused() {
    let (fake, http) = start().await;
    let url = format!("{}/v1/images/generations", fake.base_url());
    let unsigned = http
        .post(&url)
        .json(&request("A cup"))
        .send()
        .await
        .unwrap();
    let (status, reply) = read(unsigned).await;
    assert_eq!(
        (status, &reply["error"]["code"]),
        (401, &json!("invalid_api_key"))
    );
    let mut body = request("A cup");
    body["model"] = "dall-e-3".into();
    let (status, reply) = ask(&fake, &http, &body).await;
    assert_eq!(
        (status, &reply["error"]["code"]),
        (404, &json!("model_not_found"))
    );
    let words = http.post(&url).bearer_auth("key").body("A cup");
    let (status, _) = read(words.send().await.unwrap()).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn edits_accept_photos_and_a_mask() {
    let (fake, http) = start().await;
    let (photo, other) = (photo(400, 200), photo(100, 100));
    let png = Some(("photo.png", "image/png"));
    let parts: Vec<Part<'_>> = vec![
        ("model", None, b"gpt-image-2"),
        ("prompt", None, b"On slate"),
        ("n", None, b"1"),
        ("image[]", png, &photo),
        ("image[]", png, &other),
        ("mask", png, &photo),
    ];
    let (status, reply) = edit(&fake, &http, &parts).await;
    assert_eq!(status, 200, "{reply}");
    let drawn = image::load_from_memory(&picture(&reply, 0))
        .unwrap()
        .to_rgb8();
    assert_eq!(drawn.dimensions(), (1536, 1024), "auto follows the photo");
    let red = drawn
        .pixels()
        .filter(|pixel| pixel.0 == [200, 20, 30])
        .count();
    assert!(red > 10_000, "{red}");
    assert_eq!(
        reply["usage"]["input_tokens_details"]["image_tokens"],
        2 * 765
    );

    let call = &fake.journal().calls()[0];
    assert_eq!(call.body["prompt"], "On slate");
    assert_eq!(call.body["image"].as_array().unwrap().len(), 2);
    assert_eq!(call.body["mask"][0]["bytes"], photo.len());
    assert_eq!(call.body["image"][1]["sha256"].as_str().unwrap().len(), 64);

    let single = [parts[0], parts[1], ("image", png, photo.as_slice())];
    assert_eq!(edit(&fake, &http, &single).await.0, 200);
    let mut wrong_mask = parts.clone();
    wrong_mask[5].2 = &other;
    for (parts, code) in [
        (wrong_mask.as_slice(), "invalid_image_file"),
        (&[parts[0], parts[1]], "missing_required_parameter"),
        (
            &[parts[0], parts[1], ("image[]", png, b"no picture")],
            "invalid_image_file",
        ),
        (
            &[parts[0], parts[1], parts[3], ("moderation", None, b"low")],
            "unknown_parameter",
        ),
        (
            &[
                parts[0],
                parts[1],
                parts[3],
                ("input_fidelity", None, b"high"),
            ],
            "invalid_input_fidelity_model",
        ),
        (
            &[parts[0], parts[1], parts[3], ("n", None, b"many")],
            "invalid_type",
        ),
    ] {
        let (status, reply) = edit(&fake, &http, parts).await;
        assert_eq!(
            (status, &reply["error"]["code"]),
            (400, &json!(code)),
            "{reply}"
        );
    }
}

#[tokio::test]
async fn a_local_server_takes_more_and_answers_with_urls() {
    let (fake, http) = start().await;
    let mut body = json!({
        "model": "local-flux", "prompt": "A cup", "size": "640x360", "seed": 5, "steps": 20,
        "negative_prompt": "people", "guidance": 3.5,
    });
    let (status, reply) = ask(&fake, &http, &body).await;
    assert_eq!(status, 200);
    assert!(reply["usage"].is_null() && reply["data"][0]["b64_json"].is_null());
    let url = reply["data"][0]["url"].as_str().unwrap();
    assert!(url.starts_with(&fake.base_url()), "{url}");
    let file = http.get(url).send().await.unwrap();
    assert_eq!(file.headers()["content-type"], "image/png");
    let bytes = file.bytes().await.unwrap();
    assert_eq!(size(&bytes), (640, 360));
    let missing = http.get(format!("{}/generated-images/none.png", fake.base_url()));
    assert_eq!(missing.send().await.unwrap().status(), 404);

    body["response_format"] = "b64_json".into();
    let (_, reply) = ask(&fake, &http, &body).await;
    let first = picture(&reply, 0);
    let (_, reply) = ask(&fake, &http, &body).await;
    assert_eq!(first, picture(&reply, 0), "a seed is kept to");
    assert_eq!(fake.journal().count(), 3, "downloads ask for no picture");
    assert_eq!(fake.journal().calls().len(), 5);

    body["prompt"] = "A cup [[fault:bad_base64]]".into();
    body["response_format"] = "url".into();
    assert_eq!(
        ask(&fake, &http, &body).await.0,
        400,
        "there is no base64 to spoil"
    );
}

#[tokio::test]
async fn refusals_are_400() {
    let (fake, http) = start().await;
    for prompt in ["Something forbidden", "An unsafe picture"] {
        let (status, reply) = ask(&fake, &http, &request(prompt)).await;
        let error = &reply["error"];
        assert_eq!(
            (status, &error["code"], &error["type"]),
            (
                400,
                &json!("moderation_blocked"),
                &json!("image_generation_user_error")
            )
        );
    }
    assert_eq!(fake.journal().outcomes()["error:moderation_blocked"], 2);
}

#[tokio::test]
async fn every_error_code_has_its_status() {
    let (fake, http) = start().await;
    for (code, expected) in [
        ("moderation_blocked", 400),
        ("content_policy_violation", 400),
        ("insufficient_quota", 429),
        ("billing_hard_limit_reached", 400),
        ("rate_limit_exceeded", 429),
        ("model_not_found", 404),
        ("invalid_api_key", 401),
        ("server_error", 500),
        ("a_code_from_the_future", 400),
    ] {
        let body = request(&format!("A cup [[fault:error:{code}]]"));
        let (status, reply) = ask(&fake, &http, &body).await;
        assert_eq!((status, &reply["error"]["code"]), (expected, &json!(code)));
    }
}

#[tokio::test]
async fn a_throttled_call_gets_a_retry_hint() {
    let (fake, http) = start().await;
    let body = request("A cup [[fault:throttle:7*1]] [[fault:no_quota*1]]");
    let throttled = generation(&fake, &http, &body).send().await.unwrap();
    assert_eq!(throttled.headers()["retry-after"], "7");
    assert_eq!(throttled.headers()["x-ratelimit-remaining-requests"], "0");
    assert_eq!(throttled.headers()["x-ratelimit-reset-requests"], "7s");
    let (_, reply) = read(throttled).await;
    assert_eq!(reply["error"]["code"], "rate_limit_exceeded");
    let (status, spent) = ask(&fake, &http, &body).await;
    assert_eq!(
        (status, &spent["error"]["code"]),
        (429, &json!("insufficient_quota"))
    );
}

#[tokio::test]
async fn every_fault_is_played() {
    let (fake, http) = start().await;
    every_common_fault_is_played(&fake, |prompt| generation(&fake, &http, &request(&prompt))).await;
    for word in [
        "failed_precondition",
        "text_only",
        "only_thought",
        "no_image",
        "finish:STOP",
        "block:OTHER",
        "interaction:failed",
        "content_blocked",
        "poll:unavailable",
        "gone",
    ] {
        let (status, reply) = ask(&fake, &http, &request(&format!("A cup [[fault:{word}]]"))).await;
        let message = reply["error"]["message"].as_str().unwrap();
        assert_eq!(
            (status, message.contains("cannot play")),
            (400, true),
            "{message}"
        );
    }
    let (_, empty) = ask(&fake, &http, &request("A cup [[fault:empty]]")).await;
    assert_eq!(empty["data"], json!([]));
}
