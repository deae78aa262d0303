//! Finds the program of a server, and its version.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The first program of this name in `PATH`.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// The major version: the whole number right after `prefix` in the output of `program --version`. Returns `None` if the
/// program cannot be run, or if its output has no such number.
pub(crate) fn major_version(program: &Path, prefix: &str) -> Option<u32> {
    let output = Command::new(program).arg("--version").output().ok()?;
    number_after(&String::from_utf8_lossy(&output.stdout), prefix)
}

fn number_after(text: &str, prefix: &str) -> Option<u32> {
    let (_, rest) = text.split_once(prefix)?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::number_after;

    #[test]
    fn versions_of_postgres_and_redis_are_read() {
        let postgres = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(number_after(postgres, "(PostgreSQL) "), Some(15));
        assert_eq!(
            number_after("postgres (PostgreSQL) 18beta2\n", "(PostgreSQL) "),
            Some(18)
        );
        let redis = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7c971a948f0\n";
        assert_eq!(number_after(redis, " v="), Some(7));
        assert_eq!(number_after("something else", " v="), None);
    }
}
