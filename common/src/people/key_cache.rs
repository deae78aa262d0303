//! Remembers for a few seconds what an API key allows, so that not every request asks Postgres.
//!
//! An entry lives at most five seconds from the moment at which Postgres was asked, and no longer
//! than its key. A revoked key
//! is forgotten at once: the transaction that revokes it sends its id to every api
//! ([`storage::revocations`]). While this process does not listen, it would not hear of that, so it
//! remembers nothing and asks Postgres each time. Keys that were refused are never remembered.
//!
//! The cache knows only the key. Whether its tenant may submit jobs is read under the lock of its
//! wallet.
//!
//! The cache also collects which keys were used, so that their rows are written once a minute
//! ([`KeyCache::record_uses`]) and not with each request.

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgPool;

use super::api_keys::MAX_KEYS;
use super::authentication;
use domain::api_key::{ApiKey, KeyRights};
use domain::id::TenantId;
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

/// The keys that came with requests lately.
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
    /// The ids of the keys that were used since uses were last recorded, by tenant.
    used: HashMap<TenantId, HashSet<String>>,
}

#[derive(Debug)]
struct Entry {
    key_id: String,
    rights: KeyRights,
    /// Until when the entry may be used.
    until: Instant,
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
    /// What a key allows, if it is remembered. The key counts as used.
    pub fn remembered(&self, key: &ApiKey) -> Option<KeyRights> {
        let mut entries = self.entries();
        let rights = entries.find(key)?;
        entries.note_use(rights.tenant, key);
        drop(entries);
        count("hit");
        Some(rights)
    }

    /// Returns what the key allows: what is remembered, or what Postgres says. The key counts as
    /// used. Returns `None` if the key is unknown, wrong, expired or revoked.
    ///
    /// # Errors
    /// Returns an error if Postgres fails.
    pub async fn authenticate(
        &self,
        pool: &PgPool,
        key: &ApiKey,
    ) -> sqlx::Result<Option<KeyRights>> {
        // Callers limit how many requests ask at once. Another request may have asked about this
        // key while this one waited.
        if let Some(rights) = self.remembered(key) {
            return Ok(Some(rights));
        }
        let (listens, changes) = {
            let entries = self.entries();
            (entries.listens, entries.changes)
        };
        count(if listens { "miss" } else { "bypass" });
        let asked_at = Instant::now();
        let found = database::with_timeout(authentication::authenticate(pool, key)).await?;
        let Some((rights, lifetime)) = found else {
            return Ok(None);
        };
        let until = asked_at + lifetime.map_or(LIFETIME, |lifetime| lifetime.min(LIFETIME));
        let mut entries = self.entries();
        entries.add(key, &rights, until, changes);
        entries.note_use(rights.tenant, key);
        drop(entries);
        Ok(Some(rights))
    }

    /// Writes when keys were used, with a transaction for each tenant. A use that cannot be written
    /// is forgotten: the next one is written a minute later.
    pub async fn record_uses(&self, pool: &PgPool) {
        let used = std::mem::take(&mut self.entries().used);
        for (tenant, ids) in used {
            let ids: Vec<String> = ids.into_iter().collect();
            let record = async {
                let mut transaction = database::begin_for(pool, tenant).await?;
                storage::api_keys::record_use(&mut transaction, tenant, &ids).await?;
                transaction.commit().await
            };
            if let Err(error) = database::with_timeout(record).await {
                tracing::debug!(%error, %tenant, "The last use of API keys was not recorded");
            }
        }
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
    /// What a key allows, if its entry may still be used.
    fn find(&self, key: &ApiKey) -> Option<KeyRights> {
        let entry = self.by_hash.get(&key.sha256())?;
        (self.listens && Instant::now() < entry.until).then(|| entry.rights.clone())
    }

    /// Counts a key as used, unless too many are counted already.
    fn note_use(&mut self, tenant: TenantId, key: &ApiKey) {
        let has_room = self.used.len() < MAX_ENTRIES;
        let ids = match self.used.entry(tenant) {
            Occupied(ids) => ids.into_mut(),
            Vacant(place) if has_room => place.insert(HashSet::new()),
            Vacant(_) => return,
        };
        if !ids.contains(&key.id) && ids.len() < MAX_KEYS {
            ids.insert(key.id.clone());
        }
    }

    /// Adds what Postgres said, to be used until `until`, unless something has changed since it was
    /// asked: `changes` is the count at that moment. Adds nothing to a full cache.
    fn add(&mut self, key: &ApiKey, rights: &KeyRights, until: Instant, changes: u64) {
        if !self.listens || self.changes != changes {
            return;
        }
        if self.by_hash.len() >= MAX_ENTRIES {
            let now = Instant::now();
            self.by_hash.retain(|_, entry| now < entry.until);
        }
        if self.by_hash.len() < MAX_ENTRIES {
            let entry = Entry {
                key_id: key.id.clone(),
                rights: rights.clone(),
                until,
            };
            self.by_hash.insert(key.sha256(), entry);
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
    use domain::permission::Permissions;

    use super::*;

    fn rights(tenant: TenantId) -> KeyRights {
        KeyRights {
            tenant,
            permissions: Permissions::of_keys(),
            networks: [].into(),
        }
    }

    impl KeyCache {
        /// Adds a key as if Postgres had been asked now.
        fn add(&self, key: &ApiKey, tenant: TenantId, until: Instant) {
            let changes = self.entries().changes;
            self.entries().add(key, &rights(tenant), until, changes);
        }
    }

    fn soon() -> Instant {
        Instant::now() + LIFETIME
    }

    fn filled() -> (KeyCache, ApiKey, TenantId) {
        let (cache, key, tenant) = (KeyCache::default(), ApiKey::generate(), TenantId::new());
        std::mem::forget(Listening::begin(&cache));
        cache.add(&key, tenant, soon());
        (cache, key, tenant)
    }

    #[test]
    fn a_key_is_remembered_until_it_is_revoked() {
        let (cache, key, tenant) = filled();
        assert_eq!(cache.remembered(&key), Some(rights(tenant)));
        assert_eq!(cache.remembered(&ApiKey::generate()), None);
        cache.entries().forget("another");
        assert_eq!(cache.remembered(&key), Some(rights(tenant)));
        cache.entries().forget(&key.id);
        assert_eq!(cache.remembered(&key), None);
    }

    #[test]
    fn an_entry_ends() {
        let (cache, key, tenant) = filled();
        cache.add(&key, tenant, Instant::now());
        assert_eq!(cache.remembered(&key), None);
    }

    #[test]
    fn what_was_asked_before_a_revocation_is_not_kept() {
        let (cache, key, tenant) = filled();
        let changes = cache.entries().changes;
        cache.entries().forget(&key.id);
        cache.entries().add(&key, &rights(tenant), soon(), changes);
        assert_eq!(cache.remembered(&key), None);
    }

    #[test]
    fn nothing_is_remembered_without_a_listener() {
        let (cache, key, tenant) = filled();
        drop(Listening(&cache));
        assert_eq!(cache.remembered(&key), None);
        cache.add(&key, tenant, soon());
        assert_eq!(cache.remembered(&key), None);
    }

    #[test]
    fn a_full_cache_adds_nothing_more() {
        let (cache, _, tenant) = filled();
        for number in 0..MAX_ENTRIES {
            let entry = Entry {
                key_id: number.to_string(),
                rights: rights(tenant),
                until: soon(),
            };
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_be_bytes());
            cache.entries().by_hash.insert(hash, entry);
        }
        let key = ApiKey::generate();
        cache.add(&key, tenant, soon());
        assert_eq!(cache.remembered(&key), None);
    }

    #[test]
    fn a_used_key_is_counted_once() {
        let (cache, key, tenant) = filled();
        for _ in 0..3 {
            cache.remembered(&key);
        }
        assert_eq!(cache.entries().used[&tenant], HashSet::from([key.id]));
    }
}
