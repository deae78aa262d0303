//! Copies the files that tests deliver, so that other software can open them: `make test` sets a folder in
//! `PLATEN_TEST_DELIVERED`, and opens every file in it with Pillow and libvips after all tests
//! (`tests/python/readers.py`).

use std::path::Path;
use std::{env, fs};

use sha2::{Digest, Sha256};
use sqlx::PgPool;

/// Copies the renditions, thumbnails and uploads of a database from a bucket folder; files with the same content once.
/// Does nothing if no folder is set, so that a test that runs alone leaves nothing behind.
pub async fn keep(reader: &PgPool, bucket: &Path) {
    let Some(folder) = env::var_os("PLATEN_TEST_DELIVERED") else {
        return;
    };
    let named: Vec<(String, String)> = sqlx::query_as(
        "SELECT object_key, media_type FROM artifacts WHERE role <> 'original' AND deleted_at IS NULL
         UNION ALL SELECT object_key, media_type FROM uploads WHERE deleted_at IS NULL",
    )
    .fetch_all(reader)
    .await
    .expect("the reader sees every row");
    for (key, media_type) in named {
        // Some tests use another bucket, or lose objects on purpose.
        let Ok(file) = fs::read(bucket.join(key)) else {
            continue;
        };
        let ending = media_type.rsplit('/').next().unwrap_or_default();
        let name = format!("{}.{ending}", hex::encode(Sha256::digest(&file)));
        fs::write(Path::new(&folder).join(name), file).expect("the folder can be written to");
    }
}
