//! Real processes come and go, and the job is done.

use std::time::Duration;

use fakes::{Fake, Latency, Switches};
use nix::sys::signal::Signal;
use tests::fleet::{Orders, Role};
use tests::{Options, Pipeline, models, pipeline::small_job};

#[tokio::test]
async fn a_worker_that_is_frozen_killed_and_stopped_comes_back_where_it_was() {
    let catalogue = models::shipped();
    let fake = Fake::start(fakes::Options::default()).await.unwrap();
    fake.faults().set(Switches {
        latency_ms: Latency { min: 500, max: 500 },
        plain: true,
        ..Switches::default()
    });
    models::played_by(&catalogue, &fake.base_url());
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        models: Some(catalogue.path().to_owned()),
        ..Options::default()
    })
    .await;
    let logs = tempfile::tempdir().unwrap();
    let orders = Orders {
        config: pipeline.config.clone(),
        environment: models::keys(&fake.base_url()),
        folder: logs.path().to_owned(),
    };
    let mut workers = orders.start(Role::Worker, 1).await.unwrap();
    let worker = &mut workers[0];
    let address = worker.metrics_address();
    let id = pipeline.submit(&small_job()).await;
    let called = async || (fake.journal().count() == 1).then_some(());
    pipeline.until(Duration::from_secs(10), called).await;

    worker.signal(Signal::SIGSTOP).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    worker.signal(Signal::SIGCONT).unwrap();
    worker.kill().await.unwrap();
    worker.start().unwrap();
    worker.ready().await.unwrap();
    let ended = pipeline.ended(&id).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(fake.journal().labelled("job", &id).len(), 2, "calls");

    let again = pipeline.submit(&small_job()).await;
    pipeline.ended(&again).await;
    let ended = worker.stop().await.unwrap();
    assert!(ended.success(), "{ended}; {}", worker.last_words());
    assert_eq!(worker.metrics_address(), address);
    pipeline.close().await;
}
