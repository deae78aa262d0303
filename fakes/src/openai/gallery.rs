//! Pictures that a local server hands out by address.

use super::super::reply::Reply;
use bytes::Bytes;
use serde_json::json;
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// Where they hang.
const PATH: &str = "/generated-images/";
/// How many hang there; the oldest go first.
const MOST_PICTURES: usize = 256;

/// The latest pictures.
#[derive(Debug, Default)]
pub(super) struct Gallery {
    pictures: Mutex<VecDeque<(String, &'static str, Bytes)>>,
}

impl Gallery {
    /// Hangs up a picture; returns its path.
    pub(super) fn hang(&self, name: String, mime_type: &'static str, bytes: Bytes) -> String {
        let path = format!("{PATH}{name}");
        let mut pictures = self.pictures.lock().unwrap_or_else(PoisonError::into_inner);
        pictures.push_back((name, mime_type, bytes));
        while pictures.len() > MOST_PICTURES {
            pictures.pop_front();
        }
        path
    }

    /// The picture at a path, or 404.
    pub(super) fn show(&self, path: &str) -> Reply {
        let pictures = self.pictures.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = name(path);
        let picture = (pictures.iter().rev()).find(|(name, ..)| Some(name.as_str()) == wanted);
        match picture {
            Some((_, mime_type, bytes)) => Reply::file(mime_type, bytes.clone()),
            None => Reply::refused(404, &json!({"error": {"message": "Not Found"}})),
        }
    }
}

/// The name of the picture at a path, if pictures are there.
pub(super) fn name(path: &str) -> Option<&str> {
    path.strip_prefix(PATH)
}
