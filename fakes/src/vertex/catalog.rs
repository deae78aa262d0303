//! The models this fake serves and the exact pixels each makes.
//!
//! Deliberately not read from `models/*.toml`: a fake that shared our catalogue would agree with its mistakes.

/// One published image model.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) id: &'static str,
    /// What `imageSize` may say, with the tokens one picture of that size costs. The first is the default.
    pub(super) sizes: &'static [(&'static str, u32)],
    /// Gemini 2.5 has a pixel table of its own and neither thinks nor signs its thoughts.
    pub(super) thinks: bool,
    /// Whether the model makes the four extreme ratios, 1:4 to 8:1.
    extremes: bool,
    /// What one picture in the request costs, in tokens.
    pub(super) tokens_per_input: u32,
}

/// The models that answer. Retired ones (`*-preview`, `imagen-*`) are not here, so they get Google's 404.
const MODELS: &[Model] = &[
    Model {
        id: "gemini-2.5-flash-image",
        sizes: &[("1K", 1290)],
        thinks: false,
        extremes: false,
        tokens_per_input: 1290,
    },
    Model {
        id: "gemini-3-pro-image",
        sizes: &[("1K", 1120), ("2K", 1120), ("4K", 2000)],
        thinks: true,
        extremes: false,
        tokens_per_input: 560,
    },
    Model {
        id: "gemini-3.1-flash-image",
        sizes: &[("1K", 1120), ("512", 747), ("2K", 1680), ("4K", 2520)],
        thinks: true,
        extremes: true,
        tokens_per_input: 1120,
    },
    Model {
        id: "gemini-3.1-flash-lite-image",
        sizes: &[("1K", 1120)],
        thinks: true,
        extremes: true,
        tokens_per_input: 1120,
    },
    Model {
        id: "gemini-nano-banana-2.1",
        sizes: &[("1K", 1120), ("2K", 1680), ("4K", 2520)],
        thinks: true,
        extremes: true,
        tokens_per_input: 1120,
    },
];

/// Ratio, 1K pixels of the Gemini 3 family, 1K pixels of Gemini 2.5 Flash Image.
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

/// The four extreme ratios, which only the newer models make.
const EXTREMES: &[Row] = &[
    ("1:4", (512, 2048), (0, 0)),
    ("4:1", (2048, 512), (0, 0)),
    ("1:8", (384, 3072), (0, 0)),
    ("8:1", (3072, 384), (0, 0)),
];

impl Model {
    pub(super) fn find(id: &str) -> Option<&'static Self> {
        MODELS.iter().find(|model| model.id == id)
    }

    /// Tokens of one picture of this size, if the model makes it. The capital K matters.
    pub(super) fn tokens(&self, size: &str) -> Option<u32> {
        let (_, tokens) = self.sizes.iter().find(|(name, _)| *name == size)?;
        Some(*tokens)
    }

    /// The ratio names this model knows, for the message that refuses another.
    pub(super) fn ratios(&self) -> impl Iterator<Item = &'static str> {
        self.rows().map(|(name, ..)| *name)
    }

    /// The exact pixels of a ratio and a size, if the model makes both.
    pub(super) fn pixels(&self, ratio: &str, size: &str) -> Option<(u32, u32)> {
        self.tokens(size)?;
        let (_, gemini_3, gemini_2) = self.rows().find(|(name, ..)| *name == ratio)?;
        let (width, height) = if self.thinks { *gemini_3 } else { *gemini_2 };
        Some(match size {
            "512" => (width / 2, height / 2),
            "2K" => (width * 2, height * 2),
            "4K" => (width * 4, height * 4),
            _ => (width, height),
        })
    }

    /// The ratio nearest to a picture's own, as the model picks when the request names none.
    pub(super) fn nearest_ratio(&self, (width, height): (u32, u32)) -> &'static str {
        let wanted = (f64::from(width) / f64::from(height)).ln();
        let distance = |row: &Row| {
            let (_, (width, height), _) = row;
            ((f64::from(*width) / f64::from(*height)).ln() - wanted).abs()
        };
        self.rows()
            .min_by(|a, b| distance(a).total_cmp(&distance(b)))
            .map_or("1:1", |(name, ..)| *name)
    }

    fn rows(&self) -> impl Iterator<Item = &'static Row> {
        let extremes = if self.extremes { EXTREMES } else { &[] };
        RATIOS.iter().chain(extremes)
    }
}
