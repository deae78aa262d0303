//! Small disks for tests that fill them, and the files below a folder.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bucket::MARKER;
use tempfile::TempDir;

/// A tmpfs of its own, so that filling it fills nothing else. Dropping it unmounts it.
pub struct Disk {
    folder: TempDir,
}

impl Disk {
    /// Mounts a disk of `kib` KiB. Returns `None` and prints a line if this user may not mount one; then the test cannot
    /// run.
    #[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
    pub fn mount(kib: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={kib}k,mode=777");
        let mounted = run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder.path()));
        if !mounted {
            eprintln!("NOT RUN ON A SMALL DISK: this user may not mount one");
            return None;
        }
        // Postgres runs as another user and must be able to enter the folder.
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(folder.path(), open).unwrap();
        Some(Self { folder })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes the disk larger.
    pub fn resize(&self, kib: usize) {
        let options = format!("remount,size={kib}k");
        let resized = run(Command::new("mount")
            .args(["-o", &options])
            .arg(self.folder.path()));
        assert!(resized, "the disk could not be made larger");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(self.folder.path()));
    }
}

/// Removes the limit on file sizes of another process.
pub fn lift_file_limit(process: u32) {
    let process = process.to_string();
    let lifted = run(Command::new("prlimit").args(["--pid", &process, "--fsize=unlimited"]));
    assert!(lifted, "the limit could not be lifted");
}

fn run(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Every file below a folder, except anchors of the ledger.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Workers write an anchor when they start, and no row names it.
        if path.ends_with("anchors") {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Every object of a bucket folder: all files but its marker.
pub fn objects(bucket: &Path) -> Vec<PathBuf> {
    let mut found = files(bucket);
    found.retain(|file| *file != bucket.join(MARKER));
    found
}
