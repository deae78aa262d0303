//! The program as a shell meets it: variables that are wrong, and a standard output that nobody reads.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::fs::OpenOptions;
use std::process::{Command, Output, Stdio};

fn platen(words: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_platen"));
    command
        .args(words)
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
fn a_variable_that_is_not_usable_is_named() {
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
    ] {
        let output = platen(&["doctor"], &[(name, value)]).output().unwrap();
        failed(&output, why);
    }
    // A worker reads the keys of providers when it starts.
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
fn no_error_goes_without_a_word_whatever_is_logged() {
    for log in ["warning", "off", "none", "sqlx=debug"] {
        let output = platen(&["migrate"], &[("PLATEN_LOG", log)])
            .output()
            .unwrap();
        failed(&output, "DATABASE_OWNER_URL is missing");
    }
}

#[test]
fn a_full_disk_is_told_and_a_reader_that_has_gone_is_not() {
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

    // Nor does a log that cannot be written end it.
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = platen(&["migrate"], &[]).stderr(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
