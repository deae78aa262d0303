//! Warnings about models that their provider shuts down.

use time::Date;

use super::{Catalog, Model};

/// How soon a model is shut down. It decides the level of the log message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Within 60 days, or already shut down.
    Soon,
    /// Within 30 days.
    Near,
    /// Within 7 days.
    Now,
}

/// A warning about one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// How soon it is shut down.
    pub urgency: Urgency,
    /// Which model, when, and what to use instead.
    pub words: String,
}

/// A warning for every model that was shut down or will be within 60 days of `today`, the earliest
/// first.
pub fn warnings(catalog: &Catalog, today: Date) -> Vec<Warning> {
    let mut found: Vec<(i64, Warning)> = catalog
        .models()
        .filter_map(|model| {
            let days_left = model.days_left(today)?;
            Some((days_left, warning(model, days_left)?))
        })
        .collect();
    found.sort_by_key(|(days_left, _)| *days_left);
    found.into_iter().map(|(_, warning)| warning).collect()
}

/// The warning about a model that is shut down in `days_left` days. `None` if that is later than in
/// 60 days.
fn warning(model: &Model, days_left: i64) -> Option<Warning> {
    let urgency = match days_left {
        1..=7 => Urgency::Now,
        8..=30 => Urgency::Near,
        // A model that is already gone is no emergency: its jobs are rejected or use the successor.
        31..=60 | ..=0 => Urgency::Soon,
        _ => return None,
    };
    let day = model.shut_down?;
    let when = match days_left {
        ..=0 => format!("was shut down on {day}"),
        1 => format!("shuts down tomorrow, on {day}"),
        days => format!("shuts down in {days} days, on {day}"),
    };
    let instead = match &model.successor {
        Some(successor) => format!("its successor is {successor}"),
        None => "no successor is known".to_owned(),
    };
    Some(Warning {
        urgency,
        words: format!("{} {when}; {instead}", model.id),
    })
}

#[cfg(test)]
mod tests {
    use time::macros::date;

    use super::*;

    #[test]
    fn urgency_grows_as_the_shut_down_comes_near() {
        let catalog = Catalog::load(None, None).unwrap();
        let warning_on = |today| {
            let warnings = warnings(&catalog, today).into_iter();
            let mut ours = warnings.filter(|one| one.words.starts_with("gemini-2.5-flash-image"));
            ours.next().map(|one| (one.urgency, one.words))
        };
        assert_eq!(warning_on(date!(2027 - 01 - 13)), None);
        for (day, urgency, words) in [
            (
                date!(2027 - 01 - 14),
                Urgency::Soon,
                "shuts down in 60 days, on 2027-03-15",
            ),
            (
                date!(2027 - 02 - 13),
                Urgency::Near,
                "shuts down in 30 days",
            ),
            (date!(2027 - 03 - 08), Urgency::Now, "shuts down in 7 days"),
            (date!(2027 - 03 - 14), Urgency::Now, "shuts down tomorrow"),
            (
                date!(2027 - 04 - 01),
                Urgency::Soon,
                "was shut down on 2027-03-15; its successor is gemini-nano-banana-2.1",
            ),
        ] {
            let (found, text) = warning_on(day).unwrap();
            assert_eq!(found, urgency, "{day}");
            assert!(text.contains(words), "{text}");
        }
    }
}
