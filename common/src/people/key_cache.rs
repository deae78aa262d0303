//! Remembers for a few seconds to which tenant an API key belongs, so that not every request asks
//! Postgres.
//!
//! An entry lives at most five seconds from the moment at which Postgres was asked. A revoked key
//! is forgotten at once: the transaction that revokes it sends its id to every api
//! ([`storage::revocations`]). While this process does not listen, it would not hear of that, so it
//! remembers nothing and asks Postgres each time. Keys that were refused are never remembered.
//!
//! The cache knows only the tenant of a key. Whether that tenant may submit jobs is read under the
//! lock of its wallet.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgPool;

use super::authentication;
use domain::id::TenantId;
use domain::tenant::ApiKey;
use storage::database;
use storage::revocations::Revocations;
use telemetry::API_KEY_LOOKUPS;

/// How long an entry may be used, from the moment at which Postgres was asked.
const LIFETIME: Duration = Duration::from_secs(5);
/// Most entries. Beyond it, no more are added until old ones are removed.
const MAX_ENTRIES: usize = 10_000;
/// Time between two attempts to listen.
const LISTEN_INTERVAL: Duration = Duration::from_millis(500);

/// The results of a look-up, as the metric names them: the tenant was remembered, Postgres was
/// asked, or Postgres was asked because this process does not listen for revocations.
const RESULTS: [&str; 3] = ["hit", "miss", "bypass"];

/// The tenants of the keys that came with requests lately.
#[derive(Debug)]
pub struct KeyCache(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    /// Whether this process listens for revocations.
    listens: bool,
    /// Counts everything that may make a result out of date while Postgres is being asked: a
    /// revocation, the beginning and the end of listening.
    changes: u64,
    /// The entries, by the SHA-256 of the whole key.
    by_hash: HashMap<[u8; 32], Entry>,
}

#[derive(Debug)]
struct Entry {
    key_id: String,
    tenant: TenantId,
    /// When Postgres was asked.
    asked_at: Instant,
}

impl Default for KeyCache {
    fn default() -> Self {
        // Counters are exported as 0 from the start.
        for result in RESULTS {
            API_KEY_LOOKUPS.with_label_values(&[result]);
        }
        Self(Mutex::default())
    }
}

impl KeyCache {
    /// The tenant of a key, if it is remembered.
    pub fn remembered(&self, key: &ApiKey) -> Option<TenantId> {
        let tenant = self.entries().find(key)?;
        count("hit");
        Some(tenant)
    }

    /// Returns the tenant that the key belongs to: the one that is remembered, or what Postgres
    /// says. Returns `None` if the key is unknown, wrong or revoked.
    ///
    /// # Errors
    /// Returns an error if Postgres fails.
    pub async fn authenticate(
        &self,
        pool: &PgPool,
        key: &ApiKey,
    ) -> sqlx::Result<Option<TenantId>> {
        // Callers limit how many requests ask at once. Another request may have asked about this
        // key while this one waited.
        if let Some(tenant) = self.remembered(key) {
            return Ok(Some(tenant));
        }
        let (listens, changes) = {
            let entries = self.entries();
            (entries.listens, entries.changes)
        };
        count(if listens { "miss" } else { "bypass" });
        let asked_at = Instant::now();
        let tenant = database::with_timeout(authentication::authenticate(pool, key)).await?;
        if let Some(tenant) = tenant {
            self.entries().add(key, tenant, asked_at, changes);
        }
        Ok(tenant)
    }

    /// Listens for revoked keys, with a connection of this pool, and forgets them. Never returns.
    pub async fn follow_revocations(&self, pool: &PgPool) {
        loop {
            if let Ok(mut revocations) = Revocations::listen(pool).await {
                let _listening = Listening::begin(self);
                let error = loop {
                    match revocations.next().await {
                        Ok(key_id) => self.entries().forget(&key_id),
                        Err(error) => break error,
                    }
                };
                tracing::warn!(%error, "Revoked API keys are not heard of: Postgres is asked about each key until they are");
            }
            tokio::time::sleep(LISTEN_INTERVAL).await;
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// The tenant of a key, if its entry may still be used.
    fn find(&self, key: &ApiKey) -> Option<TenantId> {
        let entry = self.by_hash.get(&key.sha256())?;
        (self.listens && entry.asked_at.elapsed() < LIFETIME).then_some(entry.tenant)
    }

    /// Adds what Postgres said, unless something has changed since it was asked: `changes` is the
    /// count at that moment. Adds nothing to a full cache.
    fn add(&mut self, key: &ApiKey, tenant: TenantId, asked_at: Instant, changes: u64) {
        if !self.listens || self.changes != changes {
            return;
        }
        if self.by_hash.len() >= MAX_ENTRIES {
            self.by_hash
                .retain(|_, entry| entry.asked_at.elapsed() < LIFETIME);
        }
        if self.by_hash.len() < MAX_ENTRIES {
            let key_id = key.id.clone();
            self.by_hash.insert(
                key.sha256(),
                Entry {
                    key_id,
                    tenant,
                    asked_at,
                },
            );
        }
    }

    /// Removes the key with this id.
    fn forget(&mut self, key_id: &str) {
        self.changes = self.changes.wrapping_add(1);
        self.by_hash.retain(|_, entry| entry.key_id != key_id);
    }
}

/// Lets the cache remember keys until this guard is dropped.
struct Listening<'a>(&'a KeyCache);

impl<'a> Listening<'a> {
    fn begin(cache: &'a KeyCache) -> Self {
        let listening = Self(cache);
        listening.set(true);
        listening
    }

    fn set(&self, listens: bool) {
        let mut entries = self.0.entries();
        entries.listens = listens;
        entries.changes = entries.changes.wrapping_add(1);
        entries.by_hash.clear();
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}

fn count(result: &str) {
    API_KEY_LOOKUPS.with_label_values(&[result]).inc();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> (KeyCache, ApiKey, TenantId) {
        let (cache, key, tenant) = (KeyCache::default(), ApiKey::generate(), TenantId::new());
        std::mem::forget(Listening::begin(&cache));
        let changes = cache.entries().changes;
        cache.entries().add(&key, tenant, Instant::now(), changes);
        (cache, key, tenant)
    }

    #[test]
    fn a_key_is_remembered_until_it_is_revoked() {
        let (cache, key, tenant) = filled();
        assert_eq!(cache.remembered(&key), Some(tenant));
        assert_eq!(cache.remembered(&ApiKey::generate()), None);
        cache.entries().forget("another");
        assert_eq!(cache.remembered(&key), Some(tenant));
        cache.entries().forget(&key.id);
        assert_eq!(cache.remembered(&key), None);
    }

    #[test]
    fn an_entry_lives_five_seconds_from_its_question() {
        let (cache, key, tenant) = filled();
        let changes = cache.entries().changes;
        let long_ago = Instant::now().checked_sub(LIFETIME).unwrap();
        cache.entries().add(&key, tenant, long_ago, changes);
        assert_eq!(cache.remembered(&key), None);
    }

    #[test]
    fn what_was_asked_before_a_revocation_is_not_kept() {
        let (cache, key, tenant) = filled();
        let changes = cache.entries().changes;
        cache.entries().forget(&key.id);
        cache.entries().add(&key, tenant, Instant::now(), changes);
        assert_eq!(cache.remembered(&key), None);
    }

    #[test]
    fn nothing_is_remembered_without_a_listener() {
        let (cache, key, tenant) = filled();
        drop(Listening(&cache));
        assert_eq!(cache.remembered(&key), None);
        let changes = cache.entries().changes;
        cache.entries().add(&key, tenant, Instant::now(), changes);
        assert_eq!(cache.remembered(&key), None);
    }

    #[test]
    fn a_full_cache_adds_nothing_more() {
        let (cache, _, tenant) = filled();
        let changes = cache.entries().changes;
        for number in 0..MAX_ENTRIES {
            let entry = Entry {
                key_id: number.to_string(),
                tenant,
                asked_at: Instant::now(),
            };
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_be_bytes());
            cache.entries().by_hash.insert(hash, entry);
        }
        let key = ApiKey::generate();
        cache.entries().add(&key, tenant, Instant::now(), changes);
        assert_eq!(cache.remembered(&key), None);
    }
}
