//! Values of environment variables by type: texts, secrets, numbers within bounds, lists and
//! networks.

use std::env;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use secrecy::SecretString;

use super::ConfigError;
use crate::connector;

/// Reads a secret as [`secret_text`] does, and refuses one with fewer than 32 characters.
pub(super) fn long_secret(name: &str) -> Result<Option<SecretString>, ConfigError> {
    match secret_text(name)? {
        Some(key) if key.chars().count() < 32 => Err(ConfigError::Unusable {
            name: name.to_owned(),
            problem: "it has fewer than 32 characters".to_owned(),
        }),
        key => Ok(key.map(SecretString::from)),
    }
}

/// Reads a secret from the variable `name`, or from the file that `<name>_FILE` names. The
/// catalogue names such variables for the keys of providers.
///
/// # Errors
/// Returns an error if the secret is blank, begins or ends with white space, or contains a control
/// character, or if its file cannot be read.
pub fn secret(name: &str) -> Result<Option<SecretString>, ConfigError> {
    Ok(secret_text(name)?.map(SecretString::from))
}

/// Reads a secret, and refuses one that is blank, begins or ends with white space, or contains a
/// control character. Such a secret would not arrive unchanged in an HTTP header.
pub(super) fn secret_text(name: &str) -> Result<Option<String>, ConfigError> {
    let text = text(name)?;
    if let Some(problem) = text.as_deref().and_then(secret_problem) {
        return Err(ConfigError::Unusable {
            name: name.to_owned(),
            problem: problem.to_owned(),
        });
    }
    Ok(text)
}

/// What is wrong with the characters of a secret; `None` if nothing is.
pub(super) fn secret_problem(secret: &str) -> Option<&'static str> {
    if secret.trim().is_empty() {
        Some("it is blank")
    } else if secret.trim() != secret {
        Some("it begins or ends with white space")
    } else if secret.chars().any(char::is_control) {
        Some("it has a control character in it, such as the end of a line")
    } else {
        None
    }
}

/// Reads a list of texts separated by commas; `None` if it is empty.
pub(super) fn list(name: &str) -> Result<Option<Vec<String>>, ConfigError> {
    let list = text(name)?.unwrap_or_default();
    let items = list.split(',').map(|item| item.trim().to_owned());
    let items: Vec<String> = items.filter(|item| !item.is_empty()).collect();
    Ok((!items.is_empty()).then_some(items))
}

/// Reads networks separated by commas. A single address counts as a network that contains only this
/// address.
pub(super) fn networks(name: &str) -> Result<Vec<IpNet>, ConfigError> {
    let items = list(name)?.unwrap_or_default().into_iter();
    items
        .map(|item| {
            let address = item.parse::<IpAddr>().map(IpNet::from);
            address
                .or_else(|_| item.parse())
                .map_err(|_| ConfigError::Unusable {
                    name: name.to_owned(),
                    problem: format!(
                        "{item:?} is neither an address nor a network such as 10.0.0.0/8"
                    ),
                })
        })
        .collect()
}

/// Reads networks as [`networks`] does, and refuses one that is not wholly private.
pub(super) fn private_networks(name: &str) -> Result<Vec<IpNet>, ConfigError> {
    let networks = networks(name)?;
    match networks.iter().find(|net| !connector::may_be_allowed(net)) {
        Some(other) => Err(ConfigError::Unusable {
            name: name.to_owned(),
            problem: format!(
                "{other} is not a private network, such as 10.0.0.0/8, 192.168.0.0/16 or 127.0.0.0/8"
            ),
        }),
        None => Ok(networks),
    }
}

/// Reads a secret and parses it. The error does not show it.
pub(super) fn parsed_secret<T: FromStr<Err: std::fmt::Display>>(
    name: &'static str,
) -> Result<Option<T>, ConfigError> {
    let parse = |value: String| {
        value
            .parse()
            .map_err(|error: T::Err| ConfigError::Unusable {
                name: name.to_owned(),
                problem: error.to_string(),
            })
    };
    text(name)?.map(parse).transpose()
}

/// Reads the content of the file that the variable `<name>_FILE` names, or, without that variable,
/// the value of `name`. An empty value counts as not set.
pub(super) fn text(name: &str) -> Result<Option<String>, ConfigError> {
    let value = match env::var(format!("{name}_FILE")) {
        Ok(file) => std::fs::read_to_string(&file)
            .map(|text| text.trim_end().to_owned())
            .map_err(|error| ConfigError::Unusable {
                name: name.to_owned(),
                problem: format!("{file} cannot be read: {error}"),
            })?,
        Err(_) => env::var(name).unwrap_or_default(),
    };
    Ok((!value.is_empty()).then_some(value))
}

/// Reads a value and parses it.
pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(
    name: &'static str,
) -> Result<Option<T>, ConfigError> {
    text(name)?
        .map(|value| {
            value
                .parse()
                .map_err(|error: T::Err| ConfigError::Unusable {
                    name: name.to_owned(),
                    problem: format!("{value:?}: {error}"),
                })
        })
        .transpose()
}

/// Reads a number, which must be from `min` to `max`.
pub(super) fn within(name: &'static str, min: u64, max: u64) -> Result<Option<u64>, ConfigError> {
    match parsed(name)? {
        Some(value) if !(min..=max).contains(&value) => Err(ConfigError::Unusable {
            name: name.to_owned(),
            problem: format!("{value} is not from {min} to {max}"),
        }),
        value => Ok(value),
    }
}
