//! The columns that artifacts, uploads and calls have for a file in the bucket.

use std::fmt::Display;

use domain::generation::image::Pixels;
use domain::stored_file::StoredFile;

use crate::database::row::RowId;

/// The columns of one file, with the types of the database.
pub(crate) struct FileColumns {
    pub(crate) object_key: String,
    pub(crate) sha256: Vec<u8>,
    pub(crate) bytes: i64,
    pub(crate) media_type: String,
    pub(crate) width: i32,
    pub(crate) height: i32,
}

impl FileColumns {
    /// The file that the columns describe. `row_id` is used in errors.
    ///
    /// # Errors
    /// Returns an error if the row has a value that this version does not know.
    pub(crate) fn file<I: Display>(self, row_id: &RowId<I>) -> sqlx::Result<StoredFile> {
        Ok(StoredFile {
            object_key: self.object_key,
            sha256: row_id.convert("sha256", self.sha256)?,
            bytes: self.bytes,
            media_type: row_id.parse("media_type", &self.media_type)?,
            pixels: Pixels {
                width: row_id.convert("width", self.width)?,
                height: row_id.convert("height", self.height)?,
            },
        })
    }
}

/// The values of the columns `width` and `height` for a file.
///
/// # Errors
/// Returns an error if one of them does not fit its column.
pub(crate) fn width_and_height<I: Display>(
    row_id: &RowId<I>,
    file: &StoredFile,
) -> sqlx::Result<(i32, i32)> {
    Ok((
        row_id.convert("width", file.pixels.width)?,
        row_id.convert("height", file.pixels.height)?,
    ))
}
