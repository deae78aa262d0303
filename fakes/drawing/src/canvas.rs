//! Draws shapes. Each shape is a function for the distance to its edge, so edges are smooth at every size.

use super::palette::{Color, Palette};
use image::{RgbImage, RgbaImage};

/// A point, in pixels from the upper left corner.
#[derive(Clone, Copy)]
pub(crate) struct Point {
    pub(crate) x: f32,
    pub(crate) y: f32,
}

/// A rectangle, in pixels.
#[derive(Clone, Copy)]
pub(crate) struct Rect {
    pub(crate) left: f32,
    pub(crate) top: f32,
    pub(crate) width: f32,
    pub(crate) height: f32,
}

/// An image that is being drawn.
pub(crate) struct Canvas {
    image: RgbImage,
}

impl Canvas {
    pub(crate) fn new((width, height): (u32, u32)) -> Self {
        Self {
            image: RgbImage::new(width, height),
        }
    }

    pub(crate) fn into_image(self) -> RgbImage {
        self.image
    }

    /// Paints the wall and the floor, lighter around `light_center`. `horizon` is the row where they meet. Every pixel
    /// is painted.
    pub(crate) fn backdrop(&mut self, palette: &Palette, horizon: f32, light_center: Point) {
        let (width, height) = self.size();
        let reach = width.min(height).max(height * 0.6) * 0.95;
        let squares_across: Vec<f32> = (0..self.image.width())
            .map(|x| {
                let distance = (center(x) - light_center.x) / reach;
                distance * distance
            })
            .collect();
        let stride = squares_across.len() * 3;
        for (y, row) in (0..).zip(self.image.chunks_exact_mut(stride)) {
            let y = center(y);
            let wall = mix(palette.wall_top, palette.wall_foot, ease(y / horizon));
            let depth = (y - horizon) / (height - horizon);
            let floor = mix(palette.floor_far, palette.floor_near, depth.clamp(0.0, 1.0));
            // The wall of a studio curves into the floor, so there is no hard line.
            let base = mix(wall, floor, ease((y - horizon) / (height * 0.022) + 0.5));
            let up = if y < horizon {
                (y - horizon * 0.62) / reach
            } else {
                (y - light_center.y) / (reach * 0.42)
            };
            let strength = if y < horizon { 0.62 } else { 0.5 };
            let seam = ease(((y - horizon).abs() / (height * 0.08)).min(1.0));
            let strength = strength * (0.75 + 0.25 * seam);
            for (pixel, square) in row.chunks_exact_mut(3).zip(&squares_across) {
                let glow = (1.0 - square - up * up).max(0.0);
                let glow = glow * glow * strength;
                for ((channel, base), light) in pixel.iter_mut().zip(base).zip(palette.light) {
                    *channel = byte(base + (light - base) * glow);
                }
            }
        }
    }

    /// Draws a filled circle.
    pub(crate) fn disc(&mut self, middle: Point, radius: f32, color: Color, alpha: f32) {
        self.paint(around(middle, radius, radius), |x, y| {
            let distance = length(x - middle.x, y - middle.y) - radius;
            (color, alpha * coverage(distance))
        });
    }

    /// Draws an upright rectangle with a round top, darker at its left edge, like a niche. Its color changes from
    /// `head` at the top to `foot` at the bottom.
    pub(crate) fn arch(&mut self, shape: Rect, head: Color, foot: Color) {
        let radius = shape.width / 2.0;
        let middle = Point {
            x: shape.left + radius,
            y: shape.top + radius,
        };
        let edge = |x: f32, y: f32| {
            if y < middle.y {
                length(x - middle.x, y - middle.y) - radius
            } else {
                (x - middle.x).abs() - radius
            }
        };
        self.paint(shape, |x, y| {
            let distance = edge(x, y);
            let color = mix(head, foot, ease((y - shape.top) / shape.height));
            // The side that the light comes from is in the shadow of the wall.
            let inner = edge(x - radius * 0.13, y - radius * 0.10);
            let shade = ease(inner / (radius * 0.22) + 0.4) * 0.17;
            let foot_fade = coverage(y - (shape.top + shape.height));
            (scale(color, 1.0 - shade), coverage(distance) * foot_fade)
        });
    }

    /// Draws a soft dark ellipse.
    pub(crate) fn shadow(&mut self, middle: Point, across: f32, down: f32, alpha: f32) {
        self.paint(around(middle, across, down), |x, y| {
            let (x, y) = ((x - middle.x) / across, (y - middle.y) / down);
            let inside = (1.0 - x * x - y * y).max(0.0);
            ([18.0, 14.0, 22.0], alpha * inside * inside.sqrt())
        });
    }

    /// Draws a standing cylinder. `foot` is the middle of its base, `vertical_radius` the shorter radius of its
    /// ellipses.
    pub(crate) fn cylinder(
        &mut self,
        foot: Point,
        radius: f32,
        vertical_radius: f32,
        height: f32,
        color: Color,
        shade: Color,
    ) {
        let top = foot.y - height;
        let bounds = Rect {
            left: foot.x - radius,
            top: top - vertical_radius,
            width: radius * 2.0,
            height: height + vertical_radius * 2.0,
        };
        self.paint(bounds, |x, y| {
            let across = (x - foot.x) / radius;
            let bulge = vertical_radius * (1.0 - across * across).max(0.0).sqrt();
            let side = coverage(across.abs() * radius - radius)
                * coverage(y - (foot.y + bulge))
                * coverage(top - y);
            let turned = ease((across + 0.55) / 1.6) * 0.46 + ease((-across - 0.72) / 0.5) * 0.10;
            let deep = ((y - top) / (height + vertical_radius)).clamp(0.0, 1.0) * 0.10;
            (mix(color, shade, turned + deep), side)
        });
        let rim = Point { x: foot.x, y: top };
        self.paint(around(rim, radius, vertical_radius), |x, y| {
            let (x, y) = ((x - rim.x) / radius, (y - rim.y) / vertical_radius);
            let distance = (length(x, y) - 1.0) * vertical_radius;
            (mix(color, [255.0; 3], 0.45 - 0.2 * x), coverage(distance))
        });
    }

    /// Draws a matte ball, lit from the upper left.
    pub(crate) fn ball(&mut self, middle: Point, radius: f32, color: Color, shade: Color) {
        self.paint(around(middle, radius, radius), |x, y| {
            let (x, y) = ((x - middle.x) / radius, (y - middle.y) / radius);
            let square = x * x + y * y;
            let z = (1.0 - square).max(0.0).sqrt();
            // How much the surface faces the light: its normal (x, y, z), times the direction to the light.
            let lit = -0.45 * x - 0.62 * y + 0.64 * z;
            let dark = ease((0.62 - lit) / 1.25) * 0.62;
            // The pedestal reflects a little light from below.
            let back = ease(y * 0.9 - 0.25) * (1.0 - z) * 0.16;
            let highlight = ease((lit - 0.86) / 0.16) * 0.42;
            let body = mix(mix(color, shade, dark), [255.0; 3], back.max(highlight));
            (body, coverage((square.sqrt() - 1.0) * radius))
        });
    }

    /// Copies an image onto the canvas, with the image's own transparency.
    pub(crate) fn place(&mut self, image: &RgbaImage, at: Point) {
        let (left, top) = (at.x.round(), at.y.round());
        let (width, height) = image.dimensions();
        let bounds = Rect {
            left,
            top,
            width: float(width),
            height: float(height),
        };
        self.paint(bounds, |x, y| {
            let [red, green, blue, alpha] = image
                .get_pixel_checked(whole(x - left), whole(y - top))
                .map_or([0; 4], |pixel| pixel.0);
            ([red, green, blue].map(f32::from), f32::from(alpha) / 255.0)
        });
    }

    /// Draws an image as a card with a white border, round corners and a shadow.
    pub(crate) fn card(&mut self, image: &RgbaImage, at: Point, border: f32) {
        let (width, height) = (float(image.width()), float(image.height()));
        let middle = Point {
            x: at.x.round() + width / 2.0,
            y: at.y.round() + height / 2.0,
        };
        let corner_radius = border * 0.9;
        // The distance to the edge of the image, moved outwards by `growth`, with round corners.
        let edge = move |x: f32, y: f32, growth: f32| {
            let across = (x - middle.x).abs() - width / 2.0 - growth + corner_radius;
            let down = (y - middle.y).abs() - height / 2.0 - growth + corner_radius;
            length(across.max(0.0), down.max(0.0)) + across.max(down).min(0.0) - corner_radius
        };
        let blur = border * 5.0;
        let shadow_bounds = around(
            Point {
                x: middle.x,
                y: middle.y + blur * 0.3,
            },
            width / 2.0 + border + blur,
            height / 2.0 + border + blur,
        );
        self.paint(shadow_bounds, |x, y| {
            let near = 1.0 - edge(x, y - blur * 0.3, border) / blur;
            ([18.0, 14.0, 22.0], ease(near * 0.5) * 0.42)
        });
        self.paint(
            around(middle, width / 2.0 + border, height / 2.0 + border),
            |x, y| ([252.0, 251.0, 249.0], coverage(edge(x, y, border))),
        );
        self.place(image, at);
    }

    /// Blends a color over every pixel of `bounds`. `brush` returns the color and its alpha for the middle of a pixel.
    pub(crate) fn paint(&mut self, bounds: Rect, brush: impl Fn(f32, f32) -> (Color, f32)) {
        let (width, height) = self.image.dimensions();
        // One pixel more on each side, because a soft edge covers a part of it.
        let left = whole(bounds.left - 1.0).min(width);
        let right = whole(bounds.left + bounds.width + 2.0).min(width);
        let top = whole(bounds.top - 1.0).min(height);
        let bottom = whole(bounds.top + bounds.height + 2.0).min(height);
        let stride = width as usize * 3;
        let span = left as usize * 3..right.max(left) as usize * 3;
        for (y, row) in (0..bottom)
            .zip(self.image.chunks_exact_mut(stride))
            .skip(top as usize)
        {
            for (x, pixel) in (left..).zip(row[span.clone()].chunks_exact_mut(3)) {
                let (color, alpha) = brush(center(x), center(y));
                if alpha > 0.0 {
                    for (channel, color) in pixel.iter_mut().zip(color) {
                        let under = f32::from(*channel);
                        *channel = byte(under + (color - under) * alpha);
                    }
                }
            }
        }
    }

    fn size(&self) -> (f32, f32) {
        (float(self.image.width()), float(self.image.height()))
    }
}

/// The share of a pixel, from 0 to 1, that lies inside an edge at this distance. A negative distance is inside.
fn coverage(distance: f32) -> f32 {
    (0.5 - distance).clamp(0.0, 1.0)
}

/// The length of a vector. This is faster than `hypot`, whose protection against overflow is not needed here.
fn length(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}

/// The smoothstep function: 0 for `t` ≤ 0, 1 for `t` ≥ 1, and a smooth curve between 0 and 1.
pub(crate) fn ease(t: f32) -> f32 {
    let t = t.clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

fn mix(from: Color, to: Color, share: f32) -> Color {
    let mut mixed = from;
    for (channel, to) in mixed.iter_mut().zip(to) {
        *channel += (to - *channel) * share;
    }
    mixed
}

fn scale(color: Color, by: f32) -> Color {
    color.map(|channel| channel * by)
}

fn around(middle: Point, across: f32, down: f32) -> Rect {
    Rect {
        left: middle.x - across,
        top: middle.y - down,
        width: across * 2.0,
        height: down * 2.0,
    }
}

fn center(pixel: u32) -> f32 {
    float(pixel) + 0.5
}

#[expect(
    clippy::cast_precision_loss,
    reason = "images are far smaller than 2^24 pixels"
)]
pub(crate) fn float(pixels: u32) -> f32 {
    pixels as f32
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is clamped at zero, and the cast saturates"
)]
pub(crate) fn whole(pixels: f32) -> u32 {
    pixels.max(0.0) as u32
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "colors are between 0 and 255"
)]
fn byte(channel: f32) -> u8 {
    (channel + 0.5) as u8
}
