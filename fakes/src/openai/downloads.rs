//! Pictures that a local server offers for download.

use super::super::reply::Reply;
use bytes::Bytes;
use serde_json::json;
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// The folder of their URLs.
const PATH: &str = "/generated-images/";
/// How many are kept. The oldest are dropped first.
const MAX_PICTURES: usize = 256;

/// The latest pictures: name, media type and bytes.
#[derive(Debug, Default)]
pub(super) struct Downloads {
    pictures: Mutex<VecDeque<(String, &'static str, Bytes)>>,
}

impl Downloads {
    /// Keeps a picture for download. Returns its path.
    pub(super) fn publish(&self, name: String, mime_type: &'static str, bytes: Bytes) -> String {
        let path = format!("{PATH}{name}");
        let mut pictures = self.pictures.lock().unwrap_or_else(PoisonError::into_inner);
        pictures.push_back((name, mime_type, bytes));
        while pictures.len() > MAX_PICTURES {
            pictures.pop_front();
        }
        path
    }

    /// The picture at a path, or 404.
    pub(super) fn serve(&self, path: &str) -> Reply {
        let pictures = self.pictures.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = name_in(path);
        let picture = (pictures.iter().rev()).find(|(name, ..)| Some(name.as_str()) == wanted);
        match picture {
            Some((_, mime_type, bytes)) => Reply::file(mime_type, bytes.clone()),
            None => Reply::refused(404, &json!({"error": {"message": "Not Found"}})),
        }
    }
}

/// The name of the picture in a path. `None` for the path of something else.
pub(super) fn name_in(path: &str) -> Option<&str> {
    path.strip_prefix(PATH)
}
