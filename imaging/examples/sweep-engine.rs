//! The image engine as a child process, for `make sweep`.
//!
//! Each input line is a job of five fields with tabs between them: `upload` or `answer`, width, height, the file to
//! read and the file to write. The process answers each job with one line, which is empty or says why the file is
//! refused.
#![expect(
    clippy::print_stdout,
    reason = "the process answers on standard output"
)]

use std::error::Error;
use std::{fs, io};

use domain::generation::image::{Fit, Format, MAX_INPUT_BYTES, Pixels, Recipe, Rendering};
use imaging::{ImagingError, Provenance, clean, render};

fn main() -> Result<(), Box<dyn Error>> {
    for line in io::stdin().lines() {
        let line = line?;
        let [mode, width, height, from, to] = line.split('\t').collect::<Vec<_>>()[..] else {
            return Err("a job has five fields".into());
        };
        let target = Pixels {
            width: width.parse()?,
            height: height.parse()?,
        };
        match process(mode, &fs::read(from)?, target) {
            Ok(file) => {
                fs::write(to, file)?;
                println!();
            }
            Err(error) => println!("{error}"),
        }
    }
    Ok(())
}

fn process(mode: &str, file: &[u8], target: Pixels) -> Result<bytes::Bytes, ImagingError> {
    if mode == "upload" {
        return clean(file, MAX_INPUT_BYTES).map(|upload| upload.bytes);
    }
    let recipe = Recipe {
        target,
        format: Format::Png,
        rendering: Rendering {
            fit: Fit::Cover,
            allow_crop: true,
            allow_upscale: true,
            ..Rendering::default()
        },
    };
    let provenance = Provenance {
        model: "sweep".to_owned(),
        source: "sweep".to_owned(),
        synthetic: true,
    };
    render(file, &recipe, &provenance).map(|rendered| rendered.rendition.bytes)
}
