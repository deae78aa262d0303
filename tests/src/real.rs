//! A pipeline with real processes: servers and a database as in [`Pipeline`], a catalogue that names a fake vendor, and
//! what is needed to start apis and workers as processes of their own.

use std::ops::RangeInclusive;

use fakes::{Fake, Latency, Switches};
use servers::Durability;
use tempfile::TempDir;

use crate::fleet::Orders;
use crate::servers::{OwnServers, TestServers};
use crate::{Options, Pipeline, models, processes};

/// A database with an api in this process, a fake vendor, and what further processes are started with.
pub struct Real {
    /// The database, and an api in this process. No worker runs in this process.
    pub pipeline: Pipeline,
    /// The vendor of the processes.
    pub fake: Fake,
    /// What processes are started with.
    pub orders: Orders,
    /// The folders of the processes.
    pub folders: Folders,
}

/// Folders that exist for as long as this value lives.
pub struct Folders {
    /// The catalogue, which each process reads when it starts.
    pub catalogue: TempDir,
    logs: TempDir,
}

impl Real {
    /// Starts on the servers of this run. An image takes `latency` milliseconds.
    pub async fn start(latency: RangeInclusive<u64>) -> Self {
        let (fake, folders) = vendor(latency).await;
        let options = with_catalogue(Options::default(), &folders);
        Self::of(Pipeline::start_with(options).await, fake, folders)
    }

    /// Starts on servers that nobody else uses and that end with the pipeline: for long proofs.
    pub async fn start_alone(options: Options, latency: RangeInclusive<u64>) -> Self {
        let (own, urls) = OwnServers::start(Durability::Full).await;
        Self::start_between(own, urls, options, latency).await
    }

    /// The same with servers that are started already, perhaps behind a proxy.
    pub async fn start_between(
        own: OwnServers,
        urls: TestServers,
        options: Options,
        latency: RangeInclusive<u64>,
    ) -> Self {
        let (fake, folders) = vendor(latency).await;
        let options = with_catalogue(options, &folders);
        let pipeline = Pipeline::start_on(urls, options).await.owning(own);
        Self::of(pipeline, fake, folders)
    }

    fn of(pipeline: Pipeline, fake: Fake, folders: Folders) -> Self {
        let orders = Orders {
            program: processes::binary("platen"),
            config: pipeline.config.clone(),
            environment: models::keys(&fake.base_url()),
            folder: folders.logs.path().to_owned(),
        };
        Self {
            pipeline,
            fake,
            orders,
            folders,
        }
    }
}

/// Starts a fake vendor, and writes a catalogue that names it.
async fn vendor(latency: RangeInclusive<u64>) -> (Fake, Folders) {
    let fake = Fake::start(fakes::Options::default()).await.unwrap();
    let (min, max) = latency.into_inner();
    fake.faults().set(Switches {
        latency_ms: Latency { min, max },
        plain: true,
        ..Switches::default()
    });
    let folders = Folders {
        catalogue: models::shipped(),
        logs: tempfile::tempdir().unwrap(),
    };
    models::played_by(&folders.catalogue, &fake.base_url());
    (fake, folders)
}

fn with_catalogue(options: Options, folders: &Folders) -> Options {
    Options {
        workers: 0,
        models: Some(folders.catalogue.path().to_owned()),
        ..options
    }
}
