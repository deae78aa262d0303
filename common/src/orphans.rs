//! Orphans: objects that no row names. The sweeper removes them and `platen verify --deep` tells of them; what one is
//! stands here, once.
//!
//! An object is written before the row that names it, so one that is young may yet be named: a grace decides, on the
//! database's clock. Who adds a table that names objects adds it to [`unnamed`].

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures::stream::{BoxStream, TryStreamExt};
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::anchor;
use crate::bucket::{Bucket, BucketError, EXAMINED, Listed};
use crate::database;
use crate::id::TenantId;

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
    /// Under no key of ours, or of a tenant this database does not know: perhaps another Platen's. Left alone.
    pub strange: Vec<Listed>,
}

impl Search {
    /// `grace` is how old an orphan must be.
    pub async fn begin(pool: &PgPool, bucket: &Bucket, grace: Duration) -> sqlx::Result<Self> {
        let before = sqlx::query_scalar!(
            r#"-- orphans::before
            SELECT clock_timestamp() - make_interval(secs => $1) AS "before!""#,
            grace.as_secs_f64()
        )
        .fetch_one(pool)
        .await?;
        Ok(Self {
            pool: pool.clone(),
            objects: bucket.list(),
            before,
        })
    }

    /// The next step, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Batch>, SearchError> {
        let mut batch = Batch::default();
        let mut owned: BTreeMap<TenantId, Vec<(Place, Listed)>> = BTreeMap::new();
        while batch.seen < BATCH
            && let Some(object) = self.objects.try_next().await?
        {
            batch.seen += 1;
            if object.modified >= self.before {
                continue;
            }
            match Place::of(&object.key) {
                Some(place) => owned.entry(place.tenant).or_default().push((place, object)),
                // Of no tenant, and of no row: they are kept because they stand outside the database.
                None if object.key.starts_with(anchor::PREFIX) => {}
                // One that broke off before it tidied up.
                None if object.key.starts_with(EXAMINED) => batch.unnamed.push(object),
                None => batch.strange.push(object),
            }
        }
        for (tenant, objects) in owned {
            let places: Vec<Place> = objects.iter().map(|(place, _)| *place).collect();
            let keys: Vec<String> = objects
                .iter()
                .map(|(_, object)| object.key.clone())
                .collect();
            let unnamed = unnamed(&self.pool, tenant, &keys, &places).await?;
            let objects = objects.into_iter().map(|(_, object)| object);
            match unnamed {
                Some(unnamed) => batch
                    .unnamed
                    .extend(objects.filter(|object| unnamed.contains(&object.key))),
                None => batch.strange.extend(objects),
            }
        }
        Ok((batch.seen > 0).then_some(batch))
    }
}

/// What a key says of whose it is: `t/<tenant>/c/<call>`, `t/<tenant>/j/<job>/…`, `t/<tenant>/u/<upload>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    tenant: TenantId,
    call: Option<Uuid>,
    job: Option<Uuid>,
}

impl Place {
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

/// Of these keys of one tenant, those that no row names; `None` when there is no such tenant. One statement, so one
/// moment: all of a job that is open is spared, for its settlement may yet name it, and of one that has ended nothing
/// more is ever named. That is why nobody needs a lock.
async fn unnamed(
    pool: &PgPool,
    tenant: TenantId,
    keys: &[String],
    places: &[Place],
) -> sqlx::Result<Option<HashSet<String>>> {
    let calls: Vec<Option<Uuid>> = places.iter().map(|place| place.call).collect();
    let jobs: Vec<Option<Uuid>> = places.iter().map(|place| place.job).collect();
    let mut transaction = database::begin_for(pool, tenant).await?;
    let known = sqlx::query_scalar!(
        r#"-- orphans::tenant
        SELECT EXISTS (SELECT FROM tenants WHERE id = $1) AS "known!""#,
        tenant.0
    )
    .fetch_one(&mut *transaction)
    .await?;
    if !known {
        return Ok(None);
    }
    let unnamed = sqlx::query_scalar!(
        r#"-- orphans::unnamed
        SELECT listed.key AS "key!" FROM unnest($2::text[], $3::uuid[], $4::uuid[]) AS listed(key, call_id, job_id)
        WHERE NOT EXISTS (SELECT FROM artifacts WHERE object_key = listed.key AND tenant_id = $1 AND deleted_at IS NULL)
          AND NOT EXISTS (SELECT FROM calls WHERE object_key = listed.key AND tenant_id = $1)
          AND NOT EXISTS (SELECT FROM uploads WHERE object_key = listed.key AND tenant_id = $1 AND deleted_at IS NULL)
          AND NOT EXISTS (SELECT FROM calls c JOIN jobs j ON j.id = c.job_id WHERE c.id = listed.call_id AND c.tenant_id = $1 AND j.finished_at IS NULL)
          AND NOT EXISTS (SELECT FROM jobs WHERE id = listed.job_id AND tenant_id = $1 AND finished_at IS NULL)
          AND NOT EXISTS (SELECT FROM job_requests WHERE job_id = listed.job_id AND tenant_id = $1
                          AND generation @> jsonb_build_object('inputs', jsonb_build_array(jsonb_build_object('object_key', listed.key))))"#,
        tenant.0,
        keys,
        &calls as &[Option<Uuid>],
        &jobs as &[Option<Uuid>],
    )
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Some(unnamed.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{input_key, rendition_key};
    use crate::call::original_key;
    use crate::generation::image::Format;
    use crate::id::{CallId, JobId};

    #[test]
    fn our_own_keys_say_whose_they_are() {
        let (tenant, job, call) = (TenantId::new(), JobId::new(), CallId::new());
        let of = |key: &str| Place::of(key).map(|place| (place.tenant, place.call, place.job));
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
            assert_eq!(Place::of(&key), None, "{key}");
        }
    }
}
