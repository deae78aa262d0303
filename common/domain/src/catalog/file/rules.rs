//! What must be true of one model, whatever the other models are: a function for each rule. A
//! parameter `at` is the byte of the file at which the model's table begins. What a function
//! returns after a mistake is not used, because the model is then left out.

use toml::Spanned;

use super::ModelFile;
use super::entry::{ModelEntry, PriceEntry};
use crate::catalog::{Concurrency, Price};
use crate::credits::Credits;
use crate::generation::image::{MAX_INPUT_BYTES, MAX_OUTPUTS, Pixels};
use crate::outcome::table::Dialect;

/// Collects the mistakes of one model.
pub(super) struct ModelMistakes<'a> {
    pub(super) file: &'a ModelFile<'a>,
    pub(super) model_id: &'a str,
    /// The mistakes of all models and files so far. New ones are added here.
    pub(super) found: &'a mut Vec<String>,
}

impl ModelMistakes<'_> {
    /// Adds a problem at this byte of the file.
    pub(super) fn add(&mut self, at: usize, problem: &str) {
        let problem = format!("model {}: {problem}", self.model_id);
        self.found.push(self.file.mistake_at(at, &problem));
    }
}

impl ModelEntry {
    /// Checks the model's id, its lists of sizes and ratios, and its limits.
    pub(super) fn check_limits(&self, at: usize, mistakes: &mut ModelMistakes<'_>) {
        let id = mistakes.model_id;
        if id.is_empty() || id.len() > 100 || !is_model_name(id) {
            mistakes.add(
                at,
                "an id must have 1 to 100 characters: letters, digits, dots, - and _",
            );
        }
        if self.sizes.get_ref().is_empty() {
            mistakes.add(self.sizes.span().start, "needs at least one size");
        }
        if self.ratios.get_ref().is_empty() {
            mistakes.add(self.ratios.span().start, "needs at least one ratio");
        }
        if !(1..=3600).contains(self.timeout_seconds.get_ref()) {
            mistakes.add(
                self.timeout_seconds.span().start,
                "timeout_seconds must be 1 to 3600",
            );
        }
        if let Some(outputs) = &self.max_outputs
            && !(1..=MAX_OUTPUTS).contains(outputs.get_ref())
        {
            mistakes.add(
                outputs.span().start,
                &format!("max_outputs must be 1 to {MAX_OUTPUTS}"),
            );
        }
        if let Some(bytes) = &self.max_input_bytes
            && !(1..=MAX_INPUT_BYTES).contains(bytes.get_ref())
        {
            mistakes.add(
                bytes.span().start,
                &format!("max_input_bytes must be 1 to {MAX_INPUT_BYTES}"),
            );
        }
    }

    /// How many calls may be in flight on each lane of the model. Without `concurrency`, the
    /// initial limit is the default, or `max_concurrency` if that is lower.
    pub(super) fn concurrency(&self, mistakes: &mut ModelMistakes<'_>) -> Concurrency {
        let mut read = |name: &str, limit: Option<&Spanned<u32>>| {
            let limit = limit?;
            if !(1..=Concurrency::MAX).contains(limit.get_ref()) {
                let range = format!("{name} must be 1 to {}", Concurrency::MAX);
                mistakes.add(limit.span().start, &range);
            }
            Some(*limit.get_ref())
        };
        let initial = read("concurrency", self.concurrency.as_ref());
        let max =
            read("max_concurrency", self.max_concurrency.as_ref()).unwrap_or(Concurrency::MAX);
        let initial = initial.unwrap_or_else(|| Concurrency::default().initial.min(max));
        if let Some(limit) = &self.concurrency
            && initial > max
        {
            let above = "concurrency is higher than max_concurrency";
            mistakes.add(limit.span().start, above);
        }
        Concurrency { initial, max }
    }

    /// Checks the keys that only some dialects allow.
    pub(super) fn check_dialect(
        &self,
        at: usize,
        dialect: Dialect,
        mistakes: &mut ModelMistakes<'_>,
    ) {
        // Platen sets these fields from the job. An extra field of the same name would override it.
        let reserved = ["model", "prompt", "n", "stream", "image", "size"];
        if !self.extra.is_empty() && dialect != Dialect::Openai {
            mistakes.add(at, "extra is allowed with the dialect openai only");
        } else if let Some(field) = reserved
            .iter()
            .find(|field| self.extra.contains_key(**field))
        {
            mistakes.add(at, &format!("extra may not set {field}: Platen sets it"));
        }
        if !self.pixels.is_empty() && dialect != Dialect::Openai {
            mistakes.add(at, "pixels are allowed with the dialect openai only");
        }
        // Google's names become part of a URL.
        if let Some(name) = &self.name
            && !is_model_name(name)
            && dialect != Dialect::Openai
        {
            mistakes.add(
                at,
                "a Google model's name has letters, digits, dots, - and _",
            );
        }
    }

    /// The location of the model's own lane. Only Vertex AI has locations: for other dialects the
    /// default is `global`, because every lane has a location.
    pub(super) fn location(
        &self,
        at: usize,
        dialect: Dialect,
        mistakes: &mut ModelMistakes<'_>,
    ) -> String {
        match (&self.location, dialect) {
            (Some(location), _) if !is_name(location.get_ref()) => {
                mistakes.add(
                    location.span().start,
                    "a location has up to 63 letters, digits, - and _",
                );
                String::new()
            }
            (Some(location), _) => location.get_ref().clone(),
            (None, Dialect::Vertex) => {
                mistakes.add(at, "needs a location, such as \"global\"");
                String::new()
            }
            (None, _) => "global".to_owned(),
        }
    }

    /// The sizes in pixels that the provider accepts.
    pub(super) fn pixels(&self, mistakes: &mut ModelMistakes<'_>) -> Vec<Pixels> {
        let mut pixels = Vec::new();
        for text in &self.pixels {
            match parse_pixels(text.get_ref()) {
                Some(sides) => pixels.push(sides),
                None => mistakes.add(
                    text.span().start,
                    "pixels must look like \"1024x1536\", with sides of 16 to 16384",
                ),
            }
        }
        pixels
    }

    /// Checks that each size has a cost, and that no cost is negative.
    pub(super) fn check_costs(&self, mistakes: &mut ModelMistakes<'_>) {
        for &size in self.sizes.get_ref() {
            let cost = self.cost_usd_micros.get_ref().get(&size);
            if cost.is_none_or(|&cost| cost < 0) {
                mistakes.add(
                    self.cost_usd_micros.span().start,
                    &format!("cost_usd_micros needs {size}, zero or more"),
                );
            }
        }
        if let Some(cost) = &self.cost_usd_micros_per_million_tokens
            && (cost.get_ref().input < 0 || cost.get_ref().thought < 0)
        {
            mistakes.add(cost.span().start, "the cost of tokens cannot be negative");
        }
    }

    /// The prices, sorted by their first day, the latest first.
    pub(super) fn prices(&self, mistakes: &mut ModelMistakes<'_>) -> Vec<Price> {
        let mut prices = Vec::new();
        for price in self.price.get_ref() {
            let at = price.span().start;
            let PriceEntry { from, credits } = price.get_ref();
            for size in self.sizes.get_ref() {
                if !credits.contains_key(size) {
                    mistakes.add(
                        at,
                        &format!("the price from {} has no credits for {size}", from.0),
                    );
                }
            }
            if credits.values().any(|price| *price > Credits::MAX_PRICE) {
                mistakes.add(at, &format!("a price is at most {}", Credits::MAX_PRICE));
            }
            if prices.iter().any(|other: &Price| other.from == from.0) {
                mistakes.add(at, &format!("two prices begin on {}", from.0));
            }
            prices.push(Price {
                from: from.0,
                credits: credits.clone(),
            });
        }
        if prices.is_empty() {
            mistakes.add(self.price.span().start, "needs at least one price");
        }
        prices.sort_by_key(|price| std::cmp::Reverse(price.from));
        prices
    }

    /// Checks that the model was announced before it is deprecated or shut down.
    pub(super) fn check_dates(&self, mistakes: &mut ModelMistakes<'_>) {
        for (name, day) in [
            ("deprecated", &self.deprecated),
            ("shut_down", &self.shut_down),
        ] {
            if let Some(day) = day
                && day.get_ref().0 < self.announced.0
            {
                mistakes.add(
                    day.span().start,
                    &format!("`{name}` is earlier than `announced`"),
                );
            }
        }
    }
}

/// Whether the text is safe in a URL, in a Redis key and in a metric's label.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "-_".contains(letter))
}

/// Whether the text has only characters that a model's id, and a Google model's name, may have.
pub(super) fn is_model_name(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Parses a size such as `1024x1536`, with sides of 16 to 16,384 pixels.
pub(super) fn parse_pixels(text: &str) -> Option<Pixels> {
    let (width, height) = text.split_once('x')?;
    let side = |text: &str| {
        text.parse()
            .ok()
            .filter(|side| (16..=16_384).contains(side))
    };
    Some(Pixels {
        width: side(width)?,
        height: side(height)?,
    })
}
