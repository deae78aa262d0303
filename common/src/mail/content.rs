//! What a mail is made of: its kind and values, its language, and the words that they become.

use std::time::Duration;

use secrecy::SecretString;
use time::OffsetDateTime;

/// A mail and the values in it.
pub enum Mail<'a> {
    /// Asks whether an address belongs to whoever signed up with it.
    Verification {
        /// The link that confirms.
        link: &'a SecretString,
        /// How long the link works.
        valid: Duration,
    },
    /// Lets a person choose a new password.
    PasswordReset {
        /// The link to the form.
        link: &'a SecretString,
        /// How long the link works.
        valid: Duration,
    },
    /// Invites somebody to a tenant.
    Invitation {
        /// The link that accepts.
        link: &'a SecretString,
        /// How long the link works.
        valid: Duration,
        /// The name of who invites.
        inviter: &'a str,
        /// The name of the tenant.
        tenant: &'a str,
    },
    /// Tells a person of a sign-in from a device that was not seen before.
    NewDevice {
        /// When.
        at: OffsetDateTime,
        /// What the browser calls itself.
        device: &'a str,
        /// The address or network it came from.
        network: &'a str,
    },
}

/// A language that mails are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    /// Of everybody whose language we do not have.
    #[default]
    English,
    /// German, with the formal address.
    German,
}

impl Language {
    /// The language of a tag such as `de-AT`, or English.
    pub fn from_tag(tag: &str) -> Self {
        let primary = tag.split(['-', '_']).next().unwrap_or_default();
        if primary.eq_ignore_ascii_case("de") {
            Self::German
        } else {
            Self::English
        }
    }

    /// The tag of the language.
    pub fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::German => "de",
        }
    }
}

/// What a mail says, before it has a form.
pub(super) struct Content<'a> {
    pub(super) subject: String,
    pub(super) paragraphs: Vec<String>,
    /// The label of the link, and the link.
    pub(super) action: Option<(&'static str, &'a SecretString)>,
    /// What to do if the reader did not expect the mail.
    pub(super) note: String,
    pub(super) product: String,
}

/// A time in its largest unit without a remainder: 0 for minutes, 1 for hours, 2 for days. One day is
/// 24 hours.
pub(super) fn lifetime(valid: Duration) -> (u64, usize) {
    let minutes = valid.as_secs() / 60;
    if minutes > 1_440 && minutes.is_multiple_of(1_440) {
        (minutes / 1_440, 2)
    } else if minutes.is_multiple_of(60) {
        (minutes / 60, 1)
    } else {
        (minutes, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_has_the_right_unit() {
        for (minutes, expected) in [
            (15, (15, 0)),
            (60, (1, 1)),
            (90, (90, 0)),
            (120, (2, 1)),
            (1_440, (24, 1)),
            (2_880, (2, 2)),
            (10_080, (7, 2)),
        ] {
            assert_eq!(
                lifetime(Duration::from_mins(minutes)),
                expected,
                "{minutes}"
            );
        }
    }

    #[test]
    fn an_unknown_language_is_english() {
        for (tag, expected) in [
            ("de", Language::German),
            ("DE-at", Language::German),
            ("de_CH", Language::German),
            ("den", Language::English),
            ("fr", Language::English),
            ("", Language::English),
        ] {
            assert_eq!(Language::from_tag(tag), expected, "{tag:?}");
        }
    }
}
