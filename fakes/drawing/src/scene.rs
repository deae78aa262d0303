//! Draws the still life: an arch on a colored wall, a pedestal on the floor in front of the wall, and the products on
//! the pedestal.
//!
//! Reference images are drawn below as small framed cards. The seed of the request chooses the colors. The first words
//! of the prompt stand at the top, and a line at the bottom says that no AI model made the image, so that nobody takes
//! it for the work of a model.

use image::DynamicImage;

use super::{
    canvas::{Canvas, Point, Rect},
    cutout,
    encode::{Format, encode},
    lettering::{self, NOTICE, Weight},
    palette::Palette,
};

/// What to draw.
pub struct Scene {
    /// The model's name, written into the image.
    pub model: String,
    /// The prompt without its fault markers. Its first words are written into the image.
    pub title: String,
    /// The input images of the request, in its order.
    pub inputs: Vec<Input>,
    /// The aspect ratio, such as `16:9`, written into the image.
    pub ratio: String,
    /// The seed of what the other fields leave open: the colors, and the side of the small ball.
    pub seed: [u8; 32],
}

/// An input image of the request.
pub struct Input {
    /// The decoded image.
    pub image: DynamicImage,
    /// Whether the image is drawn as a small framed card instead of standing on the pedestal.
    pub is_reference: bool,
}

/// How many products stand on the pedestal. Further products become cards, like the references.
const MAX_STANDING: usize = 3;

/// Draws a scene of this width and height in pixels, and encodes it. The same scene gives the same bytes.
///
/// # Panics
/// Panics if the width or the height is 0.
pub fn draw(scene: &Scene, pixels: (u32, u32), format: Format) -> Vec<u8> {
    let palette = Palette::from_seed(&scene.seed);
    let mut canvas = Canvas::new(pixels);
    let layout = Layout::new(pixels);

    let (products, references): (Vec<&Input>, Vec<&Input>) =
        scene.inputs.iter().partition(|input| !input.is_reference);
    let (standing, further) = products.split_at(products.len().min(MAX_STANDING));

    canvas.backdrop(&palette, layout.horizon, layout.pedestal_foot);
    arch(&mut canvas, &palette, &layout);
    let top = pedestal(&mut canvas, &palette, &layout, standing.len());
    if standing.is_empty() {
        still_life(&mut canvas, &palette, &layout, top, scene.seed[7]);
    } else {
        products_on_pedestal(&mut canvas, &layout, top, standing);
    }
    let cards: Vec<&Input> = references
        .into_iter()
        .chain(further.iter().copied())
        .collect();
    reference_cards(&mut canvas, &layout, &cards);
    write_texts(&mut canvas, &palette, &layout, scene, pixels);
    encode(&canvas.into_image(), format)
}

/// Where things stand, in pixels. Most lengths are multiples of `unit`.
struct Layout {
    width: f32,
    height: f32,
    /// The row where the wall meets the floor.
    horizon: f32,
    /// The middle of the pedestal's foot.
    pedestal_foot: Point,
    /// A hundredth of the width of the still life.
    unit: f32,
    /// The free border of the image.
    margin: f32,
    /// The height of the title's letters.
    title_height: f32,
    /// The width that the title may take.
    title_width: f32,
}

impl Layout {
    /// In a wide image the still life stands at the right, beside the title. Otherwise it stands in the middle, below
    /// the title.
    fn new((width, height): (u32, u32)) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            reason = "images are far smaller than 2^24 pixels"
        )]
        let (width, height) = (width as f32, height as f32);
        let wide = width > height * 1.3;
        let short = width.min(height);
        let margin = short * 0.056;
        let horizon = height * if wide { 0.74 } else { 0.71 };
        let stage_width = if wide {
            (width * 0.45).min(height * 0.74)
        } else {
            (width * 0.86).min(height * 0.55)
        };
        let x = if wide {
            width - (width * 0.30).max(stage_width * 0.62)
        } else {
            width * 0.5
        };
        Self {
            width,
            height,
            horizon,
            pedestal_foot: Point {
                x,
                y: horizon + stage_width * 0.13,
            },
            unit: stage_width / 100.0,
            margin,
            title_height: short * if wide { 0.062 } else { 0.047 },
            title_width: if wide {
                x - stage_width * 0.5 - margin * 1.5
            } else {
                width - margin * 2.0
            },
        }
    }
}

/// Draws a niche in the wall and a disc, the sun, beside it.
fn arch(canvas: &mut Canvas, palette: &Palette, layout: &Layout) {
    let unit = layout.unit;
    let Point { x, .. } = layout.pedestal_foot;
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

/// Draws the pedestal, wider for more than one product. Returns the middle of its upper face.
fn pedestal(
    canvas: &mut Canvas,
    palette: &Palette,
    layout: &Layout,
    product_count: usize,
) -> Point {
    let unit = layout.unit;
    let foot = layout.pedestal_foot;
    let radius = if product_count > 1 { 40.0 } else { 29.0 } * unit;
    let vertical_radius = radius * 0.19;
    let height = 13.0 * unit;
    let shadow = Point {
        x: foot.x + 7.0 * unit,
        y: foot.y + 1.5 * unit,
    };
    canvas.shadow(shadow, radius * 1.45, vertical_radius * 2.1, 0.34);
    canvas.cylinder(
        foot,
        radius,
        vertical_radius,
        height,
        palette.pedestal,
        palette.shade,
    );
    Point {
        x: foot.x,
        y: foot.y - height,
    }
}

/// Draws a large and a small ball, for a request without product images. An even `choice` puts the small ball to the
/// right.
fn still_life(canvas: &mut Canvas, palette: &Palette, layout: &Layout, top: Point, choice: u8) {
    let unit = layout.unit;
    let side = if choice.is_multiple_of(2) { 1.0 } else { -1.0 };
    for (across, radius, color) in [
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
            color,
            palette.shade,
        );
    }
}

/// Draws the product images side by side on the pedestal, cut out where their background is plain.
fn products_on_pedestal(canvas: &mut Canvas, layout: &Layout, top: Point, products: &[&Input]) {
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
        let placed = cutout::fit_into_box(&product.image, fit.width, fit.height);
        let (width, height) = placed.size();
        let place = Point {
            x: fit.left + (fit.width - width) / 2.0,
            y: fit.top + fit.height - height,
        };
        let ground = Point {
            x: place.x + width * 0.54,
            y: fit.top + fit.height - 0.4 * unit,
        };
        canvas.shadow(ground, width * 0.62, (width * 0.085).min(5.0 * unit), 0.5);
        if placed.is_framed {
            canvas.card(&placed.image, place, 1.1 * unit);
        } else {
            canvas.place(&placed.image, place);
        }
    }
}

/// Draws a row of small square cards at the lower left.
fn reference_cards(canvas: &mut Canvas, layout: &Layout, inputs: &[&Input]) {
    if inputs.is_empty() {
        return;
    }
    #[expect(clippy::cast_precision_loss, reason = "a request has few inputs")]
    let count = inputs.len() as f32;
    let gap = layout.margin * 0.3;
    let short = layout.width.min(layout.height);
    let room = layout.width - layout.margin * 2.0;
    let side = (short * 0.135).min((room - gap * (count - 1.0)) / count);
    // The cards stand above the notice.
    let notice_height = layout.title_height * 0.95;
    let mut place = Point {
        x: layout.margin,
        y: layout.height - layout.margin - notice_height - side,
    };
    for input in inputs {
        let image = cutout::square(&input.image, side);
        canvas.card(&image, place, side * 0.045);
        place.x += side + gap;
    }
}

/// Writes the model's name and the prompt at the top, and the notice and the image's size at the bottom.
fn write_texts(
    canvas: &mut Canvas,
    palette: &Palette,
    layout: &Layout,
    scene: &Scene,
    pixels: (u32, u32),
) {
    let Layout {
        margin,
        title_height: title,
        ..
    } = *layout;
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
    for line in lettering::wrap(&scene.title, title, layout.title_width, 3) {
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
    let size = format!("{}  {} \u{d7} {}", scene.ratio, pixels.0, pixels.1);
    let size_width = lettering::width(&size, small);
    canvas.write(
        &size,
        Point {
            x: layout.width - margin - size_width,
            y,
        },
        small,
        Weight::Regular,
        palette.floor_ink,
        0.72,
    );
    // The notice must stay readable. So in a narrow image it moves up a line instead of shrinking.
    let room = layout.width - margin * 2.0;
    let crowded = lettering::width(NOTICE, small) + size_width + margin > room;
    let y = if crowded { y - small * 1.5 } else { y };
    let height = small.min(small * room / lettering::width(NOTICE, small));
    canvas.write(
        NOTICE,
        Point { x: margin, y },
        height,
        Weight::Regular,
        palette.floor_ink,
        0.86,
    );
}
