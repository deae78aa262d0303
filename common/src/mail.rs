//! What mails say: subject, text and HTML, in English and German. [`render`] makes one; sending is
//! not here.
//!
//! A mail says nothing that is not needed, loads nothing from elsewhere, and counts nothing: no
//! images, no tracking. Names that people chose are shortened, and left out if they look like an
//! address, because a stranger's inbox would turn them into links.

pub mod address;
mod content;
mod english;
mod german;
mod layout;
mod names;

pub use content::{Language, Mail};

/// A mail's content, without recipient and headers. It contains a secret if the mail has a link, so
/// it has no `Debug`.
pub struct Rendered {
    /// One line.
    pub subject: String,
    /// The plain text, with `\n` after each line.
    pub text: String,
    /// The same as a page of HTML.
    pub html: String,
}

/// Renders a mail. `product` is the name under which the reader knows this service.
pub fn render(mail: &Mail<'_>, language: Language, product: &str) -> Rendered {
    let product = names::one_line(product);
    let content = match language {
        Language::English => english::content(mail, product),
        Language::German => german::content(mail, product),
    };
    Rendered {
        text: layout::text(&content),
        html: layout::html(&content, language),
        subject: content.subject,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use secrecy::SecretString;
    use time::macros::datetime;

    use super::*;

    const LANGUAGES: [Language; 2] = [Language::English, Language::German];

    /// Renders every kind of mail with these names.
    fn every(link: &SecretString, name: &str) -> Vec<Rendered> {
        let valid = Duration::from_hours(24);
        let mails = [
            Mail::Verification { link, valid },
            Mail::PasswordReset { link, valid },
            Mail::Invitation {
                link,
                valid,
                inviter: name,
                tenant: name,
            },
            Mail::NewDevice {
                at: datetime!(2026-11-29 09:05 UTC),
                device: name,
                network: "203.0.113.0/24",
            },
        ];
        let mails = mails.iter();
        mails
            .flat_map(|mail| LANGUAGES.map(|language| render(mail, language, "Studio")))
            .collect()
    }

    #[test]
    fn every_mail_has_a_link_in_text_and_html() {
        let link = SecretString::from("https://studio.example/verify?a=1&b=2#tok.secret");
        let mails = every(&link, "Ada");
        assert_eq!(mails.len(), 8);
        for mail in &mails[..6] {
            let Rendered {
                subject,
                text,
                html,
            } = mail;
            assert!(
                text.contains("\nhttps://studio.example/verify?a=1&b=2#tok.secret\n"),
                "{text}"
            );
            assert!(
                html.contains("href=\"https://studio.example/verify?a=1&amp;b=2#tok.secret\""),
                "{html}"
            );
            assert!(!subject.contains("secret"), "{subject}");
        }
        for mail in &mails[6..] {
            assert!(!mail.html.contains("href"), "{}", mail.html);
            assert!(mail.text.contains("203.0.113.0/24"), "{}", mail.text);
        }
        for mail in &mails {
            assert!(mail.text.contains("Studio") && mail.html.contains("Studio"));
            assert!(
                !mail.html.contains("<img") && !mail.html.contains("src="),
                "loads nothing"
            );
            assert!(mail.subject.len() < 150 && mail.text.lines().all(|line| line.len() < 998));
        }
    }

    #[test]
    fn the_languages_differ_and_say_the_same() {
        let link = SecretString::from("https://studio.example/#x");
        for pair in every(&link, "Ada").chunks(2) {
            let [english, german] = pair else {
                panic!("two languages")
            };
            assert_ne!(english.subject, german.subject);
            assert!(english.html.contains("lang=\"en\"") && german.html.contains("lang=\"de\""));
            assert_eq!(english.text.lines().count(), german.text.lines().count());
            assert_eq!(
                english.html.matches('<').count(),
                german.html.matches('<').count()
            );
        }
    }

    /// Names that try to add headers, HTML, links or pages of text.
    #[test]
    fn a_name_adds_nothing_to_a_mail() {
        let link = SecretString::from("https://studio.example/#x");
        let harmless: Vec<usize> = every(&link, "Ada")
            .iter()
            .map(|mail| mail.text.lines().count())
            .collect();
        for name in [
            "Ada\r\nBcc: everybody@example.com",
            "Ada\u{2028}\u{85}x",
            "<script>alert(1)</script>",
            "\"><a href=\"https://evil.example\">x</a>",
            "Win a prize at https://evil.example",
            "evil.example",
            "www.evil",
            "mail me@evil",
            "\u{202e}reversed",
            &"long ".repeat(100),
            "",
            " ",
        ] {
            for (mail, lines) in every(&link, name).iter().zip(&harmless) {
                let Rendered {
                    subject,
                    text,
                    html,
                } = mail;
                assert!(!subject.chars().any(char::is_control), "{subject:?}");
                assert!(subject.len() < 200, "{subject}");
                assert_eq!(text.lines().count(), *lines, "{text}");
                assert!(
                    !html.contains("<script") && !html.contains("evil"),
                    "{html}"
                );
                assert!(
                    !text.contains("evil") && !subject.contains("evil"),
                    "{text}"
                );
                assert!(!text.contains('\u{202e}') && !subject.contains('\u{202e}'));
            }
        }
    }
}
