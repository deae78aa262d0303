//! The table of all figures.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::rows::Row;
use crate::scenario::Figures;

/// The figures of each row: for each pair ours and theirs.
pub(crate) struct Table {
    names: [String; 2],
    figures: BTreeMap<Row, BTreeMap<usize, [f64; 2]>>,
}

impl Table {
    pub(crate) fn new(names: [String; 2]) -> Self {
        Self {
            names,
            figures: BTreeMap::new(),
        }
    }

    /// Adds the figures of one run. `side`: 0 is ours, 1 theirs.
    pub(crate) fn add(&mut self, pair: usize, side: usize, figures: &Figures) {
        for &(row, value) in figures {
            let value = match row {
                Row::RateDraining => value / self.full_rate(pair, side),
                _ => value,
            };
            self.figures
                .entry(row)
                .or_default()
                .entry(pair)
                .or_insert([f64::NAN; 2])[side] = value;
        }
    }

    /// Jobs a second of the same contestant in the same pair with the machine full; not a number if that was not measured.
    fn full_rate(&self, pair: usize, side: usize) -> f64 {
        let pairs = self.figures.get(&Row::RateJpeg);
        let rates = pairs.and_then(|pairs| pairs.get(&pair));
        rates.map_or(f64::NAN, |rates| rates[side])
    }

    /// Prints a line for each row: the medians, the median of the ratios with the least and the greatest, and the goal.
    pub(crate) fn print(&self) {
        let [ours, theirs] = &self.names;
        println!(
            "\n| | {ours} | {theirs} | ratio (least to greatest) | goal | |\n|---|---|---|---|---|---|"
        );
        for (row, pairs) in &self.figures {
            let side = |side: usize| median(pairs.values().map(|pair| pair[side]).collect());
            let ratios: Vec<f64> = pairs.values().map(|[ours, theirs]| ours / theirs).collect();
            let (least, greatest) = ratios
                .iter()
                .fold((f64::MAX, f64::MIN), |(least, greatest), ratio| {
                    (least.min(*ratio), greatest.max(*ratio))
                });
            let ratio = median(ratios);
            // One contestant alone has no ratio.
            let ratios = if ratio.is_nan() {
                "–".to_owned()
            } else {
                format!("{ratio:.2} ({least:.2} to {greatest:.2})")
            };
            let verdict = match row.goal().is_met(side(0), ratio) {
                _ if side(0).is_nan() => "not measured: needs `jpeg`",
                true => "met",
                false if ratio.is_nan() => "–",
                false => "missed",
            };
            println!(
                "| {} | {:.2} | {:.2} | {ratios} | {} | {verdict} |",
                row.title(),
                side(0),
                side(1),
                row.goal().text()
            );
        }
    }

    /// All figures, for programs.
    pub(crate) fn json(&self) -> Value {
        let row = |(row, pairs): (&Row, &BTreeMap<usize, [f64; 2]>)| {
            let pairs: Vec<_> = pairs.values().collect();
            json!({"row": row.title(), "goal": row.goal().text(), "pairs": pairs})
        };
        let rows: Vec<Value> = self.figures.iter().map(row).collect();
        json!({"contestants": self.names, "rows": rows})
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    }
}

/// The machine, and the versions of what is measured.
pub(crate) fn heading(modules: &Path) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let processor = processor.map_or("unknown", |name| name.trim_start_matches([' ', '\t', ':']));
    let of = |program: &str| {
        let output = Command::new(program).arg("--version").output();
        output.map_or_else(
            |_| "not found".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
    };
    let package = |name: &str| {
        let text =
            std::fs::read_to_string(modules.join("node_modules").join(name).join("package.json"));
        let package: Option<Value> = text.ok().and_then(|text| serde_json::from_str(&text).ok());
        package
            .and_then(|package| Some(format!("{name} {}", package["version"].as_str()?)))
            .unwrap_or_default()
    };
    format!(
        "{cores} cores of {processor}; {}; Node {}, {}, {}, {}",
        of("redis-server"),
        of("node"),
        package("bullmq"),
        package("sharp"),
        package("fastify")
    )
}
