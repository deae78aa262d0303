//! Writes text at any size, with one raster font: Noto Sans Mono at 32 pixels.

use super::{
    canvas::{Canvas, Point, Rect, ease, float, whole},
    palette::Color,
};
use noto_sans_mono_bitmap::{
    FontWeight, RasterHeight, RasterizedChar, get_raster, get_raster_width,
};

/// The text at the lower edge of every image.
pub(crate) const NOTICE: &str = "synthetic - no AI model was called";

/// How heavy the letters are.
#[derive(Clone, Copy)]
pub(crate) enum Weight {
    Regular,
    Bold,
}

const RASTER: RasterHeight = RasterHeight::Size32;
/// The height of the raster of a letter, in pixels.
const RASTER_HEIGHT: f32 = 32.0;

impl Canvas {
    /// Writes one line. `at` is the upper left corner of its box, `height` the height of the box.
    pub(crate) fn write(
        &mut self,
        line: &str,
        at: Point,
        height: f32,
        weight: Weight,
        ink: Color,
        alpha: f32,
    ) {
        let step = advance(height);
        let scale = RASTER_HEIGHT / height;
        // Enlarged letters have soft edges. Steeper edges, by the same factor, make them crisp again.
        let steep = (height / RASTER_HEIGHT).max(1.0);
        let mut left = at.x;
        for letter in line.chars() {
            let glyph = glyph(letter, weight);
            let bounds = Rect {
                left,
                top: at.y,
                width: step,
                height,
            };
            self.paint(bounds, |x, y| {
                let inked = sample(glyph, (x - left) * scale - 0.5, (y - at.y) * scale - 0.5);
                (ink, alpha * ease((inked - 0.5) * steep + 0.5))
            });
            left += step;
        }
    }
}

/// The width of a line in pixels.
pub(crate) fn width(line: &str, height: f32) -> f32 {
    line.chars().map(|_| advance(height)).sum()
}

/// Breaks the first words of a text into at most `max_lines` lines of `line_width` pixels. The last line ends in three
/// dots if the text is longer. A line has room for at least six letters, and a word that is longer than a line is cut.
pub(crate) fn wrap(text: &str, height: f32, line_width: f32, max_lines: usize) -> Vec<String> {
    let columns = usize::try_from(whole(line_width / advance(height)))
        .unwrap_or_default()
        .max(6);
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let word: String = word.chars().take(columns).collect();
        let last = lines.len() - 1;
        let room = columns - lines[last].chars().count();
        if lines[last].is_empty() {
            lines[last] = word;
        } else if word.chars().count() < room {
            lines[last].push(' ');
            lines[last].push_str(&word);
        } else if lines.len() < max_lines {
            lines.push(word);
        } else {
            lines[last] = shorten(&lines[last], columns.saturating_sub(3)) + "...";
            break;
        }
    }
    lines
}

/// As many whole words of a line as fit, without punctuation at the end, because three dots follow.
fn shorten(line: &str, columns: usize) -> String {
    let mut kept = line.to_owned();
    while kept.chars().count() > columns {
        let Some(end) = kept.rfind(' ') else {
            return kept.chars().take(columns).collect();
        };
        kept.truncate(end);
    }
    kept.trim_end_matches([' ', ',', ';', ':', '.', '-'])
        .to_owned()
}

/// The width of each letter, in pixels. The font gives all letters the same width.
fn advance(height: f32) -> f32 {
    let raster = u16::try_from(get_raster_width(FontWeight::Regular, RASTER)).unwrap_or(u16::MAX);
    f32::from(raster) * height / RASTER_HEIGHT
}

/// The raster of a letter. A letter that the font lacks becomes a middle dot.
fn glyph(letter: char, weight: Weight) -> RasterizedChar {
    let weight = match weight {
        Weight::Regular => FontWeight::Regular,
        Weight::Bold => FontWeight::Bold,
    };
    get_raster(letter, weight, RASTER)
        .or_else(|| get_raster('\u{b7}', weight, RASTER))
        .expect("the font has a middle dot")
}

/// How much of a point the letter covers, from 0 to 1. The value is interpolated between the pixels of the raster.
fn sample(glyph: RasterizedChar, x: f32, y: f32) -> f32 {
    // Columns and rows are counted from one outside the raster, so that the cast below rounds down.
    let (x, y) = (x + 1.0, y + 1.0);
    let (column, row) = (whole(x), whole(y));
    let pixel = |column: u32, row: u32| {
        let (Some(column), Some(row)) = (column.checked_sub(1), row.checked_sub(1)) else {
            return 0.0;
        };
        let ink = glyph.pixel(column as usize, row as usize);
        f32::from(ink.unwrap_or_default()) / 255.0
    };
    let (across, down) = (x - float(column), y - float(row));
    let upper = pixel(column, row) * (1.0 - across) + pixel(column + 1, row) * across;
    let lower = pixel(column, row + 1) * (1.0 - across) + pixel(column + 1, row + 1) * across;
    upper * (1.0 - down) + lower * down
}
