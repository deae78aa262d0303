//! Logs: where they are written, in which format, and which lines.

use std::ffi::OsStr;
use std::io::IsTerminal;

use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::traces;
use super::traces::TraceExporter;

/// Why a variable of the logs cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogConfigError {
    /// `PLATEN_LOG` is not a filter.
    #[error(
        "PLATEN_LOG is not usable: {0}. It is a level (error, warn, info, debug, trace or off), or levels for parts of the program, such as `info,sqlx=debug`"
    )]
    Filter(String),
    /// `PLATEN_LOG_FORMAT` is not a format.
    #[error("PLATEN_LOG_FORMAT is not usable: {0:?} is neither text nor json")]
    Format(String),
}

/// Starts logging to standard error, configured by `PLATEN_LOG` and `PLATEN_LOG_FORMAT`, and the
/// export of traces if a collector is configured. The caller must keep the returned value until
/// the process ends. Dropping it sends the last traces.
///
/// # Errors
/// Returns an error if one of the two variables is not valid. Nothing is logged in that case.
pub fn start() -> Result<TraceExporter, LogConfigError> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let filter = filter(&variable("PLATEN_LOG"))?;
    let json = is_json(&variable("PLATEN_LOG_FORMAT"))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // Otherwise the library reports a failed write on the same standard error and panics.
        .log_internal_errors(false)
        .with_ansi(is_colored(
            std::io::stderr().is_terminal(),
            std::env::var_os("NO_COLOR").as_deref(),
        ))
        .with_target(false);
    let lines = if json {
        lines.json().boxed()
    } else {
        lines.compact().boxed()
    };
    let (is_trace, is_line) = (
        filter_fn(|metadata| metadata.target() == traces::TARGET),
        filter_fn(|metadata| metadata.target() != traces::TARGET),
    );
    let (spans, exporter) = traces::layer().unzip();
    let registry = tracing_subscriber::registry()
        .with(spans.with_filter(is_trace))
        .with(lines.with_filter(filter.and(is_line)));
    // A second start in the same process, as in tests, changes nothing.
    let _started = registry.try_init();
    Ok(exporter.unwrap_or_default())
}

/// Whether log lines are colored: only on a terminal, and not if `NO_COLOR` has a value
/// (<https://no-color.org>).
pub(super) fn is_colored(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

/// Parses `PLATEN_LOG`. A directive without `=` must be a level. The library would take any other
/// word as the name of a part of the program, and log only that part.
pub(super) fn filter(text: &str) -> Result<EnvFilter, LogConfigError> {
    let mut directives = Vec::new();
    for directive in text.split(',').map(str::trim) {
        // Empty directives are left out. Directives with a span or a field are left to the library.
        if directive.is_empty() || directive.contains(['[', '{']) {
            directives.extend((!directive.is_empty()).then(|| directive.to_owned()));
            continue;
        }
        directives.push(match directive.split_once('=') {
            None => level(directive)?.to_owned(),
            Some((part, named)) => format!("{part}={}", level(named)?),
        });
    }
    if directives.is_empty() {
        directives.push("info".to_owned());
    }
    EnvFilter::try_new(directives.join(","))
        .map_err(|error| LogConfigError::Filter(error.to_string()))
}

/// Parses the name of a level, including names that other programs use.
pub(super) fn level(name: &str) -> Result<&'static str, LogConfigError> {
    let level = match name.trim().to_ascii_lowercase().as_str() {
        "off" | "none" => "off",
        "error" | "err" | "critical" | "fatal" | "1" => "error",
        "warn" | "warning" | "2" => "warn",
        "info" | "information" | "notice" | "3" => "info",
        "debug" | "4" => "debug",
        "trace" | "verbose" | "5" => "trace",
        _ => return Err(LogConfigError::Filter(format!("{name:?} is no level"))),
    };
    Ok(level)
}

/// Whether log lines are JSON, by `PLATEN_LOG_FORMAT`. The default is text.
pub(super) fn is_json(format: &str) -> Result<bool, LogConfigError> {
    match format {
        "" | "text" => Ok(false),
        "json" => Ok(true),
        other => Err(LogConfigError::Format(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_need_a_terminal_and_no_no_color() {
        let set = |value: &'static str| Some(OsStr::new(value));
        assert!(is_colored(true, None) && is_colored(true, set("")));
        assert!(!is_colored(true, set("1")) && !is_colored(false, None));
        assert!(!is_colored(false, set("")));
    }

    #[test]
    fn levels_have_common_names_and_others_are_refused() {
        for (text, means) in [
            ("", "info"),
            ("warning", "warn"),
            ("WARN", "warn"),
            ("err,sqlx=Warning", "sqlx=warn,error"),
            ("info, sqlx=debug", "sqlx=debug,info"),
            ("off", "off"),
        ] {
            assert_eq!(filter(text).unwrap().to_string(), means, "{text}");
        }
        for text in [
            "warnings",
            "loud",
            "sqlx=loud",
            "info,",
            "sqlx",
            "a b=info=x",
        ] {
            let parsed = filter(text);
            let is_valid = text == "info,";
            assert_eq!(parsed.is_ok(), is_valid, "{text}");
            if let Err(error) = parsed {
                assert!(error.to_string().contains("error, warn, info"), "{error}");
            }
        }
        assert_eq!(
            (is_json(""), is_json("text"), is_json("json")),
            (Ok(false), Ok(false), Ok(true))
        );
        assert_eq!(
            is_json("jsno"),
            Err(LogConfigError::Format("jsno".to_owned()))
        );
    }
}
