//! `docs/runbook.md`, followed: every query and every command in it is run on a service that has had some trouble.

use std::time::Duration;

use domain::id::JobId;
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor};
use tests::fleet::Role;
use tests::processes;
use tests::real::Real;
use tokio::process::Command;

/// Model and lane of the jobs.
const MODEL: &str = "gemini-3-pro-image";
const LANE: &str = "vertex/global/gemini-3-pro-image";

#[tokio::test]
async fn every_command_of_the_runbook_works() {
    let Real {
        pipeline,
        fake: _fake,
        orders,
        folders: _folders,
    } = Real::start(10..=20).await;
    let apis = orders.start(Role::Api, 1).await.unwrap();
    let workers = orders.start(Role::Worker, 1).await.unwrap();
    let mut last = None;
    for prompt in ["a bottle", "something forbidden"] {
        let job = json!({"model": MODEL, "prompt": prompt, "size": "1K"});
        let id = pipeline.submit(&job).await;
        pipeline.ended_within(&id, Duration::from_secs(20)).await;
        last = Some(id.parse::<JobId>().unwrap());
    }
    let job = last.unwrap();

    let runbook = tests::root("docs/runbook.md");
    let found = commands(&std::fs::read_to_string(runbook).unwrap());
    assert!(found.len() > 30, "only {} commands", found.len());
    let tenant = pipeline.tenant.to_string();
    // Each is frozen once: a command that changes nothing fails.
    let (another, _) = pipeline.add_tenant(0).await;
    let words = [
        ("job_id = '…'", format!("job_id = '{}'", job.0)),
        ("request_id = '…'", "request_id = 'none'".to_owned()),
        ("model = '…'", format!("model = '{MODEL}'")),
        ("--outcome …", "--outcome refused_prompt".to_owned()),
        ("--reason …", "--reason tried".to_owned()),
        ("<tenant>", tenant),
        ("TENANT", another.to_string()),
        ("CREDITS", "5".to_owned()),
        ("<lane>", LANE.to_owned()),
        ("<address>", format!("http://{}/livez", apis[0].address())),
        ("api:8080", apis[0].address().to_string()),
        ("api:9464", apis[0].metrics_address().to_string()),
        ("worker:9464", workers[0].metrics_address().to_string()),
        ("platen:", format!("{}:", pipeline.config.queue)),
    ];
    let mut wrong = Vec::new();
    for command in found {
        let filled = words
            .iter()
            .fold(command.clone(), |command, (place, value)| {
                command.replace(place, value)
            });
        let failed = if filled.starts_with("SELECT") || filled.starts_with("WITH") {
            let query = AssertSqlSafe(filled);
            let failed = pipeline.reader.execute(query).await.err();
            failed.map(|error| error.to_string())
        } else {
            let mut shell = processes::configured(Command::new("bash"), "-c", &pipeline.config);
            let platen = processes::binary("platen");
            let path = std::env::var("PATH").unwrap();
            let path = format!("{}:{path}", platen.parent().unwrap().display());
            shell
                .arg(&filled)
                .env("PATH", path)
                .envs(orders.environment.clone());
            let ended = shell.output().await.unwrap();
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            (!ended.status.success()).then(|| said + &String::from_utf8_lossy(&ended.stdout))
        };
        wrong.extend(failed.map(|failed| format!("{command}: {failed}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    // The runbook has a job done once more.
    assert!(pipeline.drained(Duration::from_secs(30)).await);
    drop((apis, workers));
    pipeline.close().await;
}

/// Queries and commands: what stands in fences, and in the text what begins like one.
fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, part) in page.split("```").enumerate() {
        if number % 2 == 0 {
            // `|` in a table is written `\|`.
            let inline = part.split('`').skip(1).step_by(2);
            found.extend(inline.map(|code| code.replace("\\|", "|")));
            continue;
        }
        let (kind, text) = part.split_once('\n').unwrap();
        match kind.trim() {
            "sql" => found.extend(text.split(';').map(str::to_owned)),
            "sh" => found.extend(text.lines().map(str::to_owned)),
            other => panic!("what is {other:?}?"),
        }
    }
    let beginnings = ["SELECT ", "WITH ", "platen ", "redis-cli ", "curl "];
    let is_one = |code: &str| {
        beginnings
            .iter()
            .any(|beginning| code.starts_with(beginning))
    };
    // A server, not a look at one.
    let found = found.iter().map(|code| code.trim());
    let found = found.filter(|code| is_one(code) && *code != "platen up");
    found.map(str::to_owned).collect()
}
