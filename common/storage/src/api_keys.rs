//! SQL of API keys.

use std::time::Duration;

use ipnet::IpNet;
use sqlx::PgConnection;
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

use crate::database::row::RowId;
use domain::api_key::{ApiKey, KeyRecord, KeyRights, KeyTerms};
use domain::id::TenantId;
use domain::permission::{Permission, Permissions};

/// Inserts an API key, and returns when it was made.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn insert(
    connection: &mut PgConnection,
    tenant: TenantId,
    key: &ApiKey,
    terms: &KeyTerms,
) -> sqlx::Result<OffsetDateTime> {
    let scopes = terms.scopes.map(names);
    let networks: Vec<String> = terms.networks.iter().map(IpNet::to_string).collect();
    sqlx::query_scalar!(
        "-- api_key::insert
        INSERT INTO api_keys (id, tenant_id, name, sha256, scopes, networks, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
        RETURNING created_at",
        key.id,
        tenant as TenantId,
        terms.name,
        &key.sha256()[..],
        scopes.as_deref() as Option<&[String]>,
        &networks[..],
        terms.expires_at,
    )
    .fetch_one(connection)
    .await
}

/// Finds what an API key allows, and for how long at least. Returns `None` if the key is unknown,
/// wrong, expired or revoked. The transaction must come from [`crate::database::begin_for_key`],
/// which makes the key's row visible.
///
/// # Errors
/// Returns an error if a stored scope or network cannot be read, or if Postgres fails.
pub async fn rights(
    connection: &mut PgConnection,
    key: &ApiKey,
) -> sqlx::Result<Option<(KeyRights, Option<Duration>)>> {
    let row = sqlx::query!(
        r#"-- api_key::rights
        SELECT tenant_id, sha256, scopes, networks, extract(epoch FROM expires_at - clock_timestamp())::float8 AS seconds_left
        FROM api_keys WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())"#,
        key.id
    )
    .fetch_optional(connection)
    .await?;
    // The hashes are compared in constant time, so that the time of the answer reveals nothing
    // about the stored hash.
    let Some(row) = row.filter(|row| bool::from(row.sha256.ct_eq(&key.sha256()))) else {
        return Ok(None);
    };
    let rights = KeyRights {
        tenant: TenantId(row.tenant_id),
        permissions: (row.scopes).map_or_else(Permissions::of_keys, |names| permissions(&names)),
        networks: networks(&key.id, &row.networks)?.into(),
    };
    let left = row
        .seconds_left
        .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
    Ok(Some((rights, left)))
}

/// Lists up to `limit` keys of a tenant, the newest first. With `after`, lists only keys that are
/// older than the key with this id.
///
/// # Errors
/// Returns an error if a stored scope or network cannot be read, or if Postgres fails.
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    after: Option<&str>,
    limit: i64,
) -> sqlx::Result<Vec<KeyRecord>> {
    let rows = sqlx::query_as!(
        KeyRow,
        "-- api_key::list
        SELECT id, name, scopes, networks, created_at, expires_at, last_used_at, revoked_at, successor FROM api_keys
        WHERE tenant_id = $1
          AND ($2::text IS NULL OR (created_at, id) < (SELECT created_at, id FROM api_keys WHERE tenant_id = $1 AND id = $2))
        ORDER BY created_at DESC, id DESC LIMIT $3",
        tenant as TenantId,
        after,
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(KeyRow::into_record).collect()
}

/// Finds a key of a tenant.
///
/// # Errors
/// Returns an error if a stored scope or network cannot be read, or if Postgres fails.
pub async fn find(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: &str,
) -> sqlx::Result<Option<KeyRecord>> {
    let row = sqlx::query_as!(
        KeyRow,
        "-- api_key::find
        SELECT id, name, scopes, networks, created_at, expires_at, last_used_at, revoked_at, successor FROM api_keys
        WHERE tenant_id = $1 AND id = $2",
        tenant as TenantId,
        id,
    )
    .fetch_optional(connection)
    .await?;
    row.map(KeyRow::into_record).transpose()
}

/// Counts the keys of a tenant that are not revoked and have not expired.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn count_active(connection: &mut PgConnection, tenant: TenantId) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"-- api_key::count_active
        SELECT count(*) AS "count!" FROM api_keys
        WHERE tenant_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())"#,
        tenant as TenantId,
    )
    .fetch_one(connection)
    .await
}

/// Revokes the API key with this id. Returns `false` if this tenant has no such key, or if the key
/// was revoked before.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn revoke(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: &str,
) -> sqlx::Result<bool> {
    let revoked = sqlx::query!(
        "-- api_key::revoke
        UPDATE api_keys SET revoked_at = clock_timestamp() WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL",
        tenant as TenantId,
        id,
    )
    .execute(connection)
    .await?;
    Ok(revoked.rows_affected() == 1)
}

/// Names the key that replaces this one, which expires after `overlap`, or when it would have
/// expired if that is sooner. Returns `false` if the key is not active, or was rotated before.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn replace(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: &str,
    successor: &str,
    overlap: Duration,
) -> sqlx::Result<bool> {
    let replaced = sqlx::query!(
        "-- api_key::replace
        UPDATE api_keys SET successor = $3, expires_at = least(expires_at, clock_timestamp() + make_interval(secs => $4))
        WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL AND successor IS NULL
          AND (expires_at IS NULL OR expires_at > clock_timestamp())",
        tenant as TenantId,
        id,
        successor,
        overlap.as_secs_f64(),
    )
    .execute(connection)
    .await?;
    Ok(replaced.rows_affected() == 1)
}

/// Records that these keys of a tenant were used now.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn record_use(
    connection: &mut PgConnection,
    tenant: TenantId,
    ids: &[String],
) -> sqlx::Result<()> {
    sqlx::query!(
        "-- api_key::record_use
        UPDATE api_keys SET last_used_at = clock_timestamp() WHERE tenant_id = $1 AND id = ANY($2)",
        tenant as TenantId,
        ids,
    )
    .execute(connection)
    .await?;
    Ok(())
}

struct KeyRow {
    id: String,
    name: String,
    scopes: Option<Vec<String>>,
    networks: Vec<String>,
    created_at: OffsetDateTime,
    expires_at: Option<OffsetDateTime>,
    last_used_at: Option<OffsetDateTime>,
    revoked_at: Option<OffsetDateTime>,
    successor: Option<String>,
}

impl KeyRow {
    fn into_record(self) -> sqlx::Result<KeyRecord> {
        Ok(KeyRecord {
            terms: KeyTerms {
                scopes: self.scopes.map(|names| permissions(&names)),
                networks: networks(&self.id, &self.networks)?,
                name: self.name,
                expires_at: self.expires_at,
            },
            id: self.id,
            created_at: self.created_at,
            last_used_at: self.last_used_at,
            revoked_at: self.revoked_at,
            successor: self.successor,
        })
    }
}

/// The names of permissions, as they are stored.
fn names(permissions: Permissions) -> Vec<String> {
    let names = permissions
        .iter()
        .map(|permission| permission.as_str().to_owned());
    names.collect()
}

/// The permissions with these names. A newer version may have stored a name that this one does not
/// know; it grants nothing here.
fn permissions(names: &[String]) -> Permissions {
    let known = names
        .iter()
        .filter_map(|name| name.parse::<Permission>().ok());
    known.collect()
}

/// The networks that are stored for the key with this id.
fn networks(id: &str, stored: &[String]) -> sqlx::Result<Vec<IpNet>> {
    // A network may tell where a person is, so the error does not repeat it.
    let unknown = |_| RowId::new("api_keys", id).unknown("networks", "no network".to_owned());
    let parsed = stored.iter().map(|text| text.parse().map_err(unknown));
    parsed.collect()
}
