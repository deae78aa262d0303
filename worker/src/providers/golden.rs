//! What every provider sends for the same request, byte for byte as far as it means something: `golden/*.json`.
//!
//! A change there is a change of what we pay for. Run with `WRITE_GOLDEN=1` to write the files anew.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use common::catalog::{Catalog, Model};
use common::generation::image::{AspectRatio, InputRole, MediaType, Size};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::generate_content;
use super::interactions;
use super::openai::{self, Part};
use super::{InputPicture, PictureRequest};

pub(super) fn catalog() -> Catalog {
    Catalog::load(None, None).unwrap()
}

/// The request, for a model: with all it can be told.
pub(super) fn request<T>(
    model: &Model,
    inputs: &[InputPicture],
    send: impl FnOnce(&PictureRequest<'_>) -> T,
) -> T {
    send(&PictureRequest {
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
        time: Duration::ZERO,
        room: None,
    })
}

fn inputs() -> [InputPicture; 2] {
    let input = |bytes: &'static [u8], media_type, role| InputPicture {
        bytes: Bytes::from_static(bytes),
        media_type,
        role,
    };
    [
        input(b"a bottle", MediaType::Png, InputRole::Product),
        input(b"a mood", MediaType::Jpeg, InputRole::Style),
    ]
}

/// What `send` makes of the request to a model of the shipped catalogue.
fn sent(
    id: &str,
    inputs: &[InputPicture],
    send: impl FnOnce(&PictureRequest<'_>) -> Value,
) -> Value {
    let catalog = catalog();
    let model = catalog.get(id).unwrap_or_else(|| panic!("no model {id}"));
    request(model, inputs, send)
}

fn json_of(body: &impl serde::Serialize) -> Value {
    serde_json::to_value(body).unwrap()
}

fn json_of_openai(request: &PictureRequest<'_>) -> Value {
    match openai::Body::of(request) {
        openai::Body::Generation(fields) => fields.into(),
        openai::Body::Edit(parts) => parts.iter().map(json_of_part).collect(),
    }
}

fn json_of_part(part: &Part) -> Value {
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
fn every_provider_sends_what_it_sent_before() {
    let pictures = inputs();
    let of_vertex =
        |request: &PictureRequest<'_>| json_of(&generate_content::Body::for_vertex(request));
    let of_gemini =
        |request: &PictureRequest<'_>| json_of(&generate_content::Body::for_developers(request));
    let of_interactions = |request: &PictureRequest<'_>| json_of(&interactions::Body::of(request));
    let golden = [
        (
            "vertex",
            sent("gemini-nano-banana-2.1", &pictures, of_vertex),
        ),
        (
            "gemini",
            sent("gemini-nano-banana-2.1-developer", &pictures, of_gemini),
        ),
        (
            "interactions",
            sent(
                "gemini-nano-banana-2.1-background",
                &pictures,
                of_interactions,
            ),
        ),
        (
            "openai_generations",
            sent("gpt-image-2", &[], json_of_openai),
        ),
        (
            "openai_edits",
            sent("gpt-image-2", &pictures, json_of_openai),
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
        "{}\nIf that is meant, run this test with WRITE_GOLDEN=1.",
        differences.join("\n")
    );
}

/// The lines in which two bodies differ, from the first to the last that does.
fn difference(name: &str, before: &str, now: &str) -> Option<String> {
    if before == now {
        return None;
    }
    let (before, now): (Vec<_>, Vec<_>) = (before.lines().collect(), now.lines().collect());
    let alike = before.iter().zip(&now).take_while(|(a, b)| a == b).count();
    let (before, now) = (&before[alike..], &now[alike..]);
    let ending = before.iter().rev().zip(now.iter().rev());
    let ending = ending.take_while(|(a, b)| a == b).count();
    let removed = before[..before.len() - ending]
        .iter()
        .map(|line| ("-", line));
    let added = now[..now.len() - ending].iter().map(|line| ("+", line));
    let lines: Vec<String> = (removed.chain(added))
        .map(|(sign, line)| format!("{sign} {line}"))
        .collect();
    Some(format!(
        "golden/{name}.json, line {}:\n{}",
        alike + 1,
        lines.join("\n")
    ))
}
