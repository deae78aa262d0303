//! The Interactions API: waiting, polling, cancelling, and their failures.

use super::{Seen, every_common_fault_is_played, see, size, start};
use base64::{Engine, prelude::BASE64_STANDARD};
use fakes::{Fake, Fault};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use std::time::Duration;

struct Caller {
    fake: Fake,
    http: Client,
}

impl Caller {
    async fn new() -> Self {
        let (fake, http) = start().await;
        Self { fake, http }
    }

    /// A request under `/v1beta/interactions`.
    fn call(&self, method: Method, rest: &str) -> RequestBuilder {
        let url = format!("{}/v1beta/interactions{rest}", self.fake.base_url());
        self.http
            .request(method, url)
            .header("x-goog-api-key", "key")
    }

    async fn create(&self, body: &Value) -> (u16, Value) {
        read(self.call(Method::POST, "").json(body)).await
    }

    async fn get(&self, id: &str) -> (u16, Value) {
        read(self.call(Method::GET, &format!("/{id}"))).await
    }

    /// Starts work in the background. Returns its id.
    async fn begin(&self, prompt: &str) -> String {
        let (status, begun) = self.create(&background(prompt)).await;
        assert_eq!(
            (status, &begun["status"]),
            (200, &json!("in_progress")),
            "{begun}"
        );
        assert!(begun["steps"].is_null());
        begun["id"].as_str().unwrap().to_owned()
    }

    /// Polls until the work is over.
    async fn ended(&self, id: &str) -> Value {
        loop {
            let (status, told) = self.get(id).await;
            assert_eq!(status, 200, "{told}");
            if told["status"] != "in_progress" {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn read(call: RequestBuilder) -> (u16, Value) {
    let response = call.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

fn request(prompt: &str) -> Value {
    json!({
        "model": "gemini-3-pro-image",
        "input": [{"type": "text", "text": prompt}],
        "response_format": {"type": "image", "aspect_ratio": "4:5", "image_size": "2K", "mime_type": "image/jpeg", "delivery": "inline"},
        "generation_config": {"seed": 7, "thinking_level": "high"},
        "labels": {"job": "job_1"},
    })
}

fn background(prompt: &str) -> Value {
    let mut body = request(prompt);
    body["background"] = true.into();
    body["store"] = true.into();
    body
}

fn picture(interaction: &Value) -> Vec<u8> {
    let steps = interaction["steps"].as_array().unwrap();
    let content = &steps.last().unwrap()["content"][0];
    assert_eq!(
        (&content["type"], &content["mime_type"]),
        (&json!("image"), &json!("image/jpeg"))
    );
    BASE64_STANDARD
        .decode(content["data"].as_str().unwrap())
        .unwrap()
}

#[tokio::test]
async fn a_synchronous_call_returns_the_picture() {
    let caller = Caller::new().await;
    let (status, reply) = caller.create(&request("A cup on linen")).await;
    assert_eq!((status, &reply["status"]), (200, &json!("completed")));
    assert_eq!(size(&picture(&reply)), (1856, 2304));
    assert_eq!(reply["steps"][0]["type"], "thought");
    assert_eq!(reply["object"], "interaction");
    let usage = &reply["usage"];
    assert_eq!(usage["total_tokens"], 4 + 1120 + 240);
    assert_eq!(
        usage["output_tokens_by_modality"],
        json!([{"modality": "image", "tokens": 1120}])
    );

    let id = reply["id"].as_str().unwrap();
    assert_eq!(caller.get(id).await, (200, reply.clone()));
    let calls = caller.fake.journal().labelled("job", "job_1");
    assert_eq!((calls.len(), calls[0].vendor), (1, "interactions"));
    assert_eq!(calls[0].model, "gemini-3-pro-image");
    assert_eq!(
        (
            caller.fake.journal().count(),
            caller.fake.journal().calls().len()
        ),
        (1, 2)
    );

    let mut unstored = request("A cup on linen");
    unstored["store"] = false.into();
    let (_, reply) = caller.create(&unstored).await;
    assert!(reply["id"].is_null());
    assert_eq!(
        picture(&reply),
        picture(&caller.get(id).await.1),
        "however it is waited for"
    );
}

#[tokio::test]
async fn background_work_ends_after_the_latency() {
    let caller = Caller::new().await;
    caller.fake.faults().latency(400..=400);
    let id = caller.begin("A cup").await;
    assert_eq!(caller.get(&id).await.1["status"], "in_progress");
    tokio::time::sleep(Duration::from_millis(450)).await;
    let (_, done) = caller.get(&id).await;
    assert_eq!(done["status"], "completed");
    assert_eq!(size(&picture(&done)), (1856, 2304));
    assert_eq!(
        caller.get(&id).await.1,
        done,
        "the same whenever it is asked"
    );
    let outcomes: Vec<_> = (caller.fake.journal().calls().iter())
        .map(|call| {
            (
                call.creates,
                call.outcome.clone().unwrap(),
                call.picture_sha256.is_some(),
            )
        })
        .collect();
    assert_eq!(
        outcomes,
        [
            (true, "ok".to_owned(), false),
            (false, "in_progress".to_owned(), false),
            (false, "completed".to_owned(), true),
            (false, "completed".to_owned(), true),
        ]
    );
}

#[tokio::test]
async fn photos_are_read_from_contents_and_steps() {
    let caller = Caller::new().await;
    let photo = image::RgbImage::from_fn(320, 180, |x, y| {
        let inside = (100..220).contains(&x) && (30..150).contains(&y);
        image::Rgb(if inside {
            [200, 20, 30]
        } else {
            [250, 250, 250]
        })
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    photo.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    let data = BASE64_STANDARD.encode(bytes.into_inner());
    let image = json!({"type": "image", "mime_type": "image/png", "data": data});
    let text = json!({"type": "text", "text": "A red box"});
    for input in [
        json!([text, {"type": "text", "text": "Product photo:"}, image]),
        json!([{"type": "user_input", "content": [text, image]}]),
    ] {
        let mut body = request("");
        body["input"] = input;
        body["response_format"] = json!([{"type": "image"}]);
        let (status, reply) = caller.create(&body).await;
        assert_eq!(status, 200, "{reply}");
        assert_eq!(size(&picture(&reply)), (1376, 768));
        assert_eq!(
            reply["usage"]["total_input_tokens"].as_u64().unwrap() / 560,
            1
        );
    }
    let kept = &caller.fake.journal().calls()[0].body["input"][2]["data"];
    assert!(kept["bytes"].as_u64().unwrap() > 100);
    let mut words = request("A cup");
    words.as_object_mut().unwrap().remove("response_format");
    words["input"] = "A cup".into();
    let (_, reply) = caller.create(&words).await;
    assert_eq!(reply["steps"][1]["content"][0]["type"], "text");
}

#[tokio::test]
async fn unknown_fields_are_refused() {
    let caller = Caller::new().await;
    for (pointer, value, words) in [
        ("/prompt", json!("A cup"), "unknown field `prompt`"),
        ("/generation_config/top_k", json!(3), "top_k"),
        ("/response_format/size", json!("1K"), "response_format"),
        (
            "/response_format/mime_type",
            json!("image/png"),
            "image/jpeg",
        ),
        ("/response_format/delivery", json!("uri"), "no files"),
        ("/response_format/image_size", json!("1k"), "Image size 1k"),
        (
            "/response_format/aspect_ratio",
            json!("1:8"),
            "aspect_ratio",
        ),
        ("/labels/job", json!("Job 1"), "Invalid label value"),
        ("/input", json!([]), "'input'"),
        (
            "/input",
            json!([{"type": "image", "mime_type": "image/png", "data": "AAAA"}]),
            "not valid",
        ),
        (
            "/input",
            json!([{"type": "video", "data": "AAAA"}]),
            "input[0]",
        ),
        ("/stream", json!(true), "stream"),
        ("/tools", json!([]), "tools"),
        ("/safety_settings", json!([]), "safety_settings"),
        ("/store", json!(false), "background"),
        ("/model", json!(null), "model"),
    ] {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let mut body = background("A cup");
        body.pointer_mut(parent).unwrap()[name] = value;
        let (status, reply) = caller.create(&body).await;
        let error = &reply["error"];
        assert_eq!(
            (status, &error["code"]),
            (400, &json!("invalid_request")),
            "{pointer} {reply}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{pointer}: {message}");
    }
    let mut body = request("A cup");
    body["model"] = "imagen-3".into();
    assert_eq!(
        caller.create(&body).await,
        (
            404,
            json!({"error": {"message": "Model 'imagen-3' not found.", "code": "not_found"}})
        )
    );
    body["model"] = "gemini-3-pro-image".into();
    body["previous_interaction_id"] = "v1_none".into();
    assert_eq!(caller.create(&body).await.0, 404);
}

#[tokio::test]
async fn each_host_accepts_its_own_credentials() {
    let caller = Caller::new().await;
    let gemini = format!("{}/v1beta/interactions", caller.fake.base_url());
    let vertex = format!(
        "{}/v1beta1/projects/p/locations/global/interactions",
        caller.fake.base_url()
    );
    let post = |url: &str| caller.http.post(url).json(&request("A cup"));
    let (status, reply) = read(post(&gemini)).await;
    assert_eq!(
        (status, &reply[0]["error"]["status"]),
        (403, &json!("PERMISSION_DENIED"))
    );
    let (status, reply) = read(post(&vertex).header("x-goog-api-key", "key")).await;
    assert_eq!(
        (status, &reply[0]["error"]["status"]),
        (401, &json!("UNAUTHENTICATED"))
    );
    assert!(
        reply[0]["error"]["message"]
            .as_str()
            .unwrap()
            .starts_with("API keys are not supported")
    );
    let (status, reply) = read(post(&vertex).bearer_auth("token")).await;
    assert_eq!(status, 200);
    let one = format!("{vertex}/{}", reply["id"].as_str().unwrap());
    assert_eq!(read(caller.http.get(&one)).await.0, 401);
    assert_eq!(
        read(caller.http.get(&one).bearer_auth("token")).await.0,
        200
    );
    let mut body = request("A cup");
    body["safety_settings"] = json!([{"type": "harassment", "threshold": "block_none"}]);
    assert_eq!(
        read(caller.http.post(&vertex).bearer_auth("token").json(&body))
            .await
            .0,
        200
    );
}

#[tokio::test]
async fn work_can_be_cancelled_and_deleted() {
    let caller = Caller::new().await;
    let id = caller.begin("A cup [[fault:never]]").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(caller.get(&id).await.1["status"], "in_progress");
    let cancel = format!("/{id}/cancel");
    let (status, cancelled) = read(caller.call(Method::POST, &cancel)).await;
    assert_eq!((status, &cancelled["status"]), (200, &json!("cancelled")));
    assert_eq!(caller.get(&id).await.1["status"], "cancelled");
    assert_eq!(
        read(caller.call(Method::POST, &cancel)).await.0,
        200,
        "twice is once"
    );

    let done = caller.begin("A cup").await;
    assert_eq!(caller.ended(&done).await["status"], "completed");
    let late = caller.call(Method::POST, &format!("/{done}/cancel"));
    assert_eq!(read(late).await.0, 400);

    let delete = || caller.call(Method::DELETE, &format!("/{done}"));
    assert_eq!(read(delete()).await, (200, json!({})));
    assert_eq!(read(delete()).await.0, 404);
    assert_eq!(caller.get(&done).await.0, 404);
    assert_eq!(
        read(caller.call(Method::POST, "/v1_none/cancel")).await.0,
        404
    );
}

#[tokio::test]
async fn refusals_are_400_or_a_failed_interaction() {
    let caller = Caller::new().await;
    let (status, reply) = caller.create(&request("Something forbidden")).await;
    assert_eq!(
        (status, &reply["error"]["code"]),
        (400, &json!("content_blocked"))
    );
    let (status, reply) = caller.create(&request("An unsafe picture")).await;
    assert_eq!(status, 400);
    let message = reply["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("Request blocked due to safety violations"));

    let id = caller.begin("Something forbidden").await;
    let ended = caller.ended(&id).await;
    assert_eq!(
        (&ended["status"], &ended["errors"][0]["code"]),
        (&json!("failed"), &json!("content_blocked"))
    );
    assert_eq!(
        ended["steps"][0]["error"]["message"],
        ended["errors"][0]["message"]
    );
    assert!(ended["usage"].is_null());
    let id = caller.begin("An unsafe picture").await;
    let ended = caller.ended(&id).await;
    assert!(
        ended["errors"][0]["code"]
            .as_str()
            .unwrap()
            .contains("Prohibited Use policy")
    );
    let outcomes = caller.fake.journal().outcomes();
    assert_eq!(
        (outcomes["content_blocked"], outcomes["content_filtered"]),
        (2, 2)
    );
}

#[tokio::test]
async fn an_interaction_ends_with_the_requested_status() {
    let caller = Caller::new().await;
    for status in [
        "failed",
        "cancelled",
        "incomplete",
        "budget_exceeded",
        "requires_action",
        "requires_continuation",
        "a_status_from_the_future",
    ] {
        let id = caller
            .begin(&format!("A cup [[fault:interaction:{status}]]"))
            .await;
        let ended = caller.ended(&id).await;
        assert_eq!(ended["status"], status);
        let (_, waited) = caller
            .create(&request(&format!("A cup [[fault:interaction:{status}]]")))
            .await;
        assert_eq!(
            (&waited["status"], &waited["errors"]),
            (&json!(status), &ended["errors"])
        );
        let with_errors =
            ["failed", "budget_exceeded", "a_status_from_the_future"].contains(&status);
        assert_eq!(ended["errors"].is_array(), with_errors, "{status}");
    }
    let empty = caller.begin("A cup [[fault:empty]]").await;
    let empty = caller.ended(&empty).await;
    assert_eq!(empty["status"], "completed");
    assert!(
        empty["steps"]
            .as_array()
            .unwrap()
            .iter()
            .all(|step| step["type"] != "model_output")
    );
    let words = caller.begin("A cup [[fault:text_only]]").await;
    assert_eq!(
        caller.ended(&words).await["steps"][1]["content"][0]["type"],
        "text"
    );
    let late = caller.begin("A cup [[fault:late:300]]").await;
    assert_eq!(caller.get(&late).await.1["status"], "in_progress");
    assert_eq!(caller.ended(&late).await["status"], "completed");
}

#[tokio::test]
async fn faults_of_polls_do_not_affect_the_creation() {
    let caller = Caller::new().await;
    let id = caller
        .begin("A cup [[fault:poll:unavailable*2]] [[fault:poll:throttle:3*1]]")
        .await;
    let mut met = Vec::new();
    for _ in 0..4 {
        met.push(caller.get(&id).await.0);
    }
    assert_eq!(met, [503, 503, 429, 200]);
    let other = caller
        .begin("A cup [[fault:poll:unavailable*1]] [[fault:interaction:failed]]")
        .await;
    assert_eq!(caller.get(&other).await.0, 503);
    assert_eq!(caller.ended(&other).await["status"], "failed");

    let gone = caller.begin("A cup [[fault:gone]]").await;
    assert_eq!(caller.get(&gone).await.0, 404);
    caller.fake.faults().push(Fault::Gone);
    let gone = caller.begin("A cup").await;
    assert_eq!(caller.get(&gone).await.0, 404);
    let outcomes = caller.fake.journal().outcomes();
    assert_eq!(
        outcomes,
        [("interaction:failed".to_owned(), 1), ("ok".to_owned(), 3)].into()
    );
    let calls = caller.fake.journal().calls();
    assert_eq!(calls.last().unwrap().outcome.as_deref(), Some("gone"));

    for (word, expected) in [
        ("not_json", Seen::Whole(200)),
        ("cut", Seen::Broken(200)),
        ("oversized", Seen::Oversized(200)),
        ("reset", Seen::Reset),
        ("hang", Seen::Nothing),
    ] {
        let id = caller.begin(&format!("A cup [[fault:poll:{word}]]")).await;
        let poll = caller.call(Method::GET, &format!("/{id}"));
        assert_eq!(see(poll).await, expected, "{word}");
    }
}

#[tokio::test]
async fn rates_and_queued_faults_do_not_affect_polls() {
    let caller = Caller::new().await;
    let id = caller.begin("A cup").await;
    caller.fake.faults().rate(1.0, [Fault::Status(503)]);
    caller.fake.faults().push(Fault::Status(500));
    caller.fake.faults().admit(0.001, 0.0);
    assert_eq!(caller.ended(&id).await["status"], "completed");
    assert_eq!(caller.create(&request("A cup")).await.0, 429);
}

#[tokio::test]
async fn a_throttled_call_gets_a_retry_hint() {
    let caller = Caller::new().await;
    let body = request("A cup [[fault:throttle*1]] [[fault:throttle:7*1]] [[fault:no_quota*1]]");
    let (_, plain) = caller.create(&body).await;
    assert_eq!(
        plain["error"],
        json!({"message": "Rate limit exceeded.", "code": "too_many_requests"})
    );
    let (status, hinted) = caller.create(&body).await;
    assert_eq!(
        (status, &hinted["error"]["details"][0]["retryDelay"]),
        (429, &json!("7s"))
    );
    let (status, spent) = caller.create(&body).await;
    assert_eq!(
        (status, &spent["error"]["message"]),
        (
            429,
            &json!("You do not have enough quota to make this request.")
        )
    );
}

#[tokio::test]
async fn every_fault_is_played() {
    let caller = Caller::new().await;
    every_common_fault_is_played(&caller.fake, |prompt| {
        caller.call(Method::POST, "").json(&request(&prompt))
    })
    .await;
    let (status, reply) = caller
        .create(&request("A cup [[fault:failed_precondition]]"))
        .await;
    assert_eq!(
        (status, &reply["error"]["code"]),
        (400, &json!("failed_precondition"))
    );
    for word in ["only_thought", "no_image", "finish:STOP", "block:OTHER"] {
        let (status, reply) = caller
            .create(&request(&format!("A cup [[fault:{word}]]")))
            .await;
        let message = reply["error"]["message"].as_str().unwrap();
        assert_eq!(
            (status, message.contains("cannot play")),
            (400, true),
            "{message}"
        );
    }
}

#[tokio::test]
async fn faults_of_the_creation_affect_the_creation() {
    let caller = Caller::new().await;
    for (word, status) in [
        ("unavailable", 503),
        ("throttle", 429),
        ("no_quota", 429),
        ("internal", 500),
    ] {
        let (met, _) = caller
            .create(&background(&format!("A cup [[fault:{word}]]")))
            .await;
        assert_eq!(met, status, "{word}");
    }
    let cut = caller
        .call(Method::POST, "")
        .json(&background("A cup [[fault:cut]]"));
    assert_eq!(see(cut).await, Seen::Broken(200));
    for word in ["bad_base64", "bad_picture", "wrong_size", "wrong_type"] {
        let id = caller.begin(&format!("A cup [[fault:{word}]]")).await;
        let ended = caller.ended(&id).await;
        let data = ended["steps"][1]["content"][0]["data"].as_str().unwrap();
        let bytes = BASE64_STANDARD.decode(data);
        match word {
            "bad_base64" => assert!(bytes.is_err()),
            "bad_picture" => assert!(image::guess_format(&bytes.unwrap()).is_err()),
            "wrong_size" => assert_eq!(size(&bytes.unwrap()), (1740, 2160)),
            _ => assert_eq!(
                image::guess_format(&bytes.unwrap()).unwrap(),
                image::ImageFormat::Png
            ),
        }
    }
}
