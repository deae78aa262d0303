//! What requests may take of the api's memory and cores, all tenants together: counted in bytes, before they are taken.
//!
//! The memory is divided in three, so that nobody waits for room while holding what another waits for: bodies that are read, pictures
//! that are opened, and pieces of files that a client has not taken yet. Where there is no room a request waits for a while, and is
//! answered 503 after that.

use std::sync::Arc;

use bytes::Bytes;
use common::memory::{Memory, MemoryPermit, with_permit};
use common::telemetry::{API_MEMORY_LIMIT, API_MEMORY_USED};
use imaging::{RenderPool, Rendition};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::{Code, Problem, picture_refused};
use crate::shares::{MAX_UPLOAD_WAIT, Pool, Share, Waiting};

/// What an api needs without any large body or picture: its program, connections, and small bodies.
const BASE: usize = 40_000_000;
/// Bodies up to this size are not counted.
const UNCOUNTED_BYTES: usize = 64 * 1024;
/// How much is taken at once for a body that does not say how large it is.
const GROWTH_STEP: usize = 1024 * 1024;
/// What of a download is in memory at most, in bytes.
pub const CHUNK_BYTES: usize = 128 * 1024;
/// What opening a picture of four megapixels takes, in bytes. Such pictures have a place of their own.
const SMALL_IMAGE_BYTES: usize = 48 << 20;

/// Clones are the same.
#[derive(Clone)]
pub struct Budget {
    bodies: Memory,
    pictures: Memory,
    downloads: Memory,
    render_pool: RenderPool,
    places: Arc<Semaphore>,
    small: Arc<Semaphore>,
    count: usize,
}

impl Budget {
    /// Of `ceiling` bytes that the whole api may take, with so many pictures rendered at once besides one that is small.
    pub fn within(ceiling: usize, places: usize) -> Self {
        let rest = ceiling.saturating_sub(BASE).max(8 << 20);
        let (bodies, downloads) = (rest / 8, rest / 20);
        let memory = |of: &str, bytes: usize| {
            let (limit, used) = (&API_MEMORY_LIMIT, &API_MEMORY_USED);
            let [limit, used] = [limit, used].map(|gauge| gauge.with_label_values(&[of]));
            Memory::new(bytes, MAX_UPLOAD_WAIT, &limit, &used)
        };
        let places = places.max(1);
        Self {
            bodies: memory("bodies", bodies),
            pictures: memory("pictures", rest - bodies - downloads),
            downloads: memory("downloads", downloads),
            render_pool: RenderPool::new(places + 1),
            places: Arc::new(Semaphore::new(places)),
            small: Arc::new(Semaphore::new(1)),
            count: places + 1,
        }
    }

    /// Pictures that are rendered at once.
    pub fn places(&self) -> usize {
        self.count
    }

    /// Bytes of all bodies.
    pub fn body_bytes(&self) -> usize {
        self.bodies.bytes()
    }

    /// Room for a body of this tenant, that takes `times` its bytes. Nothing is taken yet.
    pub fn body(&self, share: Arc<Share>, times: usize) -> BodyPermit {
        BodyPermit {
            memory: self.bodies.clone(),
            share,
            times,
            bytes: 0,
            kib: 0,
            held: Vec::new(),
        }
    }

    /// Room for a download, until it is dropped.
    ///
    /// # Errors
    /// [`Code::Overloaded`]
    pub async fn download(&self) -> Result<MemoryPermit, Problem> {
        take(&self.downloads, CHUNK_BYTES, Pool::Downloads).await
    }

    /// Writes a picture anew, as soon as its tenant has a turn and there is a place and the memory for it. The inner error says
    /// what is wrong with the picture, for its owner.
    ///
    /// # Errors
    /// [`Code::Overloaded`]
    pub async fn clean(
        &self,
        share: &Share,
        file: Bytes,
        most: usize,
    ) -> Result<Result<Rendition, String>, Problem> {
        let need = match imaging::memory_to_clean(&file) {
            Ok(need) => need,
            Err(error) => return Ok(Err(picture_refused(&error))),
        };
        let all = self.pictures.bytes();
        if need > all {
            let [need, all] = [need, all].map(|bytes| bytes.div_ceil(1_000_000));
            return Ok(Err(format!(
                "Opening the picture takes {need} MB of memory, and this service gives {all} MB to one: send one with fewer pixels."
            )));
        }
        let turn = share.picture().await?;
        let place = self.place(need).await?;
        let render_pool = self.render_pool.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "it ends by itself within seconds, and nothing is lost where the process ends first"
        )]
        // A task of its own: what has begun goes on when its client is gone, and takes its memory for as long.
        let work = tokio::spawn(async move {
            let _held = (turn, place);
            render_pool.clean(file, most).await
        });
        let cleaned = work.await.map_err(|_| Problem::from(Code::Internal))?;
        Ok(cleaned.map_err(|error| picture_refused(&error)))
    }

    /// A place and the memory for a picture that takes `need` bytes. A small one takes whichever place is free first.
    async fn place(&self, need: usize) -> Result<(OwnedSemaphorePermit, MemoryPermit), Problem> {
        let _waiting = Waiting::of(Pool::Pictures);
        let place = async {
            if need > SMALL_IMAGE_BYTES {
                return self.place_of(&self.places, need).await;
            }
            tokio::select! {
                biased;
                place = self.place_of(&self.places, need) => place,
                place = self.place_of(&self.small, need) => place,
            }
        };
        let place = timeout(MAX_UPLOAD_WAIT, place).await.ok().flatten();
        place.ok_or_else(|| Pool::Pictures.overloaded())
    }

    /// One of these places, and then the memory. `None`: nobody let go of any for long.
    async fn place_of(
        &self,
        places: &Arc<Semaphore>,
        need: usize,
    ) -> Option<(OwnedSemaphorePermit, MemoryPermit)> {
        let place = Arc::clone(places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        Some((place, self.pictures.acquire(need).await.ok()?))
    }
}

async fn take(memory: &Memory, bytes: usize, pool: Pool) -> Result<MemoryPermit, Problem> {
    if let Some(room) = memory.try_acquire(bytes) {
        return Ok(room);
    }
    let _waiting = Waiting::of(pool);
    memory.acquire(bytes).await.map_err(|_| pool.overloaded())
}

/// The room that a body takes, of its tenant's share and of all.
pub struct BodyPermit {
    memory: Memory,
    share: Arc<Share>,
    times: usize,
    /// The bytes of the body that there is room for.
    bytes: usize,
    kib: usize,
    held: Vec<(OwnedSemaphorePermit, MemoryPermit)>,
}

impl BodyPermit {
    /// Room for a body of so many bytes, what it has already included.
    ///
    /// # Errors
    /// [`Code::Overloaded`]
    pub async fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        if bytes <= self.bytes.max(UNCOUNTED_BYTES) {
            return Ok(());
        }
        let bytes = if self.bytes == 0 {
            bytes
        } else {
            bytes.max(self.bytes + GROWTH_STEP)
        };
        let more = (bytes - self.bytes) * self.times;
        let more = more.min(self.memory.bytes().saturating_sub(self.kib * 1024));
        let kib = more.div_ceil(1024);
        let turn = self.share.body(kib, self.kib).await?;
        let room = take(&self.memory, more, Pool::Bodies).await?;
        self.held.push((turn, room));
        (self.bytes, self.kib) = (bytes, self.kib + kib);
        Ok(())
    }

    /// The body; it holds its room for as long as anybody holds a part of it.
    pub fn hold(self, body: impl Into<Bytes>) -> Bytes {
        let body = body.into();
        if self.held.is_empty() {
            return body;
        }
        with_permit(body, self.held)
    }
}

#[cfg(test)]
mod tests {
    use common::id::TenantId;
    use futures::FutureExt;

    use super::*;
    use crate::shares::Shares;

    #[tokio::test]
    async fn a_body_takes_room_before_it_is_read() {
        let budget = Budget::within(512_000_000, 1);
        let shares = Shares::new(budget.places(), budget.body_bytes());
        let of = || shares.of(TenantId::new());
        let mut small = budget.body(of(), 2);
        small.grow(UNCOUNTED_BYTES).await.unwrap();
        assert!(small.held.is_empty());

        let one = of();
        let mut first = budget.body(Arc::clone(&one), 2);
        first.grow(14 << 20).await.unwrap();
        let mut second = budget.body(one, 2);
        assert!(
            second.grow(14 << 20).now_or_never().is_none(),
            "it has half"
        );
        budget.body(of(), 2).grow(14 << 20).await.unwrap();
        let mut others = budget.body(of(), 2);
        others.grow(14 << 20).await.unwrap();
        let third = budget.body(of(), 2).grow(14 << 20).now_or_never();
        assert!(third.is_none(), "all is taken");
        let body = others.hold(vec![1; 14 << 20]);
        let part = body.slice(..1);
        drop(body);
        assert!(budget.body(of(), 2).grow(14 << 20).now_or_never().is_none());
        drop(part);
        assert!(budget.body(of(), 2).grow(14 << 20).now_or_never().is_some());

        // One that does not say how large it is grows, even beyond its tenant's share.
        drop((first, second));
        let mut grows = budget.body(of(), 2);
        for bytes in (1..=29).map(|mebibytes| mebibytes << 20) {
            grows.grow(bytes).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_small_picture_has_a_place_of_its_own() {
        let budget = Budget::within(512_000_000, 1);
        let large = budget.place(300 << 20).await.unwrap();
        assert!(budget.place(60 << 20).now_or_never().is_none(), "no place");
        let small = budget
            .place(SMALL_IMAGE_BYTES)
            .now_or_never()
            .unwrap()
            .unwrap();
        assert!(
            budget.place(1_000).now_or_never().is_none(),
            "both are taken"
        );
        drop(large);
        assert!(budget.place(1_000).now_or_never().is_some());
        drop(small);
    }
}
