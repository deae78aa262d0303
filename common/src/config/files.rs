//! Where objects are kept, and how links to them are given out.

use std::env;
use std::time::Duration;

use bucket::{Address, BadAddress, LINK_LIFETIMES};

use super::ConfigError;
use super::values::{text, within};
use super::variables::VARIABLES;

/// How files are served.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    /// Whether the api serves all files, even if the store can sign links. For a store that clients
    /// cannot reach. Otherwise the store serves the files itself, if it can sign links.
    pub through_api: bool,
    /// How long a link works.
    pub lifetime: Duration,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            through_api: false,
            lifetime: Duration::from_mins(15),
        }
    }
}

/// Reads `PLATEN_LINKS` and `PLATEN_LINK_SECONDS`.
pub(super) fn links() -> Result<Links, ConfigError> {
    const NAME: &str = "PLATEN_LINKS";
    let defaults = Links::default();
    Ok(Links {
        through_api: match text(NAME)?.as_deref() {
            None | Some("store") => false,
            Some("api") => true,
            Some(other) => {
                return Err(ConfigError::Unusable {
                    name: NAME.to_owned(),
                    problem: format!("{other:?} is neither store nor api"),
                });
            }
        },
        lifetime: within(
            "PLATEN_LINK_SECONDS",
            LINK_LIFETIMES.start().as_secs(),
            LINK_LIFETIMES.end().as_secs(),
        )?
        .map_or(defaults.lifetime, Duration::from_secs),
    })
}

/// Reads `PLATEN_BUCKET`, and all variables of AWS and Google that are set, also those that
/// [`VARIABLES`] does not list. A variable that [`VARIABLES`] lists may also be given as a file
/// (`<name>_FILE`).
pub(super) fn bucket() -> Result<Option<Address>, ConfigError> {
    const NAME: &str = "PLATEN_BUCKET";
    let Some(address) = text(NAME)? else {
        return Ok(None);
    };
    let from_environment = env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let value = value.into_string().ok()?;
        configures_bucket(&name).then_some((name, value))
    });
    let mut variables: Vec<(String, String)> = from_environment.collect();
    for (name, _) in VARIABLES.iter().filter(|(name, _)| configures_bucket(name)) {
        if let Some(value) = text(name)? {
            variables.push(((*name).to_owned(), value));
        }
    }
    let unusable = |bad: BadAddress| ConfigError::Unusable {
        name: NAME.to_owned(),
        problem: bad.to_string(),
    };
    Address::parse(&address, variables)
        .map(Some)
        .map_err(unusable)
}

/// Whether a variable configures the bucket's store.
pub(super) fn configures_bucket(name: &str) -> bool {
    Address::VARIABLES
        .iter()
        .any(|prefix| name.starts_with(prefix))
}
