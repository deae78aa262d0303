//! What stands in `dashboards/` and `docker-compose.yml` parses, and asks for nothing that Platen does not have.
//!
//! Prometheus's own tools look deeper into the rules: `scripts/check-manifests`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::config;
use common::failpoint::POINTS;
use domain::catalog::Catalog;
use domain::outcome;
use serde_json::Value;
use tests::repository;

#[test]
fn every_manifest_parses() {
    let mut manifests = dashboard_files();
    manifests.push(root().join("docker-compose.yml"));
    let mut parsed = 0;
    for path in manifests {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("yml") => drop(yaml(&path)),
            Some("json") => drop(json(&path)),
            _ => continue,
        }
        parsed += 1;
    }
    assert!(parsed > 5, "only {parsed} manifests were found");
}

/// A release is built without the member that may break things.
#[test]
fn only_the_tests_switch_failpoints_on() {
    let manifests = [
        "api",
        "cli",
        "common",
        "common/bucket",
        "common/domain",
        "common/queue",
        "common/storage",
        "common/telemetry",
        "fakes",
        "worker",
    ]
    .map(|member| root().join(member).join("Cargo.toml"));
    for path in manifests.into_iter().chain([root().join("Cargo.toml")]) {
        let named = read(&path)
            .lines()
            .filter(|line| line.contains("failpoints") && !line.starts_with("failpoints = []"))
            .count();
        assert_eq!(named, 0, "{} names failpoints", path.display());
    }
    assert!(
        read(&root().join("Dockerfile")).contains("-p cli"),
        "the image is built of the whole workspace"
    );
}

/// A check that was not run is never taken for one that passed.
#[test]
fn advisories_that_were_not_looked_up_are_said_not_to_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = |name: &str, body: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    };
    let run = |fetch: &str, repository: &str, variables: &[(&str, &str)]| {
        let fetch = format!("echo '[ERROR] no route to it' >&2; {fetch}");
        program(
            "cargo",
            &format!("case \"$*\" in *'deny fetch db'*) {fetch} ;; esac"),
        );
        program("cargo-machete", "exit 0");
        program("git", repository);
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        let output = Command::new(root().join("scripts/check-dependencies"))
            .env_clear()
            .env("PATH", path)
            .envs(variables.iter().copied())
            .output()
            .expect("a shell");
        let says = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), says)
    };
    let (fails, works, ci) = ("exit 1", "exit 0", ("CI", "true"));
    for (fetch, repository, variables, code) in [
        (fails, fails, &[][..], 0),
        (fails, fails, &[ci], 0),
        (fails, works, &[ci], 1),
        (fails, fails, &[("PLATEN_REQUIRE_ADVISORIES", "1")], 1),
    ] {
        let (ended, says) = run(fetch, repository, variables);
        assert_eq!(ended, Some(code), "{variables:?}: {says}");
        let told = says.contains("NOT RUN: advisories") && says.contains("no route to it");
        assert!(told, "{says}");
    }
    let (ended, says) = run(works, fails, &[ci]);
    assert_eq!((ended, says.as_str()), (Some(0), ""));
}

/// Or the image cannot be built.
#[test]
fn the_image_is_built_of_every_member() {
    let ignore = read(&root().join(".dockerignore"));
    let workspace = read(&root().join("Cargo.toml"));
    let members = workspace
        .lines()
        .find_map(|line| line.strip_prefix("members = "))
        .expect("members");
    let mut named = 0;
    for member in members.split('"').skip(1).step_by(2) {
        // Of a member within another folder that folder is named.
        let folder = member.split('/').next().unwrap_or(member);
        let kept = ignore.lines().any(|line| line == format!("!{folder}"));
        assert!(kept, ".dockerignore leaves out {member}");
        named += 1;
    }
    assert!(named > 5, "only {named} members");
}

#[test]
fn dashboards_and_rules_use_exported_metrics_only() {
    let exported = exported();
    let mut used = 0;
    for path in dashboard_files() {
        for name in words(&read(&path)).filter(|word| word.starts_with("platen_")) {
            assert!(
                exported.contains(name),
                "{}: no process exports {name}",
                path.display()
            );
            used += 1;
        }
    }
    assert!(used > 20, "only {used} metrics are used");
}

#[test]
fn dashboards_and_rules_know_every_outcome_they_name() {
    for path in dashboard_files() {
        // In JSON the quotes around a value are escaped.
        let text = read(&path).replace('\\', "");
        for matcher in text.split("outcome=").skip(1) {
            let named = matcher.split('"').nth(1).unwrap_or_default();
            for class in named.split('|') {
                assert!(
                    class.parse::<outcome::Class>().is_ok(),
                    "{}: no outcome is {class:?}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn the_ledger_is_scraped_once_for_the_whole_service() {
    let prometheus = yaml(&root().join("dashboards/prometheus/prometheus.yml"));
    let billing: Vec<&Value> = list(&prometheus["scrape_configs"])
        .filter(|job| job["metrics_path"] == "/metrics/billing")
        .collect();
    assert_eq!(billing.len(), 1);
    let targets: Vec<&Value> = list(&billing[0]["static_configs"])
        .flat_map(|config| list(&config["targets"]))
        .collect();
    assert_eq!(targets, ["api:9464"]);
    assert!(billing[0]["dns_sd_configs"].is_null());
}

#[test]
fn the_boards_have_room_for_every_panel_and_explain_it() {
    let readme = read(&root().join("dashboards/README.md"));
    let mut uids = BTreeSet::new();
    for path in boards() {
        let board = json(&path);
        assert!(
            uids.insert(board["uid"].to_string()),
            "two boards of one uid"
        );
        let mut ids = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for panel in list(&board["panels"]) {
            let title = panel["title"].as_str().unwrap_or_default();
            assert!(
                ids.insert(number(&panel["id"])),
                "{title} has the id of another"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            assert!(
                list(&panel["targets"]).all(|target| target["expr"].is_string()),
                "{title} asks nothing"
            );
            let place = |key| number(&panel["gridPos"][key]);
            let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
            assert!(x + w <= 24, "{title} is cut off");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(taken.insert(cell), "{title} covers another panel");
            }
            assert!(
                readme.contains(&format!("| {title} |")),
                "dashboards/README.md does not explain {title:?}"
            );
        }
    }
    assert_eq!(uids.len(), 4);
}

/// Each is told of, has a place in the runbook, and is shown to fire and to be quiet.
#[test]
fn every_alert_is_explained_and_tested() {
    let folder = root().join("dashboards");
    let readme = read(&folder.join("README.md"));
    let runbook = read(&root().join("docs/runbook.md"));
    let index: Vec<&str> = runbook
        .lines()
        .filter(|line| line.starts_with("| Platen"))
        .flat_map(words)
        .collect();
    let rules = yaml(&folder.join("prometheus/rules.yml"));
    let tests = ["rules_test.yml", "rules_days_test.yml"]
        .map(|file| yaml(&folder.join("prometheus").join(file)));
    let tried: Vec<&Value> = tests
        .iter()
        .flat_map(|tests| list(&tests["tests"]))
        .flat_map(|test| list(&test["alert_rule_test"]))
        .collect();
    let mut alerts = 0;
    for rule in list(&rules["groups"]).flat_map(|group| list(&group["rules"])) {
        let Some(alert) = rule["alert"].as_str() else {
            // One name for all windows of a rate.
            let record = rule["record"].as_str().unwrap_or_default();
            let record = record.split_inclusive("_rate").next().unwrap_or_default();
            assert!(
                readme.contains(record),
                "dashboards/README.md does not explain {record}"
            );
            continue;
        };
        assert!(
            readme.contains(&format!("| {alert} |")),
            "dashboards/README.md does not explain {alert}"
        );
        assert!(
            index.contains(&alert),
            "docs/runbook.md does not begin with {alert}"
        );
        let runbook = rule["annotations"]["runbook"].as_str().unwrap_or_default();
        assert!(is_a_section(runbook), "{alert}: there is no {runbook:?}");
        for quiet in [true, false] {
            let shown = tried.iter().any(|test| {
                test["alertname"] == alert && list(&test["exp_alerts"]).next().is_none() == quiet
            });
            assert!(shown, "no test shows {alert} with quiet = {quiet}");
        }
        alerts += 1;
    }
    assert!(alerts > 10, "only {alerts} alerts");
}

/// Whether `page.md#a-heading` is there.
fn is_a_section(link: &str) -> bool {
    let Some((page, anchor)) = link.split_once('#') else {
        return false;
    };
    let headings = read(&root().join(page));
    let mut headings = headings.lines().filter_map(|line| line.strip_prefix("## "));
    headings.any(|heading| {
        let kept = heading.to_lowercase().replace(
            |letter: char| !letter.is_alphanumeric() && !" -_".contains(letter),
            "",
        );
        kept.replace(' ', "-") == anchor
    })
}

/// Whoever reaches the network of the containers is not let in for that.
#[test]
fn compose_gives_redis_a_password() {
    let compose = yaml(&root().join("docker-compose.yml"));
    let redis = &compose["services"]["redis"];
    let command: Vec<&str> = list(&redis["command"]).filter_map(Value::as_str).collect();
    let mut password = command.iter().skip_while(|word| **word != "--requirepass");
    assert!(
        password
            .nth(1)
            .is_some_and(|password| password.starts_with("${REDIS_PASSWORD:?")),
        "{command:?}"
    );
    assert!(redis["ports"].is_null(), "Redis is published");
    for service in ["api", "worker"] {
        let url = &compose["services"][service]["environment"]["REDIS_URL"];
        let url = url.as_str().unwrap_or_default();
        assert!(
            url.starts_with("redis://default:${REDIS_PASSWORD:?"),
            "{service}: {url}"
        );
    }
    assert!(read(&root().join(".env.example")).contains("#REDIS_PASSWORD="));
}

#[test]
fn compose_sets_known_variables_and_publishes_on_loopback() {
    let compose = yaml(&root().join("docker-compose.yml"));
    let services = compose["services"].as_object().expect("services");
    for (service, it) in services {
        for variable in it["environment"]
            .as_object()
            .into_iter()
            .flat_map(|set| set.keys())
        {
            let known = config::VARIABLES.iter().any(|(known, _)| known == variable);
            assert!(
                known || !variable.starts_with("PLATEN_"),
                "{service}: Platen does not read {variable}"
            );
        }
        for port in list(&it["ports"]) {
            assert!(
                port.as_str()
                    .is_some_and(|port| port.starts_with("127.0.0.1:")),
                "{service}: {port}"
            );
        }
        for volume in list(&it["volumes"]).filter_map(Value::as_str) {
            if let Some((path, _)) = volume
                .split_once(':')
                .filter(|(path, _)| path.starts_with("./"))
            {
                assert!(root().join(path).exists(), "{service}: there is no {path}");
            }
        }
    }
}

/// Or a rolling restart would kill workers that wait for a call, and each such call would be paid for twice.
#[test]
fn a_stop_waits_for_the_longest_call() {
    let grace = config::Timing::default().grace;
    let catalog = Catalog::load(None, None).expect("the shipped catalogue");
    for model in catalog.models() {
        assert!(
            model.timeout < grace,
            "{} takes longer than a stop",
            model.id
        );
    }
    let compose = yaml(&root().join("docker-compose.yml"));
    let killed_after = compose["services"]["worker"]["stop_grace_period"].as_str();
    let by_compose = killed_after.and_then(|text| text.strip_suffix('s'));
    let by_kubernetes = read(&root().join("deploy/helm/templates/worker.yaml"));
    let by_kubernetes = by_kubernetes
        .lines()
        .find_map(|line| line.trim().strip_prefix("terminationGracePeriodSeconds: "));
    let render = yaml(&root().join("deploy/render.yaml"));
    let by_render = list(&render["services"])
        .find(|service| service["type"] == "worker")
        .map(|worker| worker["maxShutdownDelaySeconds"].to_string());
    for killed_after in [by_compose, by_kubernetes, by_render.as_deref()] {
        let seconds = killed_after.and_then(|text| text.parse().ok());
        let killed_after = Duration::from_secs(seconds.expect("seconds"));
        assert!(
            killed_after > grace,
            "workers are killed before their grace is over"
        );
    }
}

/// A process refuses a `PLATEN_…` that it does not know.
#[test]
fn what_is_deployed_sets_known_variables() {
    let mut named = 0;
    for file in [
        "deploy/render.yaml",
        "deploy/helm/values.yaml",
        "deploy/helm/templates/_helpers.tpl",
        "deploy/helm/templates/worker.yaml",
    ] {
        for word in words(&read(&root().join(file))).filter(|word| word.starts_with("PLATEN_")) {
            let known = config::VARIABLES.iter().any(|(known, _)| *known == word);
            // What it is kept from.
            let of_kubernetes = word == "PLATEN_API_PORT";
            assert!(
                known || of_kubernetes,
                "{file}: Platen does not read {word}"
            );
            named += 1;
        }
    }
    assert!(named > 5, "only {named} variables are named");
}

/// Every series the metrics of Platen are made of: a histogram has three kinds and none of its own name.
/// A proof that was renamed must not stay in the page that promises it.
#[test]
fn every_proof_that_is_named_exists() {
    let page = read(&root().join("docs/reliability.md"));
    // Without what commands printed.
    let page: String = page.split("```").step_by(2).collect();
    let makefile = read(&root().join("Makefile"));
    let code = sources();
    let mut named = 0;
    for proof in page.split('`').skip(1).step_by(2) {
        let known = if let Some(word) = proof.strip_prefix("make ") {
            let word = word.split(' ').next().unwrap_or_default();
            makefile.contains(&format!("\n{word}: "))
        } else if let Some((step, place)) = proof.split_once(':') {
            step == "…" || place.starts_with("//") || POINTS.contains(&proof)
        } else if proof.len() > 20 && words(proof).eq([proof]) {
            code.contains(&format!("fn {proof}("))
        } else {
            continue;
        };
        assert!(known, "docs/reliability.md: there is no {proof}");
        named += 1;
    }
    assert!(named > 60, "only {named} proofs are named");
}

/// All Rust there is.
fn sources() -> String {
    let files = repository::files(&["."], &["rs"]);
    files.iter().map(|path| read(path)).collect()
}

fn exported() -> BTreeSet<String> {
    // A metric shows its type once it has been used.
    telemetry::QUEUE_SECONDS.with_label_values(&["model"]);
    telemetry::CALL_SECONDS.with_label_values(&["model", "ok"]);
    telemetry::HTTP_SECONDS.with_label_values(&["GET", "/", "200"]);
    telemetry::API_SUBMIT_GROUP.observe(1.0);
    telemetry::WORKER_SETTLEMENT_GROUP.observe(1.0);
    drop(telemetry::process::start_step_timer("store"));
    let process = telemetry::process_metrics();
    let series = |name: &str| {
        if process.contains(&format!("# TYPE {name} histogram\n")) {
            ["_bucket", "_sum", "_count"]
                .map(|suffix| format!("{name}{suffix}"))
                .to_vec()
        } else {
            vec![name.to_owned()]
        }
    };
    telemetry::NAMES
        .iter()
        .flat_map(|name| series(name))
        .collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn dashboard_files() -> Vec<PathBuf> {
    repository::files(&["dashboards"], &[])
}

fn boards() -> impl Iterator<Item = PathBuf> {
    let folder = root().join("dashboards/grafana/boards");
    dashboard_files()
        .into_iter()
        .filter(move |path| path.starts_with(&folder))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(path: &Path) -> Value {
    serde_saphyr::from_str(&read(path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is not a number"))
}
