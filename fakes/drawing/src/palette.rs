//! Colors that go together, chosen by the seed of a request.

/// A color in sRGB, with channels from 0 to 255.
pub(crate) type Color = [f32; 3];

/// The colors of one image.
pub(crate) struct Palette {
    pub(crate) wall_top: Color,
    pub(crate) wall_foot: Color,
    pub(crate) floor_far: Color,
    pub(crate) floor_near: Color,
    /// The color of the wall and the floor where they are lit most.
    pub(crate) light: Color,
    /// The color of the arch at its top.
    pub(crate) arch: Color,
    pub(crate) arch_foot: Color,
    pub(crate) sun: Color,
    pub(crate) pedestal: Color,
    /// The color of the large ball.
    pub(crate) accent: Color,
    /// The color of the small ball.
    pub(crate) second: Color,
    /// The color that shadows fade to.
    pub(crate) shade: Color,
    /// The color of letters on the wall.
    pub(crate) ink: Color,
    /// The color of letters on the floor.
    pub(crate) floor_ink: Color,
}

impl Palette {
    /// Chooses a main hue and three more (for the arch, the accent and the second color), each at an angle from it, in
    /// one of three styles: pale, full or dark colors. The values are in OKLCH, where equal differences look equal, so
    /// every seed gives colors that fit together.
    pub(crate) fn from_seed(seed: &[u8; 32]) -> Self {
        let hue = f32::from(seed[0]) / 256.0 * 360.0;
        let arch = hue + [-38.0, 32.0, 150.0, -12.0][usize::from(seed[1] % 4)];
        let accent = hue + [180.0, 150.0, -120.0, 200.0][usize::from(seed[2] % 4)];
        let second = hue + [40.0, 75.0, -60.0][usize::from(seed[3] % 3)];
        let dark_ink = color(0.27, 0.045, hue);
        let pale_ink = color(0.965, 0.018, hue + 40.0);
        match seed[4] % 5 {
            // Morning: pale walls.
            0 | 1 => Self {
                wall_top: color(0.90, 0.038, hue),
                wall_foot: color(0.945, 0.022, hue),
                floor_far: color(0.865, 0.042, hue + 8.0),
                floor_near: color(0.80, 0.052, hue + 8.0),
                light: color(0.99, 0.012, hue + 30.0),
                arch: color(0.80, 0.075, arch),
                arch_foot: color(0.87, 0.055, arch),
                sun: color(0.87, 0.10, accent),
                pedestal: color(0.955, 0.014, hue),
                accent: color(0.66, 0.15, accent),
                second: color(0.76, 0.11, second),
                shade: color(0.34, 0.05, hue),
                ink: dark_ink,
                floor_ink: dark_ink,
            },
            // Afternoon: full color.
            2 | 3 => Self {
                wall_top: color(0.73, 0.095, hue),
                wall_foot: color(0.82, 0.075, hue),
                floor_far: color(0.70, 0.10, hue + 6.0),
                floor_near: color(0.62, 0.105, hue + 6.0),
                light: color(0.94, 0.045, hue + 20.0),
                arch: color(0.61, 0.115, arch),
                arch_foot: color(0.70, 0.105, arch),
                sun: color(0.90, 0.075, accent),
                pedestal: color(0.91, 0.035, hue),
                accent: color(0.70, 0.145, accent),
                second: color(0.86, 0.08, second),
                shade: color(0.27, 0.06, hue),
                ink: color(0.235, 0.055, hue),
                floor_ink: color(0.235, 0.055, hue),
            },
            // Evening: deep walls, pale letters.
            _ => Self {
                wall_top: color(0.30, 0.05, hue),
                wall_foot: color(0.43, 0.065, hue),
                floor_far: color(0.33, 0.055, hue + 8.0),
                floor_near: color(0.25, 0.045, hue + 8.0),
                light: color(0.66, 0.075, hue + 20.0),
                arch: color(0.47, 0.10, arch),
                arch_foot: color(0.60, 0.105, arch),
                sun: color(0.80, 0.11, accent),
                pedestal: color(0.80, 0.035, hue),
                accent: color(0.70, 0.15, accent),
                second: color(0.80, 0.10, second),
                shade: color(0.13, 0.03, hue),
                ink: pale_ink,
                floor_ink: pale_ink,
            },
        }
    }
}

/// Converts OKLCH to sRGB, by Björn Ottosson's formulas (<https://bottosson.github.io/posts/oklab/>). `hue` is in
/// degrees. Colors outside sRGB are clipped.
fn color(lightness: f32, chroma: f32, hue: f32) -> Color {
    let (sin, cos) = hue.to_radians().sin_cos();
    let (a, b) = (chroma * cos, chroma * sin);
    let long = (lightness + 0.396_337_78 * a + 0.215_803_76 * b).powi(3);
    let middle = (lightness - 0.105_561_346 * a - 0.063_854_17 * b).powi(3);
    let short = (lightness - 0.089_484_18 * a - 1.291_485_5 * b).powi(3);
    [
        4.076_741_7 * long - 3.307_711_6 * middle + 0.230_969_94 * short,
        -1.268_438 * long + 2.609_757_4 * middle - 0.341_319_38 * short,
        -0.004_196_086 * long - 0.703_418_6 * middle + 1.707_614_7 * short,
    ]
    .map(|linear| {
        let linear = linear.clamp(0.0, 1.0);
        let encoded = if linear <= 0.003_130_8 {
            linear * 12.92
        } else {
            1.055 * linear.powf(1.0 / 2.4) - 0.055
        };
        encoded * 255.0
    })
}
