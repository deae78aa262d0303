//! Every failpoint × {abort, error, hang, delay}, met by real processes: `make failpoints` prints the matrix.
//!
//! Whatever happens at whichever step: the job ends as it should, it is settled once, the books close, and no more is
//! bought than a crash costs. A process that aborts is started again, as its supervisor would.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]
#![expect(clippy::print_stderr, reason = "prints the matrix")]

use std::any::Any;
use std::fmt::Write;
use std::os::unix::process::ExitStatusExt;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use common::failpoint::POINTS;
use fakes::Fake;
use futures::FutureExt;
use futures::stream::{self, StreamExt};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tests::fleet::{Orders, Process, Role};
use tests::real::Real;
use tests::{Pipeline, models};

const ACTIONS: [&str; 4] = ["abort", "error", "hang", "delay"];
/// Cells walked at the same time: most of each is waiting for a lease.
const AT_ONCE: usize = 12;
const PLAIN: &str = "gemini-3-pro-image";
const BACKGROUND: &str = "gemini-nano-banana-2.1-background";
const FAILPOINTS: &str = "PLATEN_TEST_FAILPOINTS";
const SIGABRT: i32 = 6;
/// For all a cell may have to wait for: a lease, a step that hangs, a transaction nobody ends.
const PATIENCE: Duration = Duration::from_mins(1);

/// The life a job leads past a failpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    Delivered,
    Background,
    Retried,
    Refused,
    Canceled,
    Expired,
    /// Its worker was killed while it called.
    Orphaned,
}

impl Scene {
    /// Those in which a point is met.
    fn of(point: &str) -> &'static [Self] {
        let (step, place) = point.split_once(':').unwrap();
        match step {
            "settlement" => &[Self::Delivered, Self::Refused, Self::Expired],
            "requeue" => &[Self::Retried],
            "cancel" => &[Self::Canceled],
            "reap" => &[Self::Orphaned],
            "generate" if place.ends_with("operate") => &[Self::Background],
            _ => &[Self::Delivered],
        }
    }

    fn job(self) -> Value {
        let (model, fault) = match self {
            Self::Delivered | Self::Orphaned => (PLAIN, ""),
            Self::Retried => (PLAIN, "[[fault:unavailable*1]]"),
            Self::Refused => (PLAIN, "[[fault:finish:IMAGE_SAFETY]]"),
            Self::Background => (BACKGROUND, ""),
            Self::Canceled | Self::Expired => (BACKGROUND, "[[fault:never]]"),
        };
        json!({"model": model, "prompt": format!("a bottle {fault}"), "size": "1K"})
    }

    fn ends(self) -> &'static str {
        match self {
            Self::Delivered | Self::Background | Self::Retried | Self::Orphaned => "succeeded",
            Self::Refused => "failed",
            Self::Canceled => "canceled",
            Self::Expired => "expired",
        }
    }

    /// Calls the scene makes by itself.
    fn calls(self) -> usize {
        match self {
            Self::Retried | Self::Orphaned => 2,
            _ => 1,
        }
    }
}

#[derive(Clone, Copy)]
struct Cell {
    point: &'static str,
    scene: Scene,
    action: &'static str,
}

impl Cell {
    fn all() -> Vec<Self> {
        let points = POINTS.iter();
        let scenes = points.flat_map(|&point| Scene::of(point).iter().map(move |&s| (point, s)));
        scenes
            .flat_map(|(point, scene)| {
                ACTIONS.map(|action| Self {
                    point,
                    scene,
                    action,
                })
            })
            .collect()
    }

    /// The role that meets the point; all others run undisturbed.
    fn role(&self) -> Role {
        match self.point {
            "dispatch:before_ring" => Role::Api,
            point if point.starts_with("admission") || point.starts_with("cancel") => Role::Api,
            _ => Role::Worker,
        }
    }

    /// Calls that are lost: one that the provider had begun and nobody had kept, or one that was
    /// running when its worker aborted. Everything else is taken over.
    fn may_cost(&self) -> usize {
        let lost = matches!(
            self.point,
            "generate:after_call" | "generate:before_operate"
        );
        // A worker renews leases and fills the queue while a call runs.
        let beside_call = matches!(self.point, "renew:before_renew" | "dispatch:before_top_up");
        let killed = beside_call && self.action == "abort";
        usize::from(lost && self.action != "delay" || killed)
    }
}

/// A process that is started again, without its failpoint, when it aborts there.
struct Armed {
    process: Process,
    aborted: bool,
}

impl Armed {
    fn start(role: Role, orders: &Orders, cell: Cell) -> Self {
        let mut orders = orders.clone();
        let asked = format!("{}={}", cell.point, cell.action);
        orders.environment.push((FAILPOINTS.to_owned(), asked));
        Self {
            process: started(role, &orders),
            aborted: false,
        }
    }

    fn look_after(&mut self) {
        if let Some(status) = self.process.ended() {
            assert_eq!(status.signal(), Some(SIGABRT), "{}", self.told());
            assert!(!self.aborted, "it aborted twice");
            self.aborted = true;
            self.process.forget(FAILPOINTS);
            self.process.start().unwrap();
        }
    }

    fn told(&self) -> String {
        std::fs::read_to_string(self.process.log()).unwrap()
    }
}

fn started(role: Role, orders: &Orders) -> Process {
    let mut process = Process::new(role, 1, orders).unwrap();
    process.start().unwrap();
    process
}

/// Walks one cell; returns seconds until the job had ended, and the calls it cost beyond its own.
async fn walk(cell: Cell) -> (f64, usize) {
    let slow = cell.scene == Scene::Orphaned || cell.point.starts_with("renew");
    let latency = if slow { 2_000 } else { 0 };
    let Real {
        pipeline,
        fake,
        mut orders,
        folders,
    } = Real::start(latency..=latency).await;
    for file in ["vertex.toml", "interactions.toml"] {
        models::patience(&folders.catalogue, file, 4);
    }
    orders.config.slots = 4;
    let started_at = Instant::now();
    let mut url = pipeline.url.clone();
    let mut unarmed = None;
    let mut armed;
    let id;
    if cell.role() == Role::Api {
        unarmed = Some(started(Role::Worker, &orders));
        armed = Armed::start(Role::Api, &orders, cell);
        url = format!("http://{}", armed.process.address());
        id = submit(&pipeline, &url, cell, Some(&mut armed)).await;
    } else if cell.scene == Scene::Orphaned {
        id = submit(&pipeline, &url, cell, None).await;
        let mut first = started(Role::Worker, &orders);
        called(&pipeline, &fake).await;
        first.kill().await.unwrap();
        armed = Armed::start(Role::Worker, &orders, cell);
    } else {
        armed = Armed::start(Role::Worker, &orders, cell);
        id = submit(&pipeline, &url, cell, None).await;
    }
    if cell.scene == Scene::Canceled {
        called(&pipeline, &fake).await;
        cancel(&pipeline, &url, &id, &mut armed).await;
    }
    let ended = pipeline
        .until("the job has ended", PATIENCE, async || {
            armed.look_after();
            let job = pipeline.job(&id).await;
            (!matches!(job["state"].as_str(), Some("queued" | "running"))).then_some(job)
        })
        .await;
    let seconds = started_at.elapsed().as_secs_f64();
    assert_eq!(
        ended["state"],
        cell.scene.ends(),
        "{ended}\n{}",
        armed.told()
    );
    // The point may come after the end.
    pipeline
        .until(
            "the failpoint was reached and did its action",
            PATIENCE,
            async || {
                armed.look_after();
                let met = armed.told().contains(&format!("Failpoint {}", cell.point));
                (met && (cell.action != "abort" || armed.aborted)).then_some(())
            },
        )
        .await;
    let settlements: i64 =
        sqlx::query_scalar("SELECT count(*) FROM transfers WHERE kind IN ('capture', 'release')")
            .fetch_one(&pipeline.reader)
            .await
            .unwrap();
    assert_eq!(settlements, 1, "settlements");
    let wasted = fake.journal().count() - cell.scene.calls();
    assert!(
        wasted <= cell.may_cost(),
        "{wasted} calls too many: {ended}\n{}",
        armed.told()
    );
    for mut process in unarmed.into_iter().chain([armed.process]) {
        process.kill().await.unwrap();
    }
    let (findings, _) = pipeline.deep(Duration::from_hours(1)).await;
    assert!(findings.is_empty(), "{findings:#?}");
    pipeline.close().await;
    (seconds, wasted)
}

/// As a client does that repeats what was not answered.
async fn submit(
    pipeline: &Pipeline,
    url: &str,
    cell: Cell,
    mut armed: Option<&mut Armed>,
) -> String {
    let client = impatient();
    let answer = pipeline
        .until("the submit is accepted", PATIENCE, async || {
            if let Some(armed) = &mut armed {
                armed.look_after();
            }
            let mut request = client
                .post(format!("{url}/v1/jobs"))
                .bearer_auth(&pipeline.key)
                .header("Idempotency-Key", "one")
                .json(&cell.scene.job());
            if cell.scene == Scene::Expired {
                request = request.header("Cancel-After", "4s");
            }
            let answer = request.send().await.ok()?;
            let later = answer.status().is_server_error()
                || matches!(
                    answer.status(),
                    StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS
                );
            (!later).then_some(answer)
        })
        .await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let job: Value = answer.json().await.unwrap();
    job["id"].as_str().unwrap().to_owned()
}

async fn cancel(pipeline: &Pipeline, url: &str, id: &str, armed: &mut Armed) {
    let client = impatient();
    pipeline
        .until("the cancel is answered", PATIENCE, async || {
            armed.look_after();
            let request = client
                .post(format!("{url}/v1/jobs/{id}/cancel"))
                .bearer_auth(&pipeline.key)
                .header("Idempotency-Key", "two");
            let answer = request.send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
}

fn impatient() -> Client {
    Client::builder()
        .timeout(Duration::from_secs(3))
        .build()
        .unwrap()
}

async fn called(pipeline: &Pipeline, fake: &Fake) {
    pipeline
        .until("the provider was called", PATIENCE, async || {
            (fake.journal().count() > 0).then_some(())
        })
        .await;
}

/// What a walk failed with.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failpoint_ends_with_clean_books() {
    let only = std::env::var("PLATEN_TEST_ONLY").unwrap_or_default();
    let cells: Vec<Cell> = Cell::all()
        .into_iter()
        .filter(|cell| format!("{}={}", cell.point, cell.action).contains(&only))
        .collect();
    let walks = cells.iter().enumerate().map(|(place, &cell)| async move {
        let walked = Box::pin(AssertUnwindSafe(walk(cell)).catch_unwind()).await;
        (place, cell, walked.map_err(|panic| said(panic.as_ref())))
    });
    let mut walked: Vec<_> = stream::iter(walks)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    walked.sort_by_key(|&(place, ..)| place);
    let mut table = format!("{:40}", "seconds to the end, calls lost");
    for action in ACTIONS {
        let _ = write!(table, "{action:>12}");
    }
    let (mut last, mut failed) = (String::new(), 0);
    for (_, cell, walked) in &walked {
        let row = format!("{} ({:?})", cell.point, cell.scene);
        if row != last {
            let _ = write!(table, "\n{row:40}");
            last = row;
        }
        let says = match walked {
            Ok((seconds, 0)) => format!("{seconds:.1}"),
            Ok((seconds, lost)) => format!("{seconds:.1} -{lost}"),
            Err(_) => {
                failed += 1;
                "FAILED".to_owned()
            }
        };
        let _ = write!(table, "{says:>12}");
    }
    eprintln!("{table}\n{} cells walked, {failed} failed", walked.len());
    for (_, cell, walked) in &walked {
        if let Err(error) = walked {
            eprintln!("{}={} ({:?}): {error}", cell.point, cell.action, cell.scene);
        }
    }
    assert_eq!(failed, 0, "failed cells");
}
