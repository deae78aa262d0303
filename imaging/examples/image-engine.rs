//! The image engine as a child process: reads one job per line from standard input, and writes its cost as one line to
//! standard output. `make bench-images` compares it with other engines.
//!
//! A job is a JSON object. It must have `source` (the path of the original), `width`, `height`, `format` and `light`
//! (`linear`, or any other text for the encoded values). It may have `out` (the path for the result) and `steps`
//! (whether decoding, resampling and encoding are measured, too).
#![expect(clippy::print_stdout, reason = "its answers are lines on stdout")]

use std::error::Error;
use std::{fs, io};

use domain::generation::image::{Fit, Format, Pixels, Recipe, Rendering};
use imaging::{ResampleSpace, measure_steps, rendition};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    for line in io::stdin().lines() {
        let job: Value = serde_json::from_str(&line?)?;
        let text = |name: &str| job[name].as_str().ok_or_else(|| format!("no `{name}`"));
        let side = |name: &str| -> Result<u32, Box<dyn Error>> {
            let side = job[name].as_u64().ok_or_else(|| format!("no `{name}`"))?;
            Ok(side.try_into()?)
        };
        let recipe = Recipe {
            target: Pixels {
                width: side("width")?,
                height: side("height")?,
            },
            format: serde_json::from_value::<Format>(job["format"].clone())?,
            rendering: Rendering {
                fit: Fit::Strict,
                allow_upscale: true,
                ..Rendering::default()
            },
        };
        let space = match text("light")? {
            "linear" => ResampleSpace::Linear,
            _ => ResampleSpace::Encoded,
        };
        let original = fs::read(text("source")?)?;

        let before = cpu()?;
        let rendition = rendition(&original, &recipe, space)?;
        let ms = cpu()? - before;

        if let Some(out) = job["out"].as_str() {
            fs::write(out, &rendition.bytes)?;
        }
        let mut answer = json!({ "ms": ms, "bytes": rendition.bytes.len() });
        if job["steps"] == true {
            let now = || cpu().unwrap_or_default();
            answer["steps"] = json!(measure_steps(&original, &recipe, space, now)?);
        }
        println!("{answer}");
    }
    Ok(())
}

/// The CPU time of this process so far, user and system, in milliseconds.
fn cpu() -> Result<f64, Box<dyn Error>> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let used = usage.user_time() + usage.system_time();
    let micros = u32::try_from(used.num_microseconds())?;
    Ok(f64::from(micros) / 1000.0)
}
