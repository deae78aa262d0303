//! A lane: where a model may be called. What one lane suffers, no other feels.

use std::fmt;
use std::str::FromStr;

/// One provider, project, location and model. Written `vertex/global/gemini-3-pro-image`, and
/// `vertex:studio-2/us/gemini-3-pro-image` where the project is not the provider's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    pub provider: String,
    pub project: Option<String>,
    pub location: String,
    /// Id in the catalogue: an equivalent model's, where the fallback is one.
    pub model: String,
}

/// A text that names no lane.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no lane")]
pub struct InvalidLane(String);

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.provider)?;
        if let Some(project) = &self.project {
            write!(f, ":{project}")?;
        }
        write!(f, "/{}/{}", self.location, self.model)
    }
}

impl FromStr for Lane {
    type Err = InvalidLane;

    fn from_str(text: &str) -> Result<Self, InvalidLane> {
        let no_lane = || InvalidLane(text.to_owned());
        let (provider, rest) = text.split_once('/').ok_or_else(no_lane)?;
        let (location, model) = rest.split_once('/').ok_or_else(no_lane)?;
        let (provider, project) = match provider.split_once(':') {
            Some((provider, project)) => (provider, Some(project.to_owned())),
            None => (provider, None),
        };
        Ok(Self {
            provider: provider.to_owned(),
            project,
            location: location.to_owned(),
            model: model.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_read_as_it_is_written() {
        for text in ["vertex/global/gemini-3-pro-image", "vertex:studio-2/us/x"] {
            assert_eq!(text.parse::<Lane>().unwrap().to_string(), text);
        }
        assert!("vertex".parse::<Lane>().is_err());
    }
}
