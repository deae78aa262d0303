//! Finds orphans: objects in the bucket that should not be there.
//!
//! [`Batch`] lists the kinds. The sweeper removes objects that no row names, and objects that have a
//! receipt of their deletion. `platen verify --deep` reports these and the other kinds: objects that
//! were due for deletion and are still there, objects under keys of nobody, and what is not a plain
//! file. Both use the definition in this file.
//!
//! An object is written before the row that names it, so a young object may still get its row. So
//! an object without a row counts only if it is older than a grace period, on the database's clock.
//! For objects with a receipt there is no grace period, because no key is written twice. If you add
//! a table that names objects, add it to [`storage::orphans::judge`].

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::{BoxStream, TryStreamExt};
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::money::anchor;
use bucket::{Bucket, BucketError, FileKind, ListedObject, MARKER, PROBE_PREFIX};
use domain::id::TenantId;
use storage::database;

/// Most objects that one step reads.
const BATCH: usize = 1_000;

/// Why a search ended early. The batches that it returned before are valid.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The bucket failed.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// A search through the whole bucket, in steps.
pub struct Search {
    pool: PgPool,
    objects: BoxStream<'static, Result<ListedObject, BucketError>>,
    /// The grace period ago. Objects that were written at this time or later may still get their
    /// row.
    grace_cutoff: OffsetDateTime,
}

/// What one step found.
#[derive(Debug, Default)]
pub struct Batch {
    /// How many objects the step read, without the marker and the anchors.
    pub seen: usize,
    /// Objects under a tenant's keys that no row names, and what is left of probes of the bucket.
    pub unnamed: Vec<ListedObject>,
    /// Objects with a receipt of their deletion. Either a restored volume or copy brought them
    /// back, or the receipt is wrong.
    pub receipted: Vec<ListedObject>,
    /// Objects that are still there although they have been due for deletion for longer than the
    /// grace period, and since when.
    pub overdue: Vec<(ListedObject, OffsetDateTime)>,
    /// Objects under keys that Platen does not use, or of a tenant that this database does not
    /// know. They may belong to another installation, so they are not removed.
    pub strange: Vec<ListedObject>,
    /// Symbolic links and special files. They are not removed.
    pub irregular: Vec<ListedObject>,
}

impl Search {
    /// Starts a search. An object without a row counts only if it is older than `grace`, and an
    /// object that is due only if it has been due for longer than `grace`.
    ///
    /// # Errors
    /// Returns an error if Postgres fails.
    pub async fn begin(pool: &PgPool, bucket: &Bucket, grace: Duration) -> sqlx::Result<Self> {
        let grace_cutoff = storage::orphans::grace_cutoff(pool, grace).await?;
        Ok(Self {
            pool: pool.clone(),
            objects: bucket.list(),
            grace_cutoff,
        })
    }

    /// Runs the next step, which reads up to 1,000 objects. Returns `None` at the end.
    ///
    /// # Errors
    /// Returns an error if the bucket or Postgres fails. The search cannot go on then.
    pub async fn next(&mut self) -> Result<Option<Batch>, SearchError> {
        let mut batch = Batch::default();
        // The objects under keys of tenants, by tenant.
        let mut owned: BTreeMap<TenantId, Vec<(KeyPath, ListedObject)>> = BTreeMap::new();
        while batch.seen < BATCH
            && let Some(object) = self.objects.try_next().await?
        {
            // The marker and the anchors have no row on purpose: they are kept outside the
            // database.
            let needs_no_row = object.key == MARKER || object.key.starts_with(anchor::PREFIX);
            if needs_no_row && object.kind == FileKind::Object {
                continue;
            }
            batch.seen += 1;
            match KeyPath::parse(&object.key) {
                _ if object.kind != FileKind::Object => batch.irregular.push(object),
                Some(path) => owned.entry(path.tenant).or_default().push((path, object)),
                None if object.modified >= self.grace_cutoff => {}
                // A probe wrote this object and broke off before it removed it.
                None if object.key.starts_with(PROBE_PREFIX) => batch.unnamed.push(object),
                None => batch.strange.push(object),
            }
        }
        for (tenant, objects) in owned {
            let paths: Vec<KeyPath> = objects.iter().map(|(path, _)| *path).collect();
            let keys: Vec<String> = objects
                .iter()
                .map(|(_, object)| object.key.clone())
                .collect();
            let judgments = judge(&self.pool, tenant, &keys, &paths).await?;
            for (_, object) in objects {
                let is_old = object.modified < self.grace_cutoff;
                match &judgments {
                    None if is_old => batch.strange.push(object),
                    None => {}
                    Some(judgments) => match judgments.get(&object.key) {
                        Some(Judgment::Receipted) => batch.receipted.push(object),
                        Some(Judgment::Unnamed) if is_old => batch.unnamed.push(object),
                        // A file that became due later may still wait for its deletion.
                        Some(&Judgment::DueAt(due)) if due < self.grace_cutoff => {
                            batch.overdue.push((object, due));
                        }
                        Some(Judgment::Unnamed | Judgment::DueAt(_)) | None => {}
                    },
                }
            }
        }
        Ok((batch.seen > 0).then_some(batch))
    }
}

/// The ids in a key: `t/<tenant>/c/<call>`, `t/<tenant>/j/<job>/…`, `t/<tenant>/u/<upload>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeyPath {
    tenant: TenantId,
    call: Option<Uuid>,
    job: Option<Uuid>,
}

impl KeyPath {
    /// Reads the ids of a key. Returns `None` if the key does not begin with `t/<tenant>/` and
    /// another part, or has characters that Platen does not use in keys.
    fn parse(key: &str) -> Option<Self> {
        let is_used = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
        let mut parts = key.split('/');
        if !key.bytes().all(is_used) || parts.next() != Some("t") {
            return None;
        }
        let tenant = TenantId(uuid(parts.next()?)?);
        let (kind, id) = (parts.next()?, parts.next().and_then(uuid));
        Some(Self {
            tenant,
            call: id.filter(|_| kind == "c"),
            job: id.filter(|_| kind == "j"),
        })
    }
}

/// Parses a UUID in the form that Platen writes, with hyphens and in lower case. A key with another
/// form names another object.
fn uuid(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text).ok()?;
    (uuid.to_string() == text).then_some(uuid)
}

/// What rows say about an object that need not be in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgment {
    /// A receipt says that it was deleted.
    Receipted,
    /// No row names it, and no open job may still name it.
    Unnamed,
    /// It is to be deleted at this time.
    DueAt(OffsetDateTime),
}

/// Finds what the rows say about these keys of one tenant. Returns `None` if there is no such
/// tenant. Keys of objects that must be there are not in the result.
///
/// No lock is needed, because one statement sees one moment. All objects of an open job are left
/// out, because its settlement may still name them. After a job has ended, no further object of the
/// job gets a row. An object whose deletion was never planned is due when its tenant's retention
/// says. An object under a legal hold does not count as due.
async fn judge(
    pool: &PgPool,
    tenant: TenantId,
    keys: &[String],
    paths: &[KeyPath],
) -> sqlx::Result<Option<BTreeMap<String, Judgment>>> {
    let calls: Vec<Option<Uuid>> = paths.iter().map(|path| path.call).collect();
    let jobs: Vec<Option<Uuid>> = paths.iter().map(|path| path.job).collect();
    let mut transaction = database::begin_for(pool, tenant).await?;
    let exists = storage::orphans::knows_tenant(&mut transaction, tenant).await?;
    if !exists {
        return Ok(None);
    }
    let rows = storage::orphans::judge(&mut transaction, tenant, keys, &calls, &jobs).await?;
    transaction.commit().await?;
    let judgments = rows.into_iter().filter_map(|row| {
        let judgment = match row.due_at {
            _ if row.receipted => Judgment::Receipted,
            _ if row.unnamed => Judgment::Unnamed,
            Some(due) => Judgment::DueAt(due),
            None => return None,
        };
        Some((row.key, judgment))
    });
    Ok(Some(judgments.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::artifact::{input_key, rendition_key};
    use domain::call::original_key;
    use domain::generation::image::Format;
    use domain::id::{CallId, JobId};

    #[test]
    fn keys_of_platen_contain_their_ids() {
        let (tenant, job, call) = (TenantId::new(), JobId::new(), CallId::new());
        let of = |key: &str| KeyPath::parse(key).map(|path| (path.tenant, path.call, path.job));
        assert_eq!(
            of(&original_key(tenant, call)),
            Some((tenant, Some(call.0), None))
        );
        for key in [
            input_key(tenant, job, 0),
            rendition_key(tenant, job, 1, 0, Format::Png),
        ] {
            assert_eq!(of(&key), Some((tenant, None, Some(job.0))), "{key}");
        }
        assert_eq!(
            of(&format!("t/{}/old/thing", tenant.0)),
            Some((tenant, None, None))
        );
    }

    #[test]
    fn other_keys_have_no_ids() {
        let tenant = TenantId::new().0;
        for key in [
            "a".to_owned(),
            "t/1/c/2".to_owned(),
            format!("x/{tenant}/c/1"),
            format!("t/{tenant}"),
            format!("t/{}/c/1", tenant.simple()),
            format!("t/{}/c/1", tenant.to_string().to_uppercase()),
            format!("t/{tenant}/c/a%20b"),
        ] {
            assert_eq!(KeyPath::parse(&key), None, "{key}");
        }
    }
}
