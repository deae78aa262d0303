//! Cases that are tests of the suite: each is run as that test.

use std::collections::BTreeSet;
use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::process::Command;

/// The row, what is tried, and the end of the name of the test.
pub const CASES: &[(&str, &str, &str)] = &[
    (
        "A.1",
        "the bucket is swapped under running processes, and paid work waits",
        "while_the_bucket_is_not_ours_no_receipt_is_written_and_no_file_is_lost",
    ),
    (
        "A.1",
        "what has a receipt and is there again, and links in the folder",
        "files_with_a_receipt_that_came_back_are_deleted_again_and_links_are_not_followed",
    ),
    (
        "A.2",
        "the password of Redis changes three times under load",
        "redis_is_used_again_after_each_password_rotation",
    ),
    (
        "A.2",
        "Redis is full, read-only, gone: the reason is told",
        "readiness_says_why_redis_is_unavailable",
    ),
    (
        "A.3",
        "a file of the bucket hangs when it is opened, and the process is told to end",
        "a_file_that_hangs_on_open_keeps_no_process_from_ending",
    ),
    (
        "A.3",
        "a thread that hangs does not hold the end up",
        "a_thread_that_hangs_does_not_delay_the_end",
    ),
    (
        "A.4",
        "links and pipes in a folder bucket",
        "links_and_pipes_in_a_folder_are_not_followed",
    ),
    (
        "A.4",
        "files that others may read are told",
        "doctor_reports_files_readable_by_others_and_links",
    ),
    (
        "A.5",
        "operators' POSTs are repeated with their key, one after the other and side by side",
        "what_an_operator_repeats_with_a_key_is_done_once",
    ),
    (
        "A.5",
        "adjustments that are too large to be counted",
        "no_wallet_comes_near_to_what_cannot_be_counted",
    ),
    (
        "A.6",
        "redrives of one job side by side",
        "of_redrives_side_by_side_one_happens_and_the_others_leave_nothing",
    ),
    (
        "A.6",
        "links of a clock that is years off",
        "links_signed_by_a_clock_years_ahead_do_not_work",
    ),
    (
        "A.6",
        "the signing key is changed",
        "a_signing_key_is_changed_without_breaking_links",
    ),
    (
        "B",
        "more than fifty violations",
        "at_most_fifty_violations_are_reported",
    ),
    (
        "B",
        "pictures of a request that is wrong or cannot be paid",
        "images_are_decoded_only_if_nothing_else_is_wrong",
    ),
    (
        "C",
        "clients that take nothing of their answers",
        "a_client_that_does_not_read_is_disconnected",
    ),
    (
        "C",
        "an api without files to open",
        "an_api_without_free_files_recovers_and_logs_it",
    ),
    (
        "D.2",
        "two tenants without luck close a lane for all",
        "faults_of_two_tenants_make_a_lane_unavailable_to_all",
    ),
    (
        "D.3",
        "twelve cancels at once with an allowance of three",
        "abandoned_calls_per_hour_are_limited",
    ),
    (
        "D.3",
        "deadlines that cut calls off",
        "deadlines_abandon_no_more_calls_than_allowed",
    ),
    (
        "D.4",
        "inputs of jobs that delivered nothing",
        "inputs_of_undelivered_jobs_are_deleted_after_a_time",
    ),
    (
        "D.4",
        "uploads of tenants that never paid",
        "uploads_of_unpaid_tenants_are_deleted_after_a_time",
    ),
    (
        "D.4",
        "answers that are kept",
        "one_run_deletes_all_answers_whose_time_is_over",
    ),
    (
        "D.5",
        "one address asks without an end",
        "each_address_has_its_own_limit",
    ),
    (
        "D.5",
        "one tenant with many keys",
        "each_key_and_each_tenant_has_its_own_limit",
    ),
    (
        "E",
        "a limit of 0 and rubbish planted in a lane",
        "invalid_lane_values_in_redis_are_corrected",
    ),
    (
        "E",
        "39 weaknesses planted in the database",
        "every_planted_weakness_is_named",
    ),
    (
        "E",
        "rows planted against each invariant",
        "every_kind_of_violation_is_found",
    ),
    (
        "E",
        "a ledger that was rewritten, its chain computed anew",
        "a_rewritten_history_is_found_though_its_chain_is_computed_anew",
    ),
    (
        "E",
        "a key that is un-revoked",
        "a_revoked_key_stays_revoked",
    ),
    (
        "E",
        "an operator's key that nearly fits",
        "the_operators_key_is_compared_exactly",
    ),
    (
        "E",
        "variables that are rubbish",
        "an_unusable_variable_is_named",
    ),
    (
        "E",
        "an error while nothing is logged",
        "an_error_is_printed_at_every_log_level",
    ),
    (
        "E",
        "a standard output that is full or closed",
        "a_full_disk_is_an_error_and_a_closed_pipe_is_not",
    ),
    (
        "E",
        "variables of Postgres clients, and a login for each role",
        "postgres_variables_are_ignored_and_each_role_has_a_login",
    ),
    (
        "E",
        "secrets written through links",
        "no_secret_is_written_through_a_link",
    ),
    (
        "E",
        "advisories that were not looked up",
        "advisories_that_were_not_looked_up_are_said_not_to_be",
    ),
    (
        "E",
        "a Redis of Compose without a password",
        "compose_gives_redis_a_password",
    ),
];

/// Runs all of them, and returns for each whether it passed.
pub async fn run() -> anyhow::Result<Vec<bool>> {
    let tests: Vec<String> = CASES
        .iter()
        .map(|(_, _, test)| format!("test(/{test}$/)"))
        .collect();
    let output = Command::new("cargo")
        .args([
            "nextest",
            "run",
            "--locked",
            "--workspace",
            "--no-fail-fast",
        ])
        .args(["--status-level", "pass", "--color", "never"])
        .args(["--filterset", &tests.join(" | ")])
        .current_dir(crate::root(""))
        .stdin(Stdio::null())
        .output()
        .await
        .context("cargo nextest does not start")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let passed: BTreeSet<&str> = said
        .lines()
        .filter(|line| line.trim_start().starts_with("PASS "))
        .filter_map(|line| line.rsplit(' ').next())
        .collect();
    ensure!(
        CASES.is_empty() || !passed.is_empty(),
        "no test was run: {said}"
    );
    let of = |test: &str| passed.iter().any(|name| name.ends_with(test));
    Ok(CASES.iter().map(|(_, _, test)| of(test)).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::CASES;

    /// All Rust code below a folder.
    fn code(folder: &Path) -> String {
        let mut all = String::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                all += &code(&path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                all += &fs::read_to_string(path).unwrap();
            }
        }
        all
    }

    #[test]
    fn every_case_names_a_test_that_exists() {
        let folders = ["api", "cli", "common", "servers", "tests", "worker"];
        let code: String = folders.map(|folder| code(&crate::root(folder))).concat();
        for (_, _, test) in CASES {
            // A macro may make the test, with the end of its name alone.
            assert!(code.matches(test).count() > 1, "there is no test {test}");
        }
    }
}
