//! Finds orphans: objects in the bucket that should not be there.
//!
//! These are objects that no row names, objects that have a receipt of their deletion, and objects
//! that were due and are still there. The sweeper removes the first two kinds; `platen verify
//! --deep` reports all. Both use the definition in this file.
//!
//! An object is written before the row that names it, so a young object may still get its row. Only
//! objects older than a grace period count, on the database's clock. Objects with a receipt need no
//! grace, because no key is written twice. If you add a table that names objects, add it to
//! `judge`.

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

/// Objects of one step.
const BATCH: usize = 1_000;

/// Why the search ended early. What it found before is valid.
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
    /// Objects that were written later may still get their row.
    before: OffsetDateTime,
}

/// What one step found.
#[derive(Debug, Default)]
pub struct Batch {
    /// Objects of the step, without the marker and the anchors.
    pub seen: usize,
    /// Objects under a tenant's keys that no row names.
    pub unnamed: Vec<ListedObject>,
    /// Objects with a receipt of their deletion. They came back with a restored volume or copy, or
    /// the receipt is wrong.
    pub receipted: Vec<ListedObject>,
    /// Objects that are still there although they were due, and when.
    pub overdue: Vec<(ListedObject, OffsetDateTime)>,
    /// Objects under keys that Platen does not use, or of a tenant that this database does not
    /// know: they may belong to another installation. They are not removed.
    pub strange: Vec<ListedObject>,
    /// Symbolic links and special files. They are not removed.
    pub irregular: Vec<ListedObject>,
}

impl Search {
    /// Starts a search. `grace` is how old an object without a row must be to count.
    ///
    /// # Errors
    /// Those of Postgres.
    pub async fn begin(pool: &PgPool, bucket: &Bucket, grace: Duration) -> sqlx::Result<Self> {
        let before = storage::orphans::before(pool, grace).await?;
        Ok(Self {
            pool: pool.clone(),
            objects: bucket.list(),
            before,
        })
    }

    /// Runs the next step: up to 1,000 objects. `None` at the end.
    ///
    /// # Errors
    /// The bucket or the database failed; the search cannot go on.
    pub async fn next(&mut self) -> Result<Option<Batch>, SearchError> {
        let mut batch = Batch::default();
        let mut owned: BTreeMap<TenantId, Vec<(KeyPath, ListedObject)>> = BTreeMap::new();
        while batch.seen < BATCH
            && let Some(object) = self.objects.try_next().await?
        {
            // The marker and the anchors have no row on purpose: they are kept outside the
            // database.
            let is_ours = object.key == MARKER || object.key.starts_with(anchor::PREFIX);
            if is_ours && object.kind == FileKind::Object {
                continue;
            }
            batch.seen += 1;
            match KeyPath::parse(&object.key) {
                _ if object.kind != FileKind::Object => batch.irregular.push(object),
                Some(path) => owned.entry(path.tenant).or_default().push((path, object)),
                None if object.modified >= self.before => {}
                // From a probe that broke off before it removed its object.
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
                let is_old = object.modified < self.before;
                match &judgments {
                    None if is_old => batch.strange.push(object),
                    None => {}
                    Some(judgments) => match judgments.get(&object.key) {
                        Some(Judgment::Receipted) => batch.receipted.push(object),
                        Some(Judgment::Unnamed) if is_old => batch.unnamed.push(object),
                        Some(&Judgment::DueAt(due)) if due < self.before => {
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
    /// Reads the ids of a key; `None` where it does not begin with `t/<tenant>/`.
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

/// A UUID as Platen writes it, with hyphens and in lower case. In a key any other form names
/// another object.
fn uuid(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text).ok()?;
    (uuid.to_string() == text).then_some(uuid)
}

/// What rows say about an object that need not be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgment {
    /// A receipt says that it was deleted.
    Receipted,
    /// No row names it.
    Unnamed,
    /// It is to be deleted at this time.
    DueAt(OffsetDateTime),
}

/// Judges these keys of one tenant by the rows; `None` where there is no such tenant. Keys of
/// objects that must be there are not in the result.
///
/// No lock is needed, because one statement sees one moment: all objects of an open job are spared,
/// since its settlement may still name them, and after a job has ended no row names another object
/// of it. An object whose deletion was never planned counts as due by its tenant's retention; an
/// object under a legal hold does not.
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
    let rows = storage::orphans::judged(&mut transaction, tenant, keys, &calls, &jobs).await?;
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
