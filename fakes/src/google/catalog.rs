//! The models that this fake serves, and the exact sizes of their images.
//!
//! They are not read from `models/*.toml`, because a fake that shared our catalogue would share its mistakes.

use drawing::Input;
use image::DynamicImage;

/// A published image model.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) id: &'static str,
    /// The values of `imageSize`, each with the output tokens of an image. The first is the default.
    pub(crate) sizes: &'static [(&'static str, u32)],
    /// Whether the model thinks and signs its thoughts. Gemini 2.5 does not, and has its own table of sizes.
    pub(crate) thinks: bool,
    /// Whether the model makes the four extreme ratios, 1:4 to 8:1.
    makes_extreme_ratios: bool,
    /// The input tokens of one image in the request.
    pub(crate) tokens_per_input: u32,
}

/// The ratio, the pixels and the output tokens of the image that a model makes for a size and a ratio.
pub(crate) struct OutputSize {
    pub(crate) ratio: &'static str,
    pub(crate) pixels: (u32, u32),
    pub(crate) tokens: u32,
}

/// All models. Retired models (`*-preview`, `imagen-*`) are not here, so they get Google's 404.
const MODELS: &[Model] = &[
    Model {
        id: "gemini-2.5-flash-image",
        sizes: &[("1K", 1290)],
        thinks: false,
        makes_extreme_ratios: false,
        tokens_per_input: 1290,
    },
    Model {
        id: "gemini-3-pro-image",
        sizes: &[("1K", 1120), ("2K", 1120), ("4K", 2000)],
        thinks: true,
        makes_extreme_ratios: false,
        tokens_per_input: 560,
    },
    Model {
        id: "gemini-3.1-flash-image",
        sizes: &[("1K", 1120), ("512", 747), ("2K", 1680), ("4K", 2520)],
        thinks: true,
        makes_extreme_ratios: true,
        tokens_per_input: 1120,
    },
    Model {
        id: "gemini-3.1-flash-lite-image",
        sizes: &[("1K", 1120)],
        thinks: true,
        makes_extreme_ratios: true,
        tokens_per_input: 1120,
    },
    Model {
        id: "gemini-nano-banana-2.1",
        sizes: &[("1K", 1120), ("2K", 1680), ("4K", 2520)],
        thinks: true,
        makes_extreme_ratios: true,
        tokens_per_input: 1120,
    },
];

/// A ratio, with the pixels of 1K in the Gemini 3 family, and the pixels of 1K in Gemini 2.5 Flash Image.
type Row = (&'static str, (u32, u32), (u32, u32));

const RATIOS: &[Row] = &[
    ("1:1", (1024, 1024), (1024, 1024)),
    ("2:3", (848, 1264), (832, 1248)),
    ("3:2", (1264, 848), (1248, 832)),
    ("3:4", (896, 1200), (864, 1184)),
    ("4:3", (1200, 896), (1184, 864)),
    ("4:5", (928, 1152), (896, 1152)),
    ("5:4", (1152, 928), (1152, 896)),
    ("9:16", (768, 1376), (768, 1344)),
    ("16:9", (1376, 768), (1344, 768)),
    ("21:9", (1584, 672), (1536, 672)),
];

/// The four extreme ratios, which only the newer models make. Gemini 2.5 Flash Image has no pixels for them.
const EXTREMES: &[Row] = &[
    ("1:4", (512, 2048), (0, 0)),
    ("4:1", (2048, 512), (0, 0)),
    ("1:8", (384, 3072), (0, 0)),
    ("8:1", (3072, 384), (0, 0)),
];

impl Model {
    pub(crate) fn find(id: &str) -> Option<&'static Self> {
        MODELS.iter().find(|model| model.id == id)
    }

    /// The output size for this size and ratio. The error says what is wrong with them. Without a ratio, the ratio
    /// nearest to that of the first input image is used, or 1:1 if there is no input image.
    pub(crate) fn output_size(
        &self,
        size: Option<&str>,
        ratio: Option<&str>,
        first_input: Option<&Input>,
    ) -> Result<OutputSize, String> {
        let size = size.unwrap_or(self.sizes[0].0);
        // Case matters: `1k` is refused, as Google refuses it.
        let (_, tokens) = (self.sizes.iter())
            .find(|(name, _)| *name == size)
            .ok_or_else(|| format!("Image size {size} is not supported by {}.", self.id))?;
        let row = match ratio {
            Some(wanted) => self.rows().find(|(name, ..)| *name == wanted),
            None => first_input.map_or(RATIOS.first(), |input| self.nearest_ratio(&input.image)),
        };
        let (ratio, gemini_3, gemini_2_5) = row.ok_or_else(|| {
            let known: Vec<_> = self.rows().map(|(name, ..)| *name).collect();
            format!(
                "aspect_ratio must be one of {}, got {}.",
                known.join(", "),
                ratio.unwrap_or_default()
            )
        })?;
        let (width, height) = if self.thinks { *gemini_3 } else { *gemini_2_5 };
        let pixels = match size {
            "512" => (width / 2, height / 2),
            "2K" => (width * 2, height * 2),
            "4K" => (width * 4, height * 4),
            _ => (width, height),
        };
        Ok(OutputSize {
            ratio,
            pixels,
            tokens: *tokens,
        })
    }

    /// The ratio nearest to that of an input image.
    fn nearest_ratio(&self, image: &DynamicImage) -> Option<&'static Row> {
        let wanted = (f64::from(image.width()) / f64::from(image.height())).ln();
        let distance = |row: &Row| {
            let (_, (width, height), _) = row;
            ((f64::from(*width) / f64::from(*height)).ln() - wanted).abs()
        };
        self.rows()
            .min_by(|a, b| distance(a).total_cmp(&distance(b)))
    }

    /// The ratios that this model makes.
    fn rows(&self) -> impl Iterator<Item = &'static Row> {
        let extreme_rows = if self.makes_extreme_ratios {
            EXTREMES
        } else {
            &[]
        };
        RATIOS.iter().chain(extreme_rows)
    }
}
