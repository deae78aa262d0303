//! Attacks by single requests.

use std::io::Cursor;

use anyhow::{Context, ensure};
use futures::future::{join_all, try_join_all};
use image::{ImageFormat, RgbImage};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::stage::{Caller, Stage, answer};
use super::{Case, Outcome, timed};
use crate::pipeline::small_job;

/// The attacks of single requests, in the order in which `make attack` tries them.
pub const CASES: &[Case] = &[
    Case {
        row: "B",
        says: "ten bodies with 3.3 MB of empty inputs at once, without credits, half of them dry runs",
        attack: |stage| Box::pin(empty_inputs(stage)),
    },
    Case {
        row: "B",
        says: "an unknown field of 20 MB",
        attack: |stage| Box::pin(a_long_name(stage)),
    },
    Case {
        row: "B",
        says: "150 downloads of a 2K image that nobody reads",
        attack: |stage| Box::pin(unread_downloads(stage)),
    },
    Case {
        row: "B",
        says: "eight uploads of 64 megapixels at once",
        attack: |stage| Box::pin(large_uploads(stage)),
    },
    Case {
        row: "B",
        says: "the list of models is sent once",
        attack: |stage| Box::pin(models(stage)),
    },
];

/// The longest answer to a bad request, in bytes: the request must not be repeated in it.
const MAX_ANSWER_BYTES: usize = 32 * 1024;

async fn empty_inputs(stage: &Stage) -> Outcome {
    let attacked = stage.processes(&[]).await?;
    let poor = stage.tenant(&attacked, 2, 0).await?;
    let inputs = "{},".repeat(1_100_000);
    let body = format!(
        r#"{{"model":"gemini-nano-banana-2.1","prompt":"a","size":"1K","inputs":[{}]}}"#,
        inputs.trim_end_matches(',')
    );
    let paths = ["/v1/jobs", "/v1/jobs?dry_run=true"].into_iter().cycle();
    let requests = paths
        .take(10)
        .map(|path| refused(&poor, path, body.clone()));
    let longest = try_join_all(requests).await?.into_iter().max();
    let held = attacked.held().await?;
    Ok(format!(
        "refused in {} bytes at most; {held}",
        longest.unwrap_or_default()
    ))
}

async fn a_long_name(stage: &Stage) -> Outcome {
    let attacked = stage.processes(&[]).await?;
    let poor = stage.tenant(&attacked, 2, 0).await?;
    let body = format!(r#"{{"{}":1}}"#, "a".repeat(20_000_000));
    let bytes = refused(&poor, "/v1/jobs", body).await?;
    let held = attacked.held().await?;
    Ok(format!("refused in {bytes} bytes; {held}"))
}

/// Sends a request that must be refused, and returns the size of the answer.
async fn refused(caller: &Caller, path: &str, body: String) -> anyhow::Result<usize> {
    let request = caller.request(Method::POST, path);
    let request = request.header("Content-Type", "application/json");
    let answer = request.body(body).send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    let busy = status == StatusCode::SERVICE_UNAVAILABLE;
    ensure!(
        status.is_client_error() || busy,
        "{path} was answered {status}"
    );
    ensure!(
        text.len() <= MAX_ANSWER_BYTES,
        "the answer has {} bytes",
        text.len()
    );
    Ok(text.len())
}

async fn unread_downloads(stage: &Stage) -> Outcome {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let attacked = stage.processes(&[]).await?;
    let owner = stage.tenant(&attacked, 2, 1_000).await?;
    stage.real.fake.faults().plain(true);
    let mut switches = stage.real.fake.faults().get();
    switches.grain = true;
    stage.real.fake.faults().set(switches.clone());
    let mut job = small_job();
    job["size"] = json!("2K");
    let request = owner
        .request(Method::POST, "/v1/jobs")
        .header("Prefer", "wait=60");
    let (_, ended) = answer(request.json(&job)).await?;
    switches.grain = false;
    stage.real.fake.faults().set(switches);
    let artifact = ended["artifacts"][0]["url"].as_str();
    let url = artifact.with_context(|| format!("no image: {ended}"))?;
    let path = url
        .find("/files")
        .map(|at| &url[at..])
        .context("a link of ours")?;

    let mut connections = Vec::new();
    for number in 0..150_u8 {
        // From several addresses, because the limit on connections of one address is another case.
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(([127, 0, 1, number / 10], 0).into())?;
        let mut connection = socket.connect(attacked.api.address()).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: platen\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        let mut first = [0; 12];
        connection.read_exact(&mut first).await?;
        ensure!(
            &first == b"HTTP/1.1 200",
            "{}",
            String::from_utf8_lossy(&first)
        );
        connections.push(connection);
    }
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let bytes = ended["artifacts"][0]["bytes"].as_i64().unwrap_or_default();
    let held = attacked.held().await?;
    Ok(format!("150 × {bytes} bytes unread; {held}"))
}

async fn large_uploads(stage: &Stage) -> Outcome {
    let attacked = stage.processes(&[]).await?;
    let owner = stage.tenant(&attacked, 2, 0).await?;
    let picture = RgbImage::new(8_000, 8_000);
    let files = [ImageFormat::Png, ImageFormat::Jpeg].map(|format| {
        let mut file = Cursor::new(Vec::new());
        picture.write_to(&mut file, format)?;
        anyhow::Ok(bytes::Bytes::from(file.into_inner()))
    });
    let [png, jpeg] = files;
    let files = [png?, jpeg?];
    let upload = async |number: usize| {
        let mut refusals = 0;
        loop {
            let file = files[number % 2].clone();
            let request = owner.request(Method::POST, "/v1/uploads").body(file);
            let sent = request.send().await?;
            match sent.status() {
                StatusCode::CREATED => return Ok(refusals),
                StatusCode::SERVICE_UNAVAILABLE => {
                    let wait = sent.headers().get("Retry-After").cloned();
                    let wait = wait.context("503 without Retry-After")?;
                    let wait = wait.to_str()?.parse().context("Retry-After in seconds")?;
                    tokio::time::sleep(std::time::Duration::from_secs(wait)).await;
                    refusals += 1;
                }
                status => anyhow::bail!("{status}: {}", sent.text().await?),
            }
            ensure!(refusals < 60, "refused sixty times");
        }
    };
    let (took, refusals) = timed(join_all((0..8).map(upload))).await;
    let refusals: Vec<usize> = refusals.into_iter().collect::<anyhow::Result<_>>()?;
    let held = attacked.held().await?;
    Ok(format!(
        "all stored in {:.1} s, {} times told to wait; {held}",
        took.as_secs_f64(),
        refusals.iter().sum::<usize>()
    ))
}

async fn models(stage: &Stage) -> Outcome {
    let attacked = stage.processes(&[]).await?;
    let caller = stage.tenant(&attacked, 2, 0).await?;
    let first = caller.request(Method::GET, "/v1/models").send().await?;
    let tag = first.headers().get("ETag").cloned().context("an ETag")?;
    let _: Value = first.json().await?;
    let again = caller
        .request(Method::GET, "/v1/models")
        .header("If-None-Match", tag);
    let again = again.send().await?.status();
    ensure!(again == StatusCode::NOT_MODIFIED, "answered {again}");
    attacked.held().await
}
