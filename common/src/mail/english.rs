//! Every mail in English.

use std::time::Duration;

use time::UtcOffset;
use time::macros::format_description;

use super::content::{Content, Mail, lifetime};
use super::names::harmless;

/// The content of a mail.
pub(super) fn content<'a>(mail: &Mail<'a>, product: String) -> Content<'a> {
    let works = |valid: &Duration| {
        let (count, unit) = lifetime(*valid);
        let unit = ["minute", "hour", "day"][unit];
        let plural = if count == 1 { "" } else { "s" };
        format!("The link works once, for {count} {unit}{plural}.")
    };
    match mail {
        Mail::Verification { link, valid } => Content {
            subject: format!("Confirm your e-mail address for {product}"),
            paragraphs: vec![
                format!("Please confirm that this address is yours, to use it with {product}."),
                works(valid),
            ],
            action: Some(("Confirm this address", *link)),
            note: format!(
                "If you did not sign up for {product}, ignore this mail. Nothing happens."
            ),
            product,
        },
        Mail::PasswordReset { link, valid } => Content {
            subject: format!("Choose a new password for {product}"),
            paragraphs: vec![
                format!("Somebody asked for a new password for your account with {product}."),
                works(valid),
            ],
            action: Some(("Choose a new password", *link)),
            note: "If it was not you, ignore this mail. Your password stays as it is.".to_owned(),
            product,
        },
        Mail::Invitation {
            link,
            valid,
            inviter,
            tenant,
        } => {
            let inviter = harmless(inviter).unwrap_or_else(|| "Somebody".to_owned());
            let tenant =
                harmless(tenant).map_or_else(|| "a team".to_owned(), |name| format!("“{name}”"));
            Content {
                subject: format!("{inviter} invites you to {tenant} on {product}"),
                paragraphs: vec![
                    format!("{inviter} invites you to join {tenant} on {product}."),
                    works(valid),
                ],
                action: Some(("Accept the invitation", *link)),
                note: "If you do not know who invites you, ignore this mail. Nothing happens."
                    .to_owned(),
                product,
            }
        }
        Mail::NewDevice {
            at,
            device,
            network,
        } => {
            let device = harmless(device).unwrap_or_else(|| "an unknown device".to_owned());
            let at = at.to_offset(UtcOffset::UTC).format(format_description!(
                "[year]-[month]-[day] [hour]:[minute] UTC"
            ));
            Content {
                subject: format!("New sign-in to your account with {product}"),
                paragraphs: vec![
                    format!(
                        "There was a sign-in to your account with {product} from a device that was not used before."
                    ),
                    format!("Time: {}", at.unwrap_or_default()),
                    format!("Device: {device}"),
                    format!("Network: {network}"),
                ],
                action: None,
                note:
                    "If it was not you, change your password and end that session in your settings."
                        .to_owned(),
                product,
            }
        }
    }
}
