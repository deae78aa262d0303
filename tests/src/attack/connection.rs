//! Attacks by connections that send no request, or a request that never ends.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::stage::Stage;
use super::{Case, Outcome, timed};

/// The attacks of connections, in the order in which `make attack` tries them.
pub const CASES: &[Case] = &[
    Case {
        row: "C",
        says: "1,024 silent connections of one address",
        attack: |stage| Box::pin(silent(stage, 1)),
    },
    Case {
        row: "C",
        says: "2,000 silent connections of 40 addresses",
        attack: |stage| Box::pin(silent(stage, 40)),
    },
    Case {
        row: "C",
        says: "200 requests that send a byte of their head each second",
        attack: |stage| Box::pin(slow(stage, "GET /livez HTTP/1.1\r\nX-Slow: ")),
    },
    Case {
        row: "C",
        says: "200 requests that send a byte of their body each second",
        attack: |stage| {
            Box::pin(slow(
                stage,
                "POST /v1/jobs HTTP/1.1\r\nHost: platen\r\nAuthorization: Bearer KEY\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{",
            ))
        },
    },
    Case {
        row: "C",
        says: "HTTP/2 without TLS",
        attack: |stage| Box::pin(http2(stage)),
    },
];

/// The longest time that an idle or slow connection may be kept open.
const MAX_IDLE: Duration = Duration::from_secs(90);

async fn connect(to: SocketAddr, from: [u8; 4]) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

async fn silent(stage: &Stage, addresses: u8) -> Outcome {
    let attacked = stage.processes(&[]).await?;
    let caller = stage.tenant(&attacked, 3, 100).await?;
    let count = if addresses == 1 { 1_024 } else { 2_000 };
    let mut held = Vec::new();
    for number in 0..count {
        let from = [127, 0, 2, u8::try_from(number % usize::from(addresses))?];
        let connecting = connect(attacked.api.address(), from);
        // Above the limit the kernel or the api may refuse connections.
        if let Ok(Ok(connection)) = timeout(Duration::from_secs(2), connecting).await {
            held.push(connection);
        }
    }
    let (took, answer) = timed(caller.get("/v1/credits")).await;
    let served = match answer {
        Ok((StatusCode::OK, _)) => format!("another client is served in {} ms", took.as_millis()),
        // Many addresses together may use up all connections; one address may not.
        _ if addresses > 1 => "another client waits".to_owned(),
        other => anyhow::bail!("another client is not served: {other:?}"),
    };
    if addresses == 1 {
        ensure!(
            took < Duration::from_secs(1),
            "another client waited {took:?}"
        );
    }
    let (ended, _) = timed(async {
        for mut connection in held {
            let mut all = Vec::new();
            let _closed_or_reset = timeout(MAX_IDLE, connection.read_to_end(&mut all))
                .await
                .context("a silent connection is not closed")?;
        }
        anyhow::Ok(())
    })
    .await;
    let (_, after) = timed(caller.get("/v1/credits")).await;
    ensure!(
        after?.0 == StatusCode::OK,
        "another client is not served afterwards"
    );
    let limits = attacked.held().await?;
    Ok(format!(
        "{served}; all closed within {:.0} s; {limits}",
        ended.as_secs_f64()
    ))
}

/// Sends `begins` at once and then one byte each second. `KEY` in it is replaced by a valid key.
async fn slow(stage: &Stage, begins: &str) -> Outcome {
    let attacked = stage.processes(&[]).await?;
    let caller = stage.tenant(&attacked, 3, 100).await?;
    let api = attacked.api.address();
    let begins = begins.replace("KEY", &caller.key);
    let mut clients = JoinSet::new();
    for number in 0..200_u8 {
        let begins = begins.clone();
        clients.spawn(async move {
            let mut connection = connect(api, [127, 0, 3, number / 10]).await?;
            connection.write_all(begins.as_bytes()).await?;
            let drip = async {
                loop {
                    let mut byte = [0];
                    tokio::select! {
                        read = connection.read(&mut byte) => {
                            if !matches!(read, Ok(1..)) { break; }
                        }
                        () = tokio::time::sleep(Duration::from_secs(1)) => {
                            if connection.write_all(b"a").await.is_err() { break; }
                        }
                    }
                }
            };
            let (took, ended) = timed(timeout(MAX_IDLE, drip)).await;
            ended.context("a slow request is not ended")?;
            anyhow::Ok(took)
        });
    }
    let (took, answer) = timed(caller.get("/v1/credits")).await;
    ensure!(answer?.0 == StatusCode::OK, "another client is not served");
    let mut longest = Duration::ZERO;
    while let Some(client) = clients.join_next().await {
        longest = longest.max(client??);
    }
    let limits = attacked.held().await?;
    Ok(format!(
        "another client is served in {} ms; all ended within {:.0} s; {limits}",
        took.as_millis(),
        longest.as_secs_f64()
    ))
}

/// The first bytes of a client that uses HTTP/2 without asking (RFC 9113, section 3.4), and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

async fn http2(stage: &Stage) -> Outcome {
    let attacked = stage.processes(&[]).await?;
    let mut connection = connect(attacked.api.address(), [127, 0, 0, 3]).await?;
    connection.write_all(PREFACE).await?;
    let mut answer = Vec::new();
    timeout(Duration::from_secs(10), connection.read_to_end(&mut answer))
        .await
        .context("it is not closed")??;
    ensure!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 "),
        "it speaks HTTP/2: {answer:?}"
    );
    let held = attacked.held().await?;
    Ok(format!("closed with {} bytes; {held}", answer.len()))
}
