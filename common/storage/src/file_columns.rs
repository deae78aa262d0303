//! The columns that artifacts, uploads and calls have for a file in the bucket.

use std::fmt::Display;

use domain::generation::image::Pixels;
use domain::stored_file::StoredFile;

use crate::database::row::RowId;

/// These columns, with the types of the database.
pub(crate) struct FileColumns {
    pub(crate) object_key: String,
    pub(crate) sha256: Vec<u8>,
    pub(crate) bytes: i64,
    pub(crate) media_type: String,
    pub(crate) width: i32,
    pub(crate) height: i32,
}

impl FileColumns {
    /// The file that they describe.
    ///
    /// # Errors
    /// The row has a value that this version does not know.
    pub(crate) fn file<I: Display>(self, row: &RowId<I>) -> sqlx::Result<StoredFile> {
        Ok(StoredFile {
            object_key: self.object_key,
            sha256: row.convert("sha256", self.sha256)?,
            bytes: self.bytes,
            media_type: row.parse("media_type", &self.media_type)?,
            pixels: Pixels {
                width: row.convert("width", self.width)?,
                height: row.convert("height", self.height)?,
            },
        })
    }
}

/// The columns `width` and `height` of a file.
///
/// # Errors
/// One of them does not fit its column.
pub(crate) fn width_and_height<I: Display>(
    row: &RowId<I>,
    file: &StoredFile,
) -> sqlx::Result<(i32, i32)> {
    Ok((
        row.convert("width", file.pixels.width)?,
        row.convert("height", file.pixels.height)?,
    ))
}
