//! Clients that submit jobs, and what they measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use reqwest::{Client, RequestBuilder};
use tokio::task::JoinSet;

/// What clients measured.
pub(crate) struct Submits {
    pub(crate) accepted: usize,
    pub(crate) elapsed: Duration,
    /// The time of each submit, sorted.
    latencies: Vec<Duration>,
}

impl Submits {
    pub(crate) fn per_second(&self) -> f64 {
        ratio(self.accepted) / self.elapsed.as_secs_f64()
    }

    /// The time within which 99 of 100 submits were answered, in milliseconds.
    pub(crate) fn p99_ms(&self) -> f64 {
        let at = self.latencies.len() * 99 / 100;
        self.latencies
            .get(at)
            .map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }
}

/// A client of its own for each connection, as users have.
pub(crate) fn clients(count: usize) -> Result<Vec<Client>> {
    let one = || {
        Client::builder()
            .pool_max_idle_per_host(1)
            .timeout(Duration::from_mins(1))
            .build()
    };
    (0..count).map(|_| Ok(one()?)).collect()
}

/// When the clients stop.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// So many jobs were submitted.
    Count(usize),
    /// So much time has passed.
    Elapsed(Duration),
}

/// Each client submits one job after the other. `request` makes the request with a number of its own.
///
/// # Errors
///
/// A submit was not accepted.
pub(crate) async fn submit(
    clients: &[Client],
    until: Until,
    request: impl Fn(&Client, usize) -> RequestBuilder + Send + Sync + 'static,
) -> Result<Submits> {
    let (request, next) = (Arc::new(request), Arc::new(AtomicUsize::new(0)));
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for client in clients {
        let (client, request, next) = (client.clone(), Arc::clone(&request), Arc::clone(&next));
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let is_over = match until {
                    Until::Count(count) => number >= count,
                    Until::Elapsed(time) => began.elapsed() >= time,
                };
                if is_over {
                    return Ok(latencies);
                }
                let sent = Instant::now();
                let answer = request(&client, number).send().await?;
                let status = answer.status();
                let text = answer.text().await?;
                ensure!(status == 202, "a submit was answered with {status}: {text}");
                latencies.push(sent.elapsed());
            }
        });
    }
    let mut latencies = Vec::new();
    while let Some(measured) = tasks.join_next().await {
        latencies.extend(measured??);
    }
    let elapsed = began.elapsed();
    latencies.sort_unstable();
    Ok(Submits {
        accepted: latencies.len(),
        elapsed,
        latencies,
    })
}

/// A count as a number to calculate with.
pub(crate) fn ratio(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("counts are small"))
}
