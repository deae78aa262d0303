//! The program in a shell: unusable variables, and a standard output that cannot be written.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::fs::OpenOptions;
use std::process::{Command, Output, Stdio};

fn platen(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_platen"));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .envs(environment.iter().copied())
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn failed(output: &Output, why: &str) {
    let says = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{says}");
    assert!(says.contains(why), "{says} does not say {why}");
    assert!(!says.contains("panicked"), "{says}");
}

#[test]
fn an_unusable_variable_is_named() {
    let spaces = " ".repeat(40);
    let ends_with_space = format!("{} ", "k".repeat(40));
    for (name, value, why) in [
        (
            "PLATEN_LOG",
            "rubbish",
            "PLATEN_LOG is not usable: \"rubbish\" is no level",
        ),
        ("PLATEN_LOG", "sqlx=loud", "PLATEN_LOG is not usable"),
        (
            "PLATEN_LOG_FORMAT",
            "jsno",
            "PLATEN_LOG_FORMAT is not usable: \"jsno\" is neither text nor json",
        ),
        (
            "PLATEN_OPERATOR_KEY",
            spaces.as_str(),
            "PLATEN_OPERATOR_KEY is not usable: it is blank",
        ),
        (
            "PLATEN_OPERATOR_KEY",
            ends_with_space.as_str(),
            "PLATEN_OPERATOR_KEY is not usable: it begins or ends with white space",
        ),
        (
            "PLATEN_SIGNING_KEY",
            spaces.as_str(),
            "PLATEN_SIGNING_KEY is not usable: it is blank",
        ),
        (
            "PLATEN_MASTER_KEYS",
            "2026:0a0b",
            "PLATEN_MASTER_KEYS is not usable: the key \"2026\" is not 64 hexadecimal digits",
        ),
        (
            "PLATEN_PRIVATE_NETWORKS",
            "10.0.0.0/8,0.0.0.0/0",
            "PLATEN_PRIVATE_NETWORKS is not usable: 0.0.0.0/0 is not a private network",
        ),
        (
            "PLATEN_PRIVATE_NETWORKS",
            "169.254.169.254",
            "PLATEN_PRIVATE_NETWORKS is not usable: 169.254.169.254/32 is not a private network",
        ),
    ] {
        let output = platen(&["doctor"], &[(name, value)]).output().unwrap();
        failed(&output, why);
    }
    // The keys of providers are read when a worker starts.
    let worker = [
        ("GEMINI_API_KEY", "a key\n"),
        ("PLATEN_PROVIDERS", "gemini"),
        ("DATABASE_URL", "postgres://platen@127.0.0.1:1/platen"),
        ("REDIS_URL", "redis://127.0.0.1:1"),
        (
            "PLATEN_SIGNING_KEY",
            "a signing key of more than 32 characters",
        ),
    ];
    let output = platen(&["worker"], &worker).output().unwrap();
    failed(
        &output,
        "GEMINI_API_KEY is not usable: it begins or ends with white space",
    );
}

#[test]
fn doctor_names_master_keys_and_private_networks() {
    let says = |environment: &[(&str, &str)]| {
        text(&platen(&["doctor"], environment).output().unwrap().stdout)
    };
    let unset = says(&[]);
    assert!(
        unset.contains("note    PLATEN_MASTER_KEYS is not set"),
        "{unset}"
    );
    assert!(
        unset.contains("ok      URLs given by customers lead to public addresses only"),
        "{unset}"
    );
    let keys = format!("2027:{},2026:{}", "0c0d".repeat(16), "0a0b".repeat(16));
    let set = says(&[
        ("PLATEN_MASTER_KEYS", keys.as_str()),
        ("PLATEN_PRIVATE_NETWORKS", "10.1.0.0/16, 127.0.0.1"),
    ]);
    let line =
        "ok      secrets are encrypted with the master key 2027, and decrypted with 2026 as well";
    assert!(set.contains(line), "{set}");
    assert!(
        set.contains("may lead into 10.1.0.0/16, 127.0.0.1/32"),
        "{set}"
    );
    assert!(!set.contains("0a0b") && !set.contains("0c0d"), "{set}");
}

#[test]
fn an_error_is_printed_at_every_log_level() {
    for log in ["warning", "off", "none", "sqlx=debug"] {
        let output = platen(&["migrate"], &[("PLATEN_LOG", log)])
            .output()
            .unwrap();
        failed(&output, "DATABASE_OWNER_URL is missing");
    }
}

#[test]
fn a_full_disk_is_an_error_and_a_closed_pipe_is_not() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = platen(&["doctor"], &[]).stdout(full).output().unwrap();
    failed(
        &output,
        "the answer cannot be written to standard output: No space left on device",
    );

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = platen(&["doctor"], &[]).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(text(&output.stderr), "");

    // A log that cannot be written does not end the program in another way.
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = platen(&["migrate"], &[]).stderr(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
