//! Who runs the program, for the record of operators: what the operating system says, not what the environment does.

use nix::unistd::{self, Uid, User};

/// As much of a name as is kept; the record takes 200 characters in all.
const LONGEST_NAME: usize = 60;

/// The login of this process and the machine it runs on, such as `anna on studio-1` or `root (sudo: anna) on studio-1`.
///
/// `sudo` says who called it in a variable, which anybody may set; so that name only stands beside the login.
pub fn name() -> String {
    let sudo = std::env::var("SUDO_USER").ok();
    let host = unistd::gethostname().ok();
    let host = host.and_then(|host| host.into_string().ok());
    written(&login(unistd::getuid()), sudo.as_deref(), host.as_deref())
}

/// The name of a user, or its number where the machine knows no name, as in containers.
fn login(uid: Uid) -> String {
    match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => format!("user {uid}"),
    }
}

fn written(login: &str, sudo: Option<&str>, host: Option<&str>) -> String {
    let short = |name: &str| {
        let plain = name.chars().filter(|letter| !letter.is_control());
        plain.take(LONGEST_NAME).collect::<String>()
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
    fn a_name_tells_login_caller_and_machine_and_always_fits_the_record() {
        assert_eq!(written("anna", None, Some("studio-1")), "anna on studio-1");
        assert_eq!(
            written("root", Some("anna\n"), Some("studio-1")),
            "root (sudo: anna) on studio-1"
        );
        assert_eq!(
            written("root", Some(""), None),
            "root on a machine without a name"
        );
        let long = "x".repeat(500);
        assert!(written(&long, Some(&long), Some(&long)).chars().count() <= 200);
    }

    #[test]
    fn a_user_without_a_name_is_a_number() {
        assert_eq!(login(Uid::from_raw(4_000_000_001)), "user 4000000001");
    }
}
