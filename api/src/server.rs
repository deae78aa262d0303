//! Runs the API: the two ports, the watch on Redis, the listener for revoked keys, and an orderly stop.

use std::future;
use std::sync::Arc;
use std::time::Duration;

use common::people::key_cache::KeyCache;
use queue::ReadyQueue;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::connections::{self, Port};
use crate::router::{metrics_router, router};

/// How long open requests may take once the API stops, and then how long background tasks may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(25);
/// How often it is written when API keys were used.
const KEY_USE_INTERVAL: Duration = Duration::from_mins(1);
/// How often the API checks Redis. Apart from this check, it uses Redis only when a job is submitted.
const REDIS_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Serves the API, and the metrics if a listener for them is given. Returns once `stop` is canceled and the open
/// requests are answered.
///
/// # Errors
/// Never returns an error at present. A request that does not end in time is cut off, with a warning in the log.
pub async fn serve(
    mut app: App,
    listener: TcpListener,
    metrics_listener: Option<TcpListener>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    app.stopping = stop.clone();
    let drain_delay = app.drain_delay;
    let tasks = app.tasks.clone();
    let app = Arc::new(app);

    // New connections are accepted for `drain_delay` after `/readyz` has turned 503, so that a load balancer notices first.
    let closing = CancellationToken::new();
    let close_after_delay = async {
        stop.cancelled().await;
        tokio::time::sleep(drain_delay).await;
        closing.cancel();
        future::pending::<()>().await;
    };
    let redis_watch = watch_redis(app.ready_queue.clone());
    let (keys, connection) = (Arc::clone(&app.keys), app.listener.clone());
    let revocations = keys.follow_revocations(&connection);
    let pool = app.pool.clone();
    let key_uses = record_key_uses(&keys, &pool);
    let (ports, proxies) = (app.ports, app.public.proxies().to_vec());
    let port = Port::api(&ports, proxies);
    let routes = router(Arc::clone(&app));
    let api = connections::serve(listener, routes, port, closing.clone());
    // Metrics are served until the requests are answered, so that what is counted during the stop is scraped, too.
    let metrics = async {
        match metrics_listener {
            Some(listener) => {
                let (port, routes) = (Port::metrics(&ports), metrics_router(app));
                connections::serve(listener, routes, port, CancellationToken::new()).await;
            }
            None => future::pending().await,
        }
    };
    tokio::select! {
        () = api => {}
        () = metrics => {}
        () = redis_watch => {}
        () = revocations => {}
        () = key_uses => {}
        () = close_after_delay => {}
        () = async { stop.cancelled().await; tokio::time::sleep(drain_delay + STOP_TIMEOUT).await } => {
            tracing::warn!("Some requests were not answered in time; their connections are closed");
        }
    }
    keys.record_uses(&pool).await;
    tasks.close();
    if tokio::time::timeout(STOP_TIMEOUT, tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            "Some new jobs were not pushed to the ready queue in time; a worker's dispatcher will push them"
        );
    }
    Ok(())
}

/// Writes at an interval, without end, when API keys were used.
async fn record_key_uses(keys: &KeyCache, pool: &PgPool) {
    let mut ticks = tokio::time::interval(KEY_USE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        keys.record_uses(pool).await;
    }
}

/// Checks Redis at an interval, without end, so that log, metrics and readiness say why it cannot be used.
async fn watch_redis(ready_queue: ReadyQueue) {
    let mut ticks = tokio::time::interval(REDIS_CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        ready_queue.note(ready_queue.check().await.as_ref().err());
    }
}
