//! The picture engine as a child process, for `make sweep`. It reads a job a line: how (`upload` or `answer`), width, height, the
//! file to read and the file to write, with tabs between. It answers a line: nothing, or why the file is refused.
#![expect(clippy::print_stdout, reason = "its answers are lines on stdout")]

use std::error::Error;
use std::{fs, io};

use common::generation::image::{Fit, Format, MAX_INPUT_BYTES, Pixels, Recipe, Rendering};
use imaging::{ImagingError, Provenance, clean, render};

fn main() -> Result<(), Box<dyn Error>> {
    for line in io::stdin().lines() {
        let line = line?;
        let [how, width, height, from, to] = line.split('\t').collect::<Vec<_>>()[..] else {
            return Err("a job has five fields".into());
        };
        let target = Pixels {
            width: width.parse()?,
            height: height.parse()?,
        };
        match made(how, &fs::read(from)?, target) {
            Ok(file) => {
                fs::write(to, file)?;
                println!();
            }
            Err(refused) => println!("{refused}"),
        }
    }
    Ok(())
}

fn made(how: &str, file: &[u8], target: Pixels) -> Result<bytes::Bytes, ImagingError> {
    if how == "upload" {
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
    let mark = Provenance {
        model: "sweep".to_owned(),
        source: "sweep".to_owned(),
        synthetic: true,
    };
    render(file, &recipe, &mark).map(|rendered| rendered.rendition.bytes)
}
