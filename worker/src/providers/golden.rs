//! What every provider sends for the same request, compared with the files `golden/*.json`.
//!
//! A difference means that the paid requests have changed. If that is intended, run the test with
//! `WRITE_GOLDEN=1` to write the files again.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use domain::catalog::{Catalog, Model};
use domain::generation::image::{AspectRatio, InputRole, MediaType, Size};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::generate_content;
use super::interactions;
use super::openai::{self, Part};
use super::{CallRequest, InputImage};

pub(super) fn catalog() -> Catalog {
    Catalog::load(None, None).unwrap()
}

/// A request to a model in which every field that the model takes is set.
pub(super) fn request<T>(
    model: &Model,
    inputs: &[InputImage],
    send: impl FnOnce(&CallRequest<'_>) -> T,
) -> T {
    send(&CallRequest {
        model,
        lane: model.lane(),
        prompt: "Place the bottle on wet slate.",
        art_direction: Some("Soft window light, muted colours."),
        inputs: inputs.to_vec(),
        aspect_ratio: AspectRatio::R4x5,
        size: Size::TwoK,
        seed: model.takes_seed.then_some(7),
        thinking: model.thinking.first().map(String::as_str),
        job: "job_00000000000000000000000001".parse().unwrap(),
        call: "cal_00000000000000000000000002".parse().unwrap(),
        timeout: Duration::ZERO,
        permit: None,
    })
}

fn inputs() -> [InputImage; 2] {
    let input = |bytes: &'static [u8], media_type, role| InputImage {
        bytes: Bytes::from_static(bytes),
        media_type,
        role,
    };
    [
        input(b"a bottle", MediaType::Png, InputRole::Product),
        input(b"a mood", MediaType::Jpeg, InputRole::Style),
    ]
}

/// The body that `send` makes from a request to a model of the shipped catalogue.
fn body_for(
    id: &str,
    inputs: &[InputImage],
    send: impl FnOnce(&CallRequest<'_>) -> Value,
) -> Value {
    let catalog = catalog();
    let model = catalog.get(id).unwrap_or_else(|| panic!("no model {id}"));
    request(model, inputs, send)
}

fn to_json(body: &impl serde::Serialize) -> Value {
    serde_json::to_value(body).unwrap()
}

fn openai_to_json(request: &CallRequest<'_>) -> Value {
    match openai::Body::from_request(request) {
        openai::Body::Generation(fields) => fields.into(),
        openai::Body::Edit(parts) => parts.iter().map(part_to_json).collect(),
    }
}

fn part_to_json(part: &Part) -> Value {
    match part {
        Part::Text { name, text } => json!({"name": name, "text": text}),
        Part::File {
            name,
            file_name,
            media_type,
            bytes,
        } => json!({
            "name": name,
            "file_name": file_name,
            "content_type": media_type,
            "sha256": hex::encode(Sha256::digest(bytes)),
            "bytes": bytes.len(),
        }),
    }
}

#[test]
fn every_provider_sends_what_the_golden_files_say() {
    let images = inputs();
    let vertex_to_json =
        |request: &CallRequest<'_>| to_json(&generate_content::Body::for_vertex(request));
    let gemini_to_json =
        |request: &CallRequest<'_>| to_json(&generate_content::Body::for_gemini(request));
    let interactions_to_json =
        |request: &CallRequest<'_>| to_json(&interactions::Body::from_request(request));
    let golden = [
        (
            "vertex",
            body_for("gemini-nano-banana-2.1", &images, vertex_to_json),
        ),
        (
            "gemini",
            body_for("gemini-nano-banana-2.1-developer", &images, gemini_to_json),
        ),
        (
            "interactions",
            body_for(
                "gemini-nano-banana-2.1-background",
                &images,
                interactions_to_json,
            ),
        ),
        (
            "openai_generations",
            body_for("gpt-image-2", &[], openai_to_json),
        ),
        (
            "openai_edits",
            body_for("gpt-image-2", &images, openai_to_json),
        ),
    ];
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/providers/golden");
    let mut differences = Vec::new();
    for (name, body) in golden {
        let path = Path::new(folder).join(format!("{name}.json"));
        let mut body = serde_json::to_string_pretty(&body).unwrap();
        body.push('\n');
        if std::env::var_os("WRITE_GOLDEN").is_some() {
            std::fs::write(&path, &body).unwrap();
        }
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        differences.extend(difference(name, &before, &body));
    }
    assert!(
        differences.is_empty(),
        "{}\nIf this is intended, run this test with WRITE_GOLDEN=1.",
        differences.join("\n")
    );
}

/// The lines from the first to the last in which two bodies differ. `None` when they are the same.
fn difference(name: &str, before: &str, now: &str) -> Option<String> {
    if before == now {
        return None;
    }
    let (before, now): (Vec<_>, Vec<_>) = (before.lines().collect(), now.lines().collect());
    let same_start = before.iter().zip(&now).take_while(|(a, b)| a == b).count();
    let (before, now) = (&before[same_start..], &now[same_start..]);
    let same_end = before.iter().rev().zip(now.iter().rev());
    let same_end = same_end.take_while(|(a, b)| a == b).count();
    let removed = before[..before.len() - same_end]
        .iter()
        .map(|line| ("-", line));
    let added = now[..now.len() - same_end].iter().map(|line| ("+", line));
    let lines: Vec<String> = (removed.chain(added))
        .map(|(mark, line)| format!("{mark} {line}"))
        .collect();
    Some(format!(
        "golden/{name}.json, line {}:\n{}",
        same_start + 1,
        lines.join("\n")
    ))
}
