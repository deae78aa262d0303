//! Images that a local server offers for download.

use super::super::reply::Reply;
use bytes::Bytes;
use serde_json::json;
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// The folder of the images' URLs.
const FOLDER: &str = "/generated-images/";
/// How many images are kept. The oldest are dropped first.
const MAX_IMAGES: usize = 256;

/// The latest images: name, media type and bytes.
#[derive(Debug, Default)]
pub(super) struct Downloads {
    images: Mutex<VecDeque<(String, &'static str, Bytes)>>,
}

impl Downloads {
    /// Keeps an image for download, and returns its path.
    pub(super) fn publish(&self, name: String, mime_type: &'static str, bytes: Bytes) -> String {
        let path = format!("{FOLDER}{name}");
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.push_back((name, mime_type, bytes));
        while images.len() > MAX_IMAGES {
            images.pop_front();
        }
        path
    }

    /// The image at a path, or 404 if there is none.
    pub(super) fn serve(&self, path: &str) -> Reply {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = name_in(path);
        let image = (images.iter().rev()).find(|(name, ..)| Some(name.as_str()) == wanted);
        match image {
            Some((_, mime_type, bytes)) => Reply::file(mime_type, bytes.clone()),
            None => Reply::refused(404, &json!({"error": {"message": "Not Found"}})),
        }
    }
}

/// The name of the image in a path. Returns `None` for any other path.
pub(super) fn name_in(path: &str) -> Option<&str> {
    path.strip_prefix(FOLDER)
}
