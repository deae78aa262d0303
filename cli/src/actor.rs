//! Who runs the program, for the log of operators' actions. The name comes from the operating system, because anyone can change
//! environment variables.

use nix::unistd::{self, Uid, User};

/// Longer names are cut to this many characters, so that the three names and the words between them fit into the column of the
/// database, which takes 200 characters.
const MAX_NAME_CHARS: usize = 60;

/// The login of this process and the machine it runs on, such as `anna on studio-1` or `root (sudo: anna) on studio-1`.
///
/// `sudo` passes the name of its caller in an environment variable, which anyone can set. So this name is added to the login but
/// never replaces it.
pub fn name() -> String {
    let sudo = std::env::var("SUDO_USER").ok();
    let host = unistd::gethostname().ok();
    let host = host.and_then(|host| host.into_string().ok());
    describe(&login(unistd::getuid()), sudo.as_deref(), host.as_deref())
}

/// The name of a user, or `user <number>` if the machine has no name for the number, as in containers.
fn login(uid: Uid) -> String {
    match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => format!("user {uid}"),
    }
}

/// Joins the three names, each without control characters and at most [`MAX_NAME_CHARS`] characters long.
fn describe(login: &str, sudo: Option<&str>, host: Option<&str>) -> String {
    let short = |name: &str| {
        let printable = name.chars().filter(|letter| !letter.is_control());
        printable.take(MAX_NAME_CHARS).collect::<String>()
    };
    let sudo = sudo.filter(|sudo| !sudo.is_empty());
    let sudo = sudo.map_or_else(String::new, |sudo| format!(" (sudo: {})", short(sudo)));
    let host = host.map_or_else(|| "a machine without a name".to_owned(), short);
    format!("{}{sudo} on {host}", short(login))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_actor_is_login_caller_and_machine_and_fits_the_column() {
        assert_eq!(describe("anna", None, Some("studio-1")), "anna on studio-1");
        assert_eq!(
            describe("root", Some("anna\n"), Some("studio-1")),
            "root (sudo: anna) on studio-1"
        );
        assert_eq!(
            describe("root", Some(""), None),
            "root on a machine without a name"
        );
        let long = "x".repeat(500);
        assert!(describe(&long, Some(&long), Some(&long)).chars().count() <= 200);
    }

    #[test]
    fn a_user_without_a_name_is_a_number() {
        assert_eq!(login(Uid::from_raw(4_000_000_001)), "user 4000000001");
    }
}
