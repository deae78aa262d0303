//! The picture: a small still life in a studio, drawn from the prompt and the photos of the request.
//!
//! An arch on a coloured wall, a plinth on the floor before it, and on the plinth the products; references are pinned
//! below as small framed cards. Colours follow the request's dice. Above stand the prompt's first words, below a
//! line that says what this is: nobody should take it for the work of a model.

mod canvas;
mod cutout;
mod lettering;
mod palette;
mod plain;

use super::{bombs, fault::Fault, faults::Look};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use canvas::{Canvas, Point, Rect};
use image::{
    DynamicImage, ExtendedColorType, ImageEncoder, RgbImage,
    codecs::{
        jpeg::JpegEncoder,
        png::{CompressionType, FilterType, PngEncoder},
        webp::WebPEncoder,
    },
};
use lettering::Weight;
use palette::Palette;
use sha2::{Digest, Sha256};

/// What a request asks to see.
pub(super) struct Scene {
    /// The model, as it stands in the picture.
    pub(super) model: String,
    /// The user's words.
    pub(super) prompt: String,
    pub(super) inputs: Vec<Input>,
    /// The ratio, as it stands in the picture.
    pub(super) ratio: String,
    /// Decides everything about the picture that the fields above leave open.
    pub(super) dice: [u8; 32],
}

impl Scene {
    /// The same for the next picture of the same request.
    pub(super) fn roll_again(&mut self) {
        self.dice = Sha256::digest(self.dice).into();
    }
}

/// How a picture is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Format {
    Png,
    Jpeg { quality: u8 },
    WebP,
}

impl Format {
    pub(super) fn mime_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg { .. } => "image/jpeg",
            Self::WebP => "image/webp",
        }
    }
}

/// A picture as it goes into a reply.
pub(super) struct Made {
    pub(super) bytes: Bytes,
    pub(super) sha256: [u8; 32],
    spoiled: bool,
}

impl Made {
    /// The bytes as the reply's JSON has them.
    pub(super) fn base64(&self) -> String {
        let mut data = BASE64_STANDARD.encode(&self.bytes);
        if self.spoiled {
            data.insert_str(data.len() / 2, "*not base64*");
        }
        data
    }

    pub(super) fn hash(&self) -> String {
        hex::encode(self.sha256)
    }
}

/// Makes the picture of a scene, with the flaw the fault asks for.
pub(super) fn make(
    scene: &Scene,
    (width, height): (u32, u32),
    format: Format,
    fault: Option<&Fault>,
    look: Look,
) -> Made {
    let pixels = match fault {
        Some(Fault::WrongSize) => (width - width / 16, height - height / 16),
        _ => (width, height),
    };
    let format = match (fault, format) {
        (Some(Fault::WrongType), Format::Png | Format::WebP) => Format::Jpeg { quality: 75 },
        (Some(Fault::WrongType), Format::Jpeg { .. }) => Format::Png,
        (_, format) => format,
    };
    let bytes = match fault {
        Some(Fault::Bomb(name)) => bombs::bomb(name).unwrap_or_default().into(),
        Some(Fault::BadPicture) => Bytes::from_static(b"These bytes are no picture."),
        _ if look != Look::Drawn => plain::draw(pixels, format, look == Look::Grainy),
        _ => draw(scene, pixels, format).into(),
    };
    Made {
        sha256: Sha256::digest(&bytes).into(),
        bytes,
        spoiled: fault == Some(&Fault::BadBase64),
    }
}

/// A photo of the request.
pub(super) struct Input {
    pub(super) picture: DynamicImage,
    /// Drawn as a small framed card rather than on the plinth.
    pub(super) reference: bool,
}

/// What every picture says of itself.
const TRUTH: &str = "synthetic - no AI model was called";

/// Products that stand on the plinth; further ones are pinned below with the references.
const MOST_STANDING: usize = 3;

/// Draws and encodes the picture of a request, in these pixels.
fn draw(scene: &Scene, pixels: (u32, u32), format: Format) -> Vec<u8> {
    let palette = Palette::from_dice(&scene.dice);
    let mut canvas = Canvas::new(pixels);
    let layout = Layout::of(pixels);

    let (products, references): (Vec<&Input>, Vec<&Input>) =
        scene.inputs.iter().partition(|input| !input.reference);
    let (standing, further) = products.split_at(products.len().min(MOST_STANDING));

    canvas.backdrop(&palette, layout.horizon, layout.stage);
    arch(&mut canvas, &palette, &layout);
    let top = plinth(&mut canvas, &palette, &layout, standing.len());
    if standing.is_empty() {
        still_life(&mut canvas, &palette, &layout, top, scene.dice[7]);
    } else {
        products_on_plinth(&mut canvas, &layout, top, standing);
    }
    let pinned: Vec<&Input> = references
        .into_iter()
        .chain(further.iter().copied())
        .collect();
    pinned_cards(&mut canvas, &layout, &pinned);
    words(&mut canvas, &palette, &layout, scene, pixels);
    encode(&canvas.into_image(), format)
}

/// Where things stand. Everything is measured in `unit`, a hundredth of the stage.
struct Layout {
    width: f32,
    height: f32,
    /// Where the wall meets the floor.
    horizon: f32,
    /// The middle of the plinth's foot.
    stage: Point,
    unit: f32,
    margin: f32,
    /// The height of the title's letters.
    title: f32,
    /// The width the title may take.
    measure: f32,
}

impl Layout {
    fn of((width, height): (u32, u32)) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            reason = "pictures are far smaller than 2^24 pixels"
        )]
        let (width, height) = (width as f32, height as f32);
        let wide = width > height * 1.3;
        let short = width.min(height);
        let margin = short * 0.056;
        let horizon = height * if wide { 0.74 } else { 0.71 };
        let stage = if wide {
            (width * 0.45).min(height * 0.74)
        } else {
            (width * 0.86).min(height * 0.55)
        };
        let x = if wide {
            width - (width * 0.30).max(stage * 0.62)
        } else {
            width * 0.5
        };
        Self {
            width,
            height,
            horizon,
            stage: Point {
                x,
                y: horizon + stage * 0.13,
            },
            unit: stage / 100.0,
            margin,
            title: short * if wide { 0.062 } else { 0.047 },
            measure: if wide {
                x - stage * 0.5 - margin * 1.5
            } else {
                width - margin * 2.0
            },
        }
    }
}

/// A niche in the wall, and the sun beside it.
fn arch(canvas: &mut Canvas, palette: &Palette, layout: &Layout) {
    let unit = layout.unit;
    let Point { x, .. } = layout.stage;
    canvas.disc(
        Point {
            x: x + 31.0 * unit,
            y: layout.horizon - 65.0 * unit,
        },
        15.0 * unit,
        palette.sun,
        0.9,
    );
    let arch = Rect {
        left: x - 32.0 * unit,
        top: layout.horizon - 80.0 * unit,
        width: 64.0 * unit,
        height: 80.0 * unit,
    };
    canvas.arch(arch, palette.arch, palette.arch_foot);
}

/// Draws the plinth; returns the middle of its upper face.
fn plinth(canvas: &mut Canvas, palette: &Palette, layout: &Layout, products: usize) -> Point {
    let unit = layout.unit;
    let foot = layout.stage;
    let radius = if products > 1 { 40.0 } else { 29.0 } * unit;
    let flat = radius * 0.19;
    let height = 13.0 * unit;
    let shadow = Point {
        x: foot.x + 7.0 * unit,
        y: foot.y + 1.5 * unit,
    };
    canvas.shadow(shadow, radius * 1.45, flat * 2.1, 0.34);
    canvas.cylinder(foot, radius, flat, height, palette.plinth, palette.shade);
    Point {
        x: foot.x,
        y: foot.y - height,
    }
}

/// A ball and its little neighbour, for a request without product photos.
fn still_life(canvas: &mut Canvas, palette: &Palette, layout: &Layout, top: Point, turn: u8) {
    let unit = layout.unit;
    let side = if turn.is_multiple_of(2) { 1.0 } else { -1.0 };
    for (across, radius, colour) in [
        (-3.0 * side, 17.0, palette.accent),
        (17.5 * side, 6.5, palette.second),
    ] {
        let radius = radius * unit;
        let ground = Point {
            x: top.x + across * unit,
            y: top.y + radius * 0.12,
        };
        canvas.shadow(
            Point {
                x: ground.x + radius * 0.18,
                y: ground.y,
            },
            radius * 1.1,
            radius * 0.26,
            0.45,
        );
        canvas.ball(
            Point {
                x: ground.x,
                y: ground.y - radius,
            },
            radius,
            colour,
            palette.shade,
        );
    }
}

/// The product photos side by side on the plinth, cut out where their ground is plain.
fn products_on_plinth(canvas: &mut Canvas, layout: &Layout, top: Point, products: &[&Input]) {
    let unit = layout.unit;
    #[expect(clippy::cast_precision_loss, reason = "at most three")]
    let count = products.len() as f32;
    let space = if products.len() > 1 { 88.0 } else { 66.0 } * unit / count;
    let mut left = top.x - space * count / 2.0;
    for product in products {
        let fit = Rect {
            left: left + space * 0.02,
            top: top.y - 66.0 * unit,
            width: space * 0.96,
            height: 67.0 * unit,
        };
        left += space;
        let standing = cutout::fit(&product.picture, fit.width, fit.height);
        let (width, height) = standing.size();
        let place = Point {
            x: fit.left + (fit.width - width) / 2.0,
            y: fit.top + fit.height - height,
        };
        let ground = Point {
            x: place.x + width * 0.54,
            y: fit.top + fit.height - 0.4 * unit,
        };
        canvas.shadow(ground, width * 0.62, (width * 0.085).min(5.0 * unit), 0.5);
        if standing.framed {
            canvas.card(&standing.picture, place, 1.1 * unit);
        } else {
            canvas.place(&standing.picture, place);
        }
    }
}

/// A row of small square cards at the lower left.
fn pinned_cards(canvas: &mut Canvas, layout: &Layout, pinned: &[&Input]) {
    if pinned.is_empty() {
        return;
    }
    #[expect(clippy::cast_precision_loss, reason = "at most fourteen")]
    let count = pinned.len() as f32;
    let gap = layout.margin * 0.3;
    let short = layout.width.min(layout.height);
    let room = layout.width - layout.margin * 2.0;
    let side = (short * 0.135).min((room - gap * (count - 1.0)) / count);
    let caption = layout.title * 0.95;
    let mut place = Point {
        x: layout.margin,
        y: layout.height - layout.margin - caption - side,
    };
    for input in pinned {
        let picture = cutout::square(&input.picture, side);
        canvas.card(&picture, place, side * 0.045);
        place.x += side + gap;
    }
}

/// The prompt above, the truth below.
fn words(
    canvas: &mut Canvas,
    palette: &Palette,
    layout: &Layout,
    scene: &Scene,
    pixels: (u32, u32),
) {
    let Layout { margin, title, .. } = *layout;
    let small = (title * 0.46).max(13.0);
    let mut y = margin;
    canvas.write(
        &scene.model,
        Point { x: margin, y },
        small,
        Weight::Regular,
        palette.ink,
        0.72,
    );
    y += small * 1.9;
    let prompt = without_markers(&scene.prompt);
    for line in lettering::wrap(&prompt, title, layout.measure, 3) {
        canvas.write(
            &line,
            Point { x: margin, y },
            title,
            Weight::Bold,
            palette.ink,
            0.94,
        );
        y += title * 1.22;
    }

    let y = layout.height - margin - small * 0.8;
    let made = format!("{}  {} \u{d7} {}", scene.ratio, pixels.0, pixels.1);
    let made_width = lettering::width(&made, small);
    canvas.write(
        &made,
        Point {
            x: layout.width - margin - made_width,
            y,
        },
        small,
        Weight::Regular,
        palette.floor_ink,
        0.72,
    );
    // The sentence that must be readable gives way last: in a narrow picture it moves up a line.
    let room = layout.width - margin * 2.0;
    let crowded = lettering::width(TRUTH, small) + made_width + margin > room;
    let y = if crowded { y - small * 1.5 } else { y };
    let height = small.min(small * room / lettering::width(TRUTH, small));
    canvas.write(
        TRUTH,
        Point { x: margin, y },
        height,
        Weight::Regular,
        palette.floor_ink,
        0.86,
    );
}

/// Fault markers steer the fake; they are no part of what a person asked for.
fn without_markers(prompt: &str) -> String {
    let mut plain = String::new();
    for (index, piece) in prompt.split("[[fault:").enumerate() {
        let rest = if index == 0 {
            piece
        } else {
            piece.split_once("]]").map_or("", |(_, rest)| rest)
        };
        plain.push_str(rest);
    }
    plain
}

fn encode(picture: &RgbImage, format: Format) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(picture.len() / 4);
    let (width, height) = picture.dimensions();
    let written = match format {
        Format::Png => {
            PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Up)
                .write_image(picture, width, height, ExtendedColorType::Rgb8)
        }
        Format::WebP => WebPEncoder::new_lossless(&mut bytes).write_image(
            picture,
            width,
            height,
            ExtendedColorType::Rgb8,
        ),
        Format::Jpeg { quality } => JpegEncoder::new_with_quality(&mut bytes, quality.max(1))
            .write_image(picture, width, height, ExtendedColorType::Rgb8),
    };
    written.expect("a picture in memory has an encoding");
    bytes
}
