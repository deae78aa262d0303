//! A bucket that is a folder on this machine.
//!
//! A file is written, read or checked by one blocking task, with large reads. A task for each piece
//! of a file would cost more than the work itself.
//!
//! Only plain files in plain folders are objects. A symbolic link could lead out of the bucket, and
//! reading a pipe, a socket or a device may never end. Such entries are never followed, opened or
//! removed. But they are listed, so that people see them.

use std::fs::{self, File, FileType};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path as Key;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use walkdir::{DirEntry, WalkDir};

use super::BucketError;
use super::direct::{self, Pieces};
use super::object::{FileKind, ListedObject, StoredObject, length};

/// How many entries of a list are read from the disk before the reader of the list asks for them.
const WALK_BUFFER: usize = 256;
/// Most entries that [`survey`] checks.
const MAX_SURVEYED_FILES: usize = 100_000;
/// The bits of a file's mode that grant permissions to the group and to others. Platen's own files
/// have none of these.
const OTHERS_MODE_BITS: u32 = 0o077;

/// The folder of a bucket.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

/// The result of [`survey`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FolderState {
    /// Files and folders that were checked.
    pub seen: usize,
    /// Whether these are all files and folders of the bucket.
    pub is_whole: bool,
    /// How many of them others than their owner may read, write or enter.
    pub open_to_others: usize,
    /// One of those that are open to others.
    pub example_open_to_others: Option<PathBuf>,
    /// How many are symbolic links or special files, which are not objects.
    pub irregular: usize,
    /// One of the irregular entries.
    pub example_irregular: Option<PathBuf>,
}

impl Folder {
    /// The folder at this path.
    pub(super) fn new(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// Checks that only plain folders lead to a key, and that a plain file or nothing is at its
    /// end.
    ///
    /// # Errors
    /// Returns an error if something else is on the path, or if the folder of the bucket does not
    /// exist.
    pub(super) async fn admit(&self, key: &Key) -> Result<(), BucketError> {
        let key = key.clone();
        self.run(move |root| admit(root, &key)).await
    }

    /// Writes a new file and reads it back. See [`super::Bucket::put_new`].
    ///
    /// # Errors
    /// Returns an error if the key has a file with other bytes, if the bytes that were read back
    /// differ, or if the file cannot be written or read.
    pub(super) async fn put_new(
        &self,
        key: Key,
        bytes: Bytes,
    ) -> Result<StoredObject, BucketError> {
        self.run(move |root| put_new(root, &key, &bytes)).await
    }

    /// Reads a whole file of at most `most` bytes. Returns `None` if there is no such file.
    ///
    /// # Errors
    /// Returns an error if the file has more bytes, or cannot be read.
    pub(super) async fn get(&self, key: Key, most: u64) -> Result<Option<Bytes>, BucketError> {
        self.run(move |root| get(root, &key, most)).await
    }

    /// The size and hash of a file. Returns `None` if there is no such file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub(super) async fn measure(&self, key: Key) -> Result<Option<StoredObject>, BucketError> {
        self.run(move |root| measure(root, &key)).await
    }

    /// Runs blocking work on a thread for blocking work.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, BucketError> + Send + 'static,
    ) -> Result<T, BucketError> {
        let root = self.0.clone();
        let done = tokio::task::spawn_blocking(move || work(&root)).await;
        done.unwrap_or_else(|error| Err(self.problem(io::Error::other(error))))
    }

    /// Lists every entry that is not a folder, in no particular order.
    pub(super) fn list(&self) -> BoxStream<'static, Result<ListedObject, BucketError>> {
        let (sender, receiver) = mpsc::channel(WALK_BUFFER);
        let root = self.0.clone();
        tokio::task::spawn_blocking(move || {
            for listed in walk(&root) {
                // The reader of the list is gone.
                if sender.blocking_send(listed).is_err() {
                    return;
                }
            }
        });
        let next = async |mut receiver: mpsc::Receiver<_>| {
            receiver.recv().await.map(|listed| (listed, receiver))
        };
        stream::unfold(receiver, next).boxed()
    }

    fn problem(&self, error: io::Error) -> BucketError {
        BucketError::Folder(self.0.display().to_string(), error)
    }
}

/// See [`Folder::admit`].
fn admit(root: &Path, key: &Key) -> Result<(), BucketError> {
    let root_error = |error| BucketError::Folder(root.display().to_string(), error);
    // The root itself may be a symbolic link, because an operator has chosen it.
    if !fs::metadata(root).map_err(root_error)?.is_dir() {
        return Err(root_error(ErrorKind::NotADirectory.into()));
    }
    let mut path = root.to_owned();
    for part in key.parts() {
        path.push(part.as_ref());
        let kind = match fs::symlink_metadata(&path) {
            Ok(found) => found.file_type(),
            // There is no object yet.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // A file is where a folder should be. The operation that follows fails because of that.
            Err(error) if error.kind() == ErrorKind::NotADirectory => return Ok(()),
            Err(error) => return Err(BucketError::Folder(path.display().to_string(), error)),
        };
        if let Some(kind) = irregular_kind(kind) {
            return Err(BucketError::Irregular {
                key: key.to_string(),
                path: path.display().to_string(),
                kind,
            });
        }
    }
    Ok(())
}

/// See [`Folder::put_new`].
fn put_new(root: &Path, key: &Key, bytes: &[u8]) -> Result<StoredObject, BucketError> {
    admit(root, key)?;
    let path = path(root, key);
    let problem = |error| file_error(&path, error);
    let is_new = write_new(root, &path, bytes).map_err(problem)?;
    match (holds(&path, bytes).map_err(problem)?, is_new) {
        (Some(true), _) => Ok(StoredObject::from_bytes(bytes)),
        (Some(false), false) => Err(BucketError::TakenByAnother(key.to_string())),
        // Another write of this key was in progress and failed.
        (None, false) => Err(problem(ErrorKind::AlreadyExists.into())),
        (_, true) => {
            // This call created the file, so it may delete it, and a retry can write it again.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(problem(error)),
                _ => Err(BucketError::Garbled(key.to_string())),
            }
        }
    }
}

/// Writes a file that appears under its name only when it is complete and on the disk. Returns
/// `false` if there is a file with this name already. That file stays as it is.
fn write_new(root: &Path, path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let (mut file, unfinished) = create_unfinished(root, path)?;
    let written = direct::write(&mut file, bytes)
        .and_then(|()| file.sync_all())
        // Unlike a rename, a hard link replaces no file.
        .and_then(|()| fs::hard_link(&unfinished, path));
    let removed = fs::remove_file(&unfinished);
    let is_new = match written {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    removed?;
    // The name must be on the disk, too. This is also done if the file was there already: the
    // process that wrote it may have died before it did this.
    path.parent().map_or(Ok(()), sync_folder)?;
    Ok(is_new)
}

/// Creates the file that is written before it gets its name, and the folders that lead to it. It is
/// called `name#1`, or has a higher number if that name is taken.
fn create_unfinished(root: &Path, path: &Path) -> io::Result<(File, PathBuf)> {
    let mut number = 1;
    loop {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(format!("#{number}"));
        let unfinished = PathBuf::from(unfinished);
        match File::create_new(&unfinished) {
            Ok(file) => return Ok((file, unfinished)),
            // Another process writes the same key, or died while it did.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) if error.kind() == ErrorKind::NotFound => create_folders(root, path)?,
            Err(error) => return Err(error),
        }
    }
}

/// Creates the folders between the folder of the bucket and a file. The folder of the bucket itself
/// is never created, because its volume may just not be mounted.
fn create_folders(root: &Path, path: &Path) -> io::Result<()> {
    let inner = path
        .parent()
        .and_then(|folder| folder.strip_prefix(root).ok());
    let mut folder = root.to_owned();
    for name in inner.unwrap_or_else(|| Path::new("")) {
        let parent = folder.clone();
        folder.push(name);
        match fs::create_dir(&folder) {
            Ok(()) => sync_folder(&parent)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until the names in a folder are on the disk.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Whether a file has exactly these bytes. Returns `None` if there is no such file.
fn holds(path: &Path, bytes: &[u8]) -> io::Result<Option<bool>> {
    match File::open(path) {
        Ok(file) => direct::holds(file, bytes).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// See [`Folder::get`].
fn get(root: &Path, key: &Key, most: u64) -> Result<Option<Bytes>, BucketError> {
    let Some((path, file, size)) = open(root, key)? else {
        return Ok(None);
    };
    if size > most {
        return Err(BucketError::TooLarge {
            key: key.to_string(),
            bytes: size,
            most,
        });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    let mut pieces = Pieces::new(file, size);
    loop {
        let piece = pieces.next().map_err(|error| file_error(&path, error))?;
        if piece.is_empty() {
            return Ok(Some(bytes.into()));
        }
        bytes.extend_from_slice(piece);
    }
}

/// See [`Folder::measure`].
fn measure(root: &Path, key: &Key) -> Result<Option<StoredObject>, BucketError> {
    let Some((path, file, size)) = open(root, key)? else {
        return Ok(None);
    };
    let (mut sha256, mut bytes) = (Sha256::new(), 0);
    let mut pieces = Pieces::new(file, size);
    loop {
        let piece = pieces.next().map_err(|error| file_error(&path, error))?;
        if piece.is_empty() {
            break;
        }
        sha256.update(piece);
        bytes += length(piece);
    }
    Ok(Some(StoredObject {
        sha256: sha256.finalize().into(),
        bytes,
    }))
}

/// Opens the file of an object: its path, the file and its size. Returns `None` if there is no such
/// file.
fn open(root: &Path, key: &Key) -> Result<Option<(PathBuf, File, u64)>, BucketError> {
    admit(root, key)?;
    let path = path(root, key);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error(&path, error)),
    };
    let metadata = file.metadata().map_err(|error| file_error(&path, error))?;
    // A folder is no object.
    Ok(metadata.is_file().then_some((path, file, metadata.len())))
}

/// The path of an object.
fn path(root: &Path, key: &Key) -> PathBuf {
    let mut path = root.to_owned();
    path.extend(key.parts().map(|part| part.as_ref().to_owned()));
    path
}

fn file_error(path: &Path, error: io::Error) -> BucketError {
    BucketError::File(path.display().to_string(), error)
}

/// The kind of an entry that is neither a plain file nor a folder; `None` for plain files and
/// folders.
fn irregular_kind(kind: FileType) -> Option<FileKind> {
    if kind.is_symlink() {
        Some(FileKind::SymbolicLink)
    } else if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device()
    {
        Some(FileKind::Special)
    } else {
        None
    }
}

/// All entries below a folder, except folders and files that are still being written.
fn walk(root: &Path) -> impl Iterator<Item = Result<ListedObject, BucketError>> {
    let entries = WalkDir::new(root).follow_links(false).min_depth(1);
    entries.into_iter().filter_map(move |entry| match entry {
        Ok(entry) => describe(root, &entry).transpose(),
        Err(error) => unless_deleted(root, error),
    })
}

/// The error, or `None` if the entry was deleted while the folder was being listed.
fn unless_deleted<T>(root: &Path, error: walkdir::Error) -> Option<Result<T, BucketError>> {
    let path = error.path().unwrap_or(root).to_owned();
    // `walkdir` has two kinds of errors: loops, which cannot occur if links are not followed, and
    // errors of the operating system.
    let error = error
        .into_io_error()
        .unwrap_or_else(|| io::Error::other("it cannot be listed"));
    let is_deleted = error.kind() == ErrorKind::NotFound && path != root;
    (!is_deleted).then(|| Err(BucketError::Folder(path.display().to_string(), error)))
}

/// Describes an entry for the list. Returns `None` for a folder, and for a file that is still being
/// written.
fn describe(root: &Path, entry: &DirEntry) -> Result<Option<ListedObject>, BucketError> {
    let kind = entry.file_type();
    if kind.is_dir() || is_unfinished(&entry.file_name().to_string_lossy()) {
        return Ok(None);
    }
    let metadata = match entry.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return unless_deleted(root, error).transpose(),
    };
    let path = entry
        .path()
        .strip_prefix(root)
        .unwrap_or_else(|_| entry.path());
    // A file without a time counts as very old, as in `ListedObject::from`.
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(Some(ListedObject {
        key: path.to_string_lossy().into_owned(),
        bytes: metadata.len(),
        modified: OffsetDateTime::from(modified),
        kind: irregular_kind(kind).unwrap_or(FileKind::Object),
    }))
}

/// Whether a file with this name is still being written ([`create_unfinished`]), or was left by a
/// process that died. No complete file has such a name, because [`Key`] encodes `#`.
fn is_unfinished(name: &str) -> bool {
    let number = name.split_once('#').map(|(_, number)| number);
    number.is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Checks the folder of a bucket: which entries others than their owner may access, and which are
/// neither plain files nor folders. For `platen doctor`. Checks at most 100,000 entries.
///
/// # Errors
/// Returns an error if the folder cannot be listed.
pub fn survey(root: &Path) -> io::Result<FolderState> {
    let mut state = FolderState {
        is_whole: true,
        ..FolderState::default()
    };
    for entry in WalkDir::new(root).follow_links(false) {
        if state.seen >= MAX_SURVEYED_FILES {
            state.is_whole = false;
            break;
        }
        let entry = match entry {
            Ok(entry) => entry,
            // An entry inside was deleted meanwhile, or cannot be read.
            Err(error) if error.depth() > 0 => continue,
            Err(error) => return Err(error.into()),
        };
        state.seen += 1;
        if entry.depth() > 0 && irregular_kind(entry.file_type()).is_some() {
            state.irregular += 1;
            state
                .example_irregular
                .get_or_insert_with(|| entry.into_path());
        } else if let Ok(metadata) = fs::metadata(entry.path())
            && metadata.permissions().mode() & OTHERS_MODE_BITS != 0
            // The marker is not secret, and an operator with another umask may have written it.
            && entry.path() != root.join(super::MARKER)
        {
            state.open_to_others += 1;
            state
                .example_open_to_others
                .get_or_insert_with(|| entry.into_path());
        }
    }
    Ok(state)
}
