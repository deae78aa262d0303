//! Lanes: where a model can be called. Rate limits and circuit breakers apply to one lane each, so
//! trouble on one lane does not affect the others.

use std::fmt;
use std::str::FromStr;

/// One provider, project, location and model. As text: `vertex/global/gemini-3-pro-image`, or
/// `vertex:studio-2/us/gemini-3-pro-image` if the project is not the provider's default.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// Name of the provider.
    pub provider: String,
    /// The provider's project. `None`: its default.
    pub project: Option<String>,
    /// The provider's location, such as `global`.
    pub location: String,
    /// Catalogue id of the model. On a fallback lane it can be an equivalent model.
    pub model: String,
}

/// A text is not a lane.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a lane: expected provider/location/model or provider:project/location/model")]
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
        let invalid = || InvalidLane(text.to_owned());
        let (provider, rest) = text.split_once('/').ok_or_else(invalid)?;
        let (location, model) = rest.split_once('/').ok_or_else(invalid)?;
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
    fn a_lane_survives_the_round_trip() {
        for text in ["vertex/global/gemini-3-pro-image", "vertex:studio-2/us/x"] {
            assert_eq!(text.parse::<Lane>().unwrap().to_string(), text);
        }
        assert!("vertex".parse::<Lane>().is_err());
    }
}
