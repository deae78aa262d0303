//! Every mail in German, with the formal address.

use std::time::Duration;

use time::UtcOffset;
use time::macros::format_description;

use super::content::{Content, Mail, lifetime};
use super::names::harmless;

/// The content of a mail.
pub(super) fn content<'a>(mail: &Mail<'a>, product: String) -> Content<'a> {
    let works = |valid: &Duration| {
        let (count, unit) = lifetime(*valid);
        let units = match count {
            1 => ["Minute", "Stunde", "Tag"],
            _ => ["Minuten", "Stunden", "Tage"],
        };
        format!(
            "Der Link funktioniert einmal und ist {count} {} gültig.",
            units[unit]
        )
    };
    match mail {
        Mail::Verification { link, valid } => Content {
            subject: format!("Bestätigen Sie Ihre E-Mail-Adresse für {product}"),
            paragraphs: vec![
                format!("Bitte bestätigen Sie, dass diese Adresse Ihnen gehört, um sie mit {product} zu verwenden."),
                works(valid),
            ],
            action: Some(("Adresse bestätigen", *link)),
            note: format!("Wenn Sie sich nicht bei {product} angemeldet haben, beachten Sie diese Mail nicht. Es geschieht nichts."),
            product,
        },
        Mail::PasswordReset { link, valid } => Content {
            subject: format!("Wählen Sie ein neues Passwort für {product}"),
            paragraphs: vec![
                format!("Jemand hat ein neues Passwort für Ihr Konto bei {product} angefordert."),
                works(valid),
            ],
            action: Some(("Neues Passwort wählen", *link)),
            note: "Wenn Sie das nicht waren, beachten Sie diese Mail nicht. Ihr Passwort bleibt, wie es ist.".to_owned(),
            product,
        },
        Mail::Invitation { link, valid, inviter, tenant } => {
            let inviter = harmless(inviter).unwrap_or_else(|| "Jemand".to_owned());
            let tenant = harmless(tenant).map_or_else(|| "in ein Team".to_owned(), |name| format!("zu „{name}“"));
            Content {
                subject: format!("{inviter} lädt Sie {tenant} bei {product} ein"),
                paragraphs: vec![
                    format!("{inviter} lädt Sie {tenant} bei {product} ein."),
                    works(valid),
                ],
                action: Some(("Einladung annehmen", *link)),
                note: "Wenn Sie nicht wissen, wer Sie einlädt, beachten Sie diese Mail nicht. Es geschieht nichts.".to_owned(),
                product,
            }
        }
        Mail::NewDevice { at, device, network } => {
            let device = harmless(device).unwrap_or_else(|| "ein unbekanntes Gerät".to_owned());
            let at = at.to_offset(UtcOffset::UTC).format(format_description!("[day].[month].[year], [hour]:[minute] Uhr UTC"));
            Content {
                subject: format!("Neue Anmeldung bei Ihrem Konto bei {product}"),
                paragraphs: vec![
                    format!("Es gab eine Anmeldung bei Ihrem Konto bei {product} von einem Gerät, das bisher nicht benutzt wurde."),
                    format!("Zeit: {}", at.unwrap_or_default()),
                    format!("Gerät: {device}"),
                    format!("Netz: {network}"),
                ],
                action: None,
                note: "Wenn Sie das nicht waren, ändern Sie Ihr Passwort und beenden Sie diese Sitzung in Ihren Einstellungen.".to_owned(),
                product,
            }
        }
    }
}
