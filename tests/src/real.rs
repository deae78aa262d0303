//! A pipeline whose processes are real: servers, api and catalogue as in [`Pipeline`], and orders by which further apis
//! and workers are started as processes of their own, calling a fake that is theirs.

use std::ops::RangeInclusive;

use fakes::{Fake, Latency, Switches};
use servers::{Servers, Tuning};
use tempfile::TempDir;

use crate::fleet::Orders;
use crate::servers::TestServers;
use crate::{Options, Pipeline, models, processes};

pub struct Real {
    pub pipeline: Pipeline,
    pub fake: Fake,
    pub orders: Orders,
    pub folders: Folders,
}

pub struct Folders {
    /// Read by each process when it starts.
    pub catalogue: TempDir,
    _logs: TempDir,
}

impl Real {
    /// Pictures take so many milliseconds.
    pub async fn start(latency: RangeInclusive<u64>) -> Self {
        Self::start_on(TestServers::get().await, Options::default(), latency).await
    }

    /// On servers that nobody else uses, in earnest: for long proofs. The folder and the servers are the caller's to end.
    pub async fn own(latency: RangeInclusive<u64>) -> (TempDir, Servers, Self) {
        let (folder, servers, named) = TestServers::own(Tuning::Durable).await;
        let real = Self::start_on(named, Options::in_earnest(), latency).await;
        (folder, servers, real)
    }

    /// On servers of the caller's own. No worker runs in this process.
    pub async fn start_on(
        servers: TestServers,
        options: Options,
        latency: RangeInclusive<u64>,
    ) -> Self {
        let fake = Fake::start(fakes::Options::default()).await.unwrap();
        let (min, max) = latency.into_inner();
        fake.faults().set(Switches {
            latency_ms: Latency { min, max },
            plain: true,
            ..Switches::default()
        });
        let (catalogue, logs) = (models::shipped(), tempfile::tempdir().unwrap());
        models::played_by(&catalogue, &fake.base_url());
        let options = Options {
            workers: 0,
            models: Some(catalogue.path().to_owned()),
            ..options
        };
        let pipeline = Pipeline::start_on(servers, options).await;
        let orders = Orders {
            program: processes::binary("platen"),
            config: pipeline.config.clone(),
            environment: models::keys(&fake.base_url()),
            folder: logs.path().to_owned(),
        };
        Self {
            pipeline,
            fake,
            orders,
            folders: Folders {
                catalogue,
                _logs: logs,
            },
        }
    }
}
