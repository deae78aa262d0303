//! The form of all mails: as plain text, and as a page of HTML.

use std::fmt::Write;

use secrecy::ExposeSecret;

use super::content::{Content, Language};

/// The mail as plain text. A link stands alone on its line, so that every program recognizes it.
pub(super) fn text(content: &Content<'_>) -> String {
    let mut text = String::new();
    for paragraph in &content.paragraphs {
        let _infallible = writeln!(text, "{paragraph}\n");
    }
    if let Some((label, link)) = &content.action {
        let _infallible = writeln!(text, "{label}:\n{}\n", link.expose_secret());
    }
    let _infallible = writeln!(text, "{}\n\n-- \n{}", content.note, content.product);
    text
}

/// The mail as a page of HTML without anything that is loaded.
pub(super) fn html(content: &Content<'_>, language: Language) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"{}\">\n<head><meta charset=\"utf-8\"><title>{}</title></head>\n\
         <body style=\"font:16px/1.5 sans-serif;color:#222;max-width:36em;margin:2em auto;padding:0 1em\">\n",
        language.tag(),
        escaped(&content.subject)
    );
    for paragraph in &content.paragraphs {
        let _infallible = writeln!(html, "<p>{}</p>", escaped(paragraph));
    }
    if let Some((label, link)) = &content.action {
        let _infallible = writeln!(
            html,
            "<p><a href=\"{}\" style=\"display:inline-block;background:#222;color:#fff;padding:.6em 1.2em;text-decoration:none\">{}</a></p>",
            escaped(link.expose_secret()),
            escaped(label)
        );
    }
    let _infallible = writeln!(
        html,
        "<p style=\"color:#666;font-size:14px\">{}</p>\n<p style=\"color:#666;font-size:14px\">{}</p>\n</body>\n</html>",
        escaped(&content.note),
        escaped(&content.product)
    );
    html
}

/// A text as HTML, also inside an attribute.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            char => escaped.push(char),
        }
    }
    escaped
}
