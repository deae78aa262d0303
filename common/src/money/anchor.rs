//! Anchors: signed records of the last transfer of every tenant's ledger at one moment. They are
//! kept in the bucket.
//!
//! A ledger is a chain of hashes, so `platen verify` detects a changed line (invariant I2). But a
//! person with the rights of the database's owner can change a line and compute the whole chain
//! again, and then the ledger is consistent. Such a ledger does not match the anchors that were
//! written before. Nobody can write an anchor without `PLATEN_SIGNING_KEY`, which is not in the
//! database. `docs/decisions/0030-anchors.md` says what anchors protect against, and what they do
//! not.
//!
//! An anchor has one object for each 50,000 tenants, `anchors/<time>/<page>`. The object has a
//! header in JSON, one line for each tenant, and a signature. A tenant's line has its id, the
//! number of its last transfer, and the hash of that transfer. The SQL is in [`storage::anchors`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, PrimitiveDateTime};
use uuid::Uuid;

use bucket::{Bucket, BucketError};
use domain::id::TenantId;
use storage::anchors::Head;
use storage::verify::Finding;

/// What the keys of anchors begin with. No row names them, and the sweeper does not remove them.
pub const PREFIX: &str = "anchors/";

/// The value of [`Finding::invariant`] for findings about anchors.
pub const INVARIANT: &str = "anchors";

/// Most tenants on one page.
const PAGE_TENANTS: i64 = 50_000;
/// Most bytes of a page that are read. A page of [`PAGE_TENANTS`] lines has 6 MB.
const MAX_PAGE_BYTES: u64 = 8_000_000;
/// How many of the newest anchors are compared with [`Depth::All`].
const NEWEST_ANCHORS: usize = 24;
/// Of how many days with older anchors the last anchor is compared.
const MAX_DAYS: usize = 400;
/// No worker writes anchors if the ledger has a transfer that came this long after the newest
/// anchor, and this long ago.
pub const STALE: Duration = Duration::from_hours(3);

/// Why an anchor could not be written or read. Earlier results of the comparison are valid.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// The bucket failed.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Which anchors are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Only the newest anchor. Workers compare it every hour.
    Newest,
    /// The newest 24 anchors, and of the older ones the last anchor of each day, for the latest 400
    /// days that have one. `platen verify` compares these.
    All,
}

/// The result of a comparison.
#[derive(Debug, Default)]
pub struct Comparison {
    /// How many anchors were compared.
    pub anchors: usize,
    /// When the newest anchor was written; `None` if there is none.
    pub newest: Option<OffsetDateTime>,
    /// Where the ledger does not match an anchor, or an anchor does not match its signature.
    pub findings: Vec<Finding>,
}

/// The first line of a page.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// Version of the format: 1.
    version: u32,
    /// The moment whose last transfers the page lists, on the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// Number of the page, from 0.
    page: u32,
    /// How many tenants the page lists, with one line each.
    tenants: usize,
    /// How many ledger lines these tenants have.
    lines: i64,
    /// SHA-256 of the tenants' lines, in hex.
    heads: String,
}

/// Writes an anchor of this moment and returns its name, which is the present second.
///
/// With `every`, the name is the start of the present period of this length, such as the present
/// hour. So any number of workers together write one anchor for each period: one worker writes it,
/// and the others return `None`.
///
/// # Errors
/// Returns an error if the bucket or Postgres fails. Some pages may have been written; each page is
/// valid alone.
pub async fn write(
    pool: &PgPool,
    bucket: &Bucket,
    key: &SecretString,
    every: Option<Duration>,
) -> Result<Option<String>, AnchorError> {
    let now = storage::anchors::now(pool).await?;
    let name = name(every.map_or(now, |every| period_start(now, every)));
    if every.is_some() && bucket.measure(&page_key(&name, 0)).await?.is_some() {
        return Ok(None);
    }
    // The last tenant of the page before, and the number of the page.
    let (mut after, mut page) = (Uuid::nil(), 0);
    loop {
        let (at, heads) = storage::anchors::heads(pool, after, PAGE_TENANTS).await?;
        let last = heads.last().map(|head| head.tenant.0);
        let text = write_page(key, &page_key(&name, page), at, page, &heads);
        match bucket.put_new(&page_key(&name, page), text.into()).await {
            // Another worker was faster. Its page shows the same ledgers at another moment of the
            // period, so it serves as well.
            Err(BucketError::TakenByAnother(_)) => return Ok(None),
            written => written?,
        };
        match last {
            // A full page may be followed by another one.
            Some(last) if heads.len() == usize::try_from(PAGE_TENANTS).unwrap_or(usize::MAX) => {
                (after, page) = (last, page + 1);
            }
            _ => return Ok(Some(name)),
        }
    }
}

/// Compares anchors with the ledger.
///
/// # Errors
/// Returns an error if the bucket or Postgres fails. A mismatch is a finding, not an error.
///
/// # Panics
/// Never panics, because each chosen name was listed.
pub async fn compare(
    pool: &PgPool,
    bucket: &Bucket,
    key: &SecretString,
    depth: Depth,
) -> Result<Comparison, AnchorError> {
    let mut pages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut listed = bucket.list_under(PREFIX);
    while let Some(object) = listed.try_next().await? {
        if let Some(name) = name_of(&object.key) {
            pages.entry(name.to_owned()).or_default().push(object.key);
        }
    }
    let names: Vec<&str> = pages.keys().map(String::as_str).collect();
    let mut compared = Comparison {
        newest: names.last().and_then(|name| time_of(name)),
        ..Comparison::default()
    };
    for name in chosen(&names, depth) {
        for page in &pages[name] {
            compare_page(pool, bucket, key, page, &mut compared.findings).await?;
        }
        compared.anchors += 1;
    }
    if depth == Depth::All {
        let since = compared
            .newest
            .map_or(OffsetDateTime::UNIX_EPOCH, |newest| newest + STALE);
        if storage::anchors::has_unanchored_transfers(pool, since, STALE).await? {
            compared.findings.push(finding(match compared.newest {
                Some(newest) => format!("the newest anchor is of {}, and the ledger has grown for hours since: no worker writes anchors, or anchors were removed", rfc3339(newest)),
                None => "there is no anchor in the bucket, and the ledger has transfers that are hours old: no worker of this version has run yet, or anchors were removed".to_owned(),
            }));
        }
    }
    Ok(compared)
}

/// Compares one page with the ledger, and adds what differs to `findings`.
async fn compare_page(
    pool: &PgPool,
    bucket: &Bucket,
    key: &SecretString,
    object: &str,
    findings: &mut Vec<Finding>,
) -> Result<(), AnchorError> {
    let text = match bucket.get_at_most(object, MAX_PAGE_BYTES).await {
        Ok(Some(text)) => text,
        // An operator may remove old anchors at any time.
        Ok(None) => return Ok(()),
        // Platen writes no page of this size: as an empty page it fails the check of its signature.
        Err(BucketError::TooLarge { .. }) => Bytes::new(),
        Err(error) => return Err(error.into()),
    };
    let Some((at, heads)) = read_page(key, object, &text) else {
        findings.push(finding(format!(
            "{object} is not signed by this PLATEN_SIGNING_KEY: the object or the key was changed (docs/runbook.md, \"The ledger and its anchors\")"
        )));
        return Ok(());
    };
    for difference in storage::anchors::differing(pool, &heads).await? {
        let (tenant, seq, at) = (difference.tenant, difference.seq, rfc3339(at));
        findings.push(finding(if difference.exists {
            format!("tenant {tenant}: transfer {seq} is not the one that was anchored at {at} ({object}): the ledger was rewritten, at this transfer or before it")
        } else {
            format!("tenant {tenant}: transfer {seq} was anchored at {at} ({object}) and is gone: transfers were deleted, or an older copy of the database was restored")
        }));
    }
    Ok(())
}

/// A finding about anchors.
fn finding(text: String) -> Finding {
    Finding {
        invariant: INVARIANT,
        text,
    }
}

fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// The names of the anchors to compare, newest first (see [`Depth`]). `names` must be sorted.
fn chosen<'a>(names: &[&'a str], depth: Depth) -> Vec<&'a str> {
    let count = match depth {
        Depth::Newest => return names.last().copied().into_iter().collect(),
        Depth::All => NEWEST_ANCHORS,
    };
    let (older, newest) = names.split_at(names.len().saturating_sub(count));
    let mut last_of_day: BTreeMap<Date, &str> = BTreeMap::new();
    for name in older {
        if let Some(at) = time_of(name) {
            last_of_day.insert(at.date(), name);
        }
    }
    let days = last_of_day.into_values().rev().take(MAX_DAYS);
    newest.iter().rev().copied().chain(days).collect()
}

/// The start of the period of length `every` that `now` is in. Periods count from 1970, in whole
/// seconds.
fn period_start(now: OffsetDateTime, every: Duration) -> OffsetDateTime {
    let every = i64::try_from(every.as_secs()).unwrap_or(i64::MAX).max(1);
    let seconds = now.unix_timestamp();
    OffsetDateTime::from_unix_timestamp(seconds - seconds.rem_euclid(every)).unwrap_or(now)
}

/// The name of an anchor of this time, such as `20261006T120000Z`. The order of names is the order
/// of times.
fn name(at: OffsetDateTime) -> String {
    at.format(format_description!(
        "[year][month][day]T[hour][minute][second]Z"
    ))
    .expect("a time of this age can be written")
}

/// The time in the name of an anchor; `None` if the text is no such name.
fn time_of(name: &str) -> Option<OffsetDateTime> {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let at = PrimitiveDateTime::parse(name, format).ok()?;
    Some(at.assume_utc())
}

/// The key of a page in the bucket.
fn page_key(name: &str, page: u32) -> String {
    format!("{PREFIX}{name}/{page:04}")
}

/// The anchor's name in a key; `None` if it is not a key of an anchor.
fn name_of(key: &str) -> Option<&str> {
    let (name, _) = key.strip_prefix(PREFIX)?.split_once('/')?;
    time_of(name).map(|_| name)
}

/// The text of a page. `key` signs it, and `object` is the page's key in the bucket.
fn write_page(
    key: &SecretString,
    object: &str,
    at: OffsetDateTime,
    page: u32,
    heads: &[Head],
) -> String {
    let mut body = String::new();
    for Head { tenant, seq, hash } in heads {
        let _infallible = writeln!(body, "{} {seq} {}", tenant.0, hex::encode(hash));
    }
    let header = Header {
        version: 1,
        at,
        page,
        tenants: heads.len(),
        lines: heads.iter().map(|head| head.seq).sum(),
        heads: hex::encode(Sha256::digest(&body)),
    };
    let header = serde_json::to_string(&header).expect("a header is JSON");
    let text = format!("{header}\n{body}");
    let signature = hex::encode(mac(key, object, text.as_bytes()).finalize().into_bytes());
    format!("{text}{signature}\n")
}

/// The time of a page and its heads. Returns `None` if the page is not signed with this key for
/// this object, or is not complete. The signature covers the object's name, too, so that an old
/// page cannot replace a newer one.
fn read_page(key: &SecretString, object: &str, text: &[u8]) -> Option<(OffsetDateTime, Vec<Head>)> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('\n')?;
    let end_of_body = text.rfind('\n')? + 1;
    let (signed, signature) = text.split_at(end_of_body);
    mac(key, object, signed.as_bytes())
        .verify_slice(&hex::decode(signature).ok()?)
        .ok()?;
    let (header, body) = signed.split_once('\n')?;
    let header: Header = serde_json::from_str(header).ok()?;
    let heads: Vec<Head> = body.lines().map(head).collect::<Option<_>>()?;
    (header.version == 1 && header.tenants == heads.len()).then_some((header.at, heads))
}

/// Parses a tenant's line.
fn head(line: &str) -> Option<Head> {
    let mut parts = line.split(' ');
    Some(Head {
        tenant: TenantId(parts.next()?.parse().ok()?),
        seq: parts.next()?.parse().ok()?,
        hash: hex::decode(parts.next()?).ok()?,
    })
}

/// The signature of a page (HMAC-SHA256). Links to files are signed with the same key. Their text
/// begins with `GET` instead of `ANCHOR`, so a signature of one kind is not valid for the other.
fn mac(key: &SecretString, object: &str, text: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose_secret().as_bytes())
        .expect("any length is a key");
    mac.update(b"ANCHOR\n");
    mac.update(object.as_bytes());
    mac.update(b"\n");
    mac.update(text);
    mac
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_page_is_read_under_its_own_name_and_key_only() {
        let key = SecretString::from("a key for tests, and for tests only");
        let heads = [1, 2].map(|seq| Head {
            tenant: TenantId::new(),
            seq,
            hash: vec![7; 32],
        });
        let object = page_key(&name(datetime!(2026-11-22 12:00 UTC)), 0);
        assert_eq!(object, "anchors/20261122T120000Z/0000");
        let at = datetime!(2026-11-22 12:00:01.5 UTC);
        let text = write_page(&key, &object, at, 0, &heads);
        let (read_at, read) = read_page(&key, &object, text.as_bytes()).unwrap();
        assert_eq!((read_at, &read[..]), (at, &heads[..]));
        let forged = text.replacen("2 0707", "3 0707", 1);
        assert_ne!(forged, text);
        assert!(read_page(&key, &object, forged.as_bytes()).is_none());
        assert!(read_page(&key, "anchors/20261122T130000Z/0000", text.as_bytes()).is_none());
        assert!(read_page(&SecretString::from("another"), &object, text.as_bytes()).is_none());
        for cut in 0..text.len() {
            assert!(
                read_page(&key, &object, &text.as_bytes()[..cut]).is_none(),
                "{cut}"
            );
        }
    }

    #[test]
    fn compares_the_newest_and_one_of_each_day_before() {
        let at = |hour: i64| name(datetime!(2026-11-22 00:00 UTC) + time::Duration::hours(hour));
        let names: Vec<String> = (0..24 * 10).map(at).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let all = chosen(&names, Depth::All);
        assert_eq!(all.len(), 24 + 9);
        assert_eq!(all[0], at(239));
        assert_eq!(all[24], at(215), "the last of the day before");
        assert_eq!(chosen(&names, Depth::Newest), [at(239)]);
        assert_eq!(chosen(&[], Depth::All), [""; 0]);
    }

    #[test]
    fn workers_of_one_hour_agree_on_a_name() {
        let hour = Duration::from_hours(1);
        let name_at = |now| name(period_start(now, hour));
        assert_eq!(
            name_at(datetime!(2026-11-22 12:59:59 UTC)),
            "20261122T120000Z"
        );
        assert_eq!(name_at(datetime!(2026-11-22 13:00 UTC)), "20261122T130000Z");
        assert_eq!(
            name_of("anchors/20261122T130000Z/0000"),
            Some("20261122T130000Z")
        );
        assert_eq!(name_of("anchors/other/0000"), None);
    }
}
