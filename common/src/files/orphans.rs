//! Orphans: objects that no row names, and objects that are to be gone: those with a receipt, and those whose time is over. The
//! sweeper removes the first two, and `platen verify --deep` tells of all; what one is stands here, once.
//!
//! An object is written before the row that names it, so one that is young may yet be named: a grace decides, on the
//! database's clock. One that has a receipt needs none: no key is written twice. Who adds a table that names objects adds it to
//! [`judged`].

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::{BoxStream, TryStreamExt};
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::money::anchor;
use bucket::{Bucket, BucketError, FileKind, Listed, MARKER, PROBE_PREFIX};
use domain::id::TenantId;
use storage::database;

/// Objects judged in one step.
const BATCH: usize = 1_000;

/// Why the search ended early. What was found before stands.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// A walk through the whole bucket.
pub struct Search {
    pool: PgPool,
    objects: BoxStream<'static, Result<Listed, BucketError>>,
    /// Younger objects may yet be named.
    before: OffsetDateTime,
}

/// What one step of the walk found.
#[derive(Debug, Default)]
pub struct Batch {
    /// Objects looked at.
    pub seen: usize,
    /// A tenant's own that no row names.
    pub unnamed: Vec<Listed>,
    /// A receipt says that they are gone: they have come back with a volume or a copy, or the receipt is wrong.
    pub receipted: Vec<Listed>,
    /// They were to be deleted at this time, and are not.
    pub overdue: Vec<(Listed, OffsetDateTime)>,
    /// Under no key of ours, or of a tenant this database does not know: perhaps another Platen's. Left alone.
    pub strange: Vec<Listed>,
    /// Symbolic links and special files. Left alone.
    pub irregular: Vec<Listed>,
}

impl Search {
    /// `grace` is how old an orphan must be.
    pub async fn begin(pool: &PgPool, bucket: &Bucket, grace: Duration) -> sqlx::Result<Self> {
        let before = storage::orphans::before(pool, grace).await?;
        Ok(Self {
            pool: pool.clone(),
            objects: bucket.list(),
            before,
        })
    }

    /// The next step, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Batch>, SearchError> {
        let mut batch = Batch::default();
        let mut owned: BTreeMap<TenantId, Vec<(KeyPath, Listed)>> = BTreeMap::new();
        while batch.seen < BATCH
            && let Some(object) = self.objects.try_next().await?
        {
            // Of no tenant and of no row: anchors are kept because they stand outside the database.
            let is_ours = object.key == MARKER || object.key.starts_with(anchor::PREFIX);
            if is_ours && object.kind == FileKind::Object {
                continue;
            }
            batch.seen += 1;
            match KeyPath::of(&object.key) {
                _ if object.kind != FileKind::Object => batch.irregular.push(object),
                Some(place) => owned.entry(place.tenant).or_default().push((place, object)),
                None if object.modified >= self.before => {}
                // One that broke off before it tidied up.
                None if object.key.starts_with(PROBE_PREFIX) => batch.unnamed.push(object),
                None => batch.strange.push(object),
            }
        }
        for (tenant, objects) in owned {
            let places: Vec<KeyPath> = objects.iter().map(|(place, _)| *place).collect();
            let keys: Vec<String> = objects
                .iter()
                .map(|(_, object)| object.key.clone())
                .collect();
            let judged = judged(&self.pool, tenant, &keys, &places).await?;
            for (_, object) in objects {
                let is_old = object.modified < self.before;
                match &judged {
                    None if is_old => batch.strange.push(object),
                    None => {}
                    Some(judged) => match judged.get(&object.key) {
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

/// What a key says of whose it is: `t/<tenant>/c/<call>`, `t/<tenant>/j/<job>/…`, `t/<tenant>/u/<upload>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeyPath {
    tenant: TenantId,
    call: Option<Uuid>,
    job: Option<Uuid>,
}

impl KeyPath {
    fn of(key: &str) -> Option<Self> {
        let ours = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
        let mut parts = key.split('/');
        if !key.bytes().all(ours) || parts.next() != Some("t") {
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

/// A UUID, written as we write them: no other way to write it names the same object.
fn uuid(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text).ok()?;
    (uuid.to_string() == text).then_some(uuid)
}

/// What rows say of an object, where it need not be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgment {
    Receipted,
    Unnamed,
    DueAt(OffsetDateTime),
}

/// What rows say of these keys of one tenant; `None` when there is no such tenant. One statement, so one moment: all of a job
/// that is open is spared, for its settlement may yet name it, and of one that has ended nothing more is ever named. That is
/// why nobody needs a lock. What is due and was never planned counts as due, by what its tenant wants kept; what is held does not.
async fn judged(
    pool: &PgPool,
    tenant: TenantId,
    keys: &[String],
    places: &[KeyPath],
) -> sqlx::Result<Option<BTreeMap<String, Judgment>>> {
    let calls: Vec<Option<Uuid>> = places.iter().map(|place| place.call).collect();
    let jobs: Vec<Option<Uuid>> = places.iter().map(|place| place.job).collect();
    let mut transaction = database::begin_for(pool, tenant).await?;
    let known = storage::orphans::knows_tenant(&mut transaction, tenant).await?;
    if !known {
        return Ok(None);
    }
    let rows = storage::orphans::judged(&mut transaction, tenant, keys, &calls, &jobs).await?;
    transaction.commit().await?;
    let judged = rows.into_iter().filter_map(|row| {
        let judged = match row.due_at {
            _ if row.receipted => Judgment::Receipted,
            _ if row.unnamed => Judgment::Unnamed,
            Some(due) => Judgment::DueAt(due),
            None => return None,
        };
        Some((row.key, judged))
    });
    Ok(Some(judged.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::artifact::{input_key, rendition_key};
    use domain::call::original_key;
    use domain::generation::image::Format;
    use domain::id::{CallId, JobId};

    #[test]
    fn our_own_keys_say_whose_they_are() {
        let (tenant, job, call) = (TenantId::new(), JobId::new(), CallId::new());
        let of = |key: &str| KeyPath::of(key).map(|place| (place.tenant, place.call, place.job));
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
    fn other_keys_are_strange() {
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
            assert_eq!(KeyPath::of(&key), None, "{key}");
        }
    }
}
