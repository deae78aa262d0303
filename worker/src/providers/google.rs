//! What the clients of Google's services share: credentials and the format of errors.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use domain::outcome::table::{self, Dialect};
use domain::outcome::{Class, Failure};
use google_cloud_auth::credentials::{AccessTokenCredentials, Builder};
use reqwest::{RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

use super::http::{Received, describe_status};

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// The credentials that requests are sent with.
pub(super) enum Credentials {
    /// A service account, with access tokens that expire.
    Token(Mutex<AccessTokenCredentials>),
    /// An API key of the Gemini Developer API.
    Key(SecretString),
    /// Any token, for a fake.
    AnyToken,
}

impl Credentials {
    /// The credentials of the environment: `GOOGLE_APPLICATION_CREDENTIALS`, or those of the
    /// machine on Google Cloud.
    ///
    /// # Errors
    ///
    /// Returns an error if there are none.
    pub(super) fn from_environment() -> anyhow::Result<Self> {
        Ok(Self::Token(Mutex::new(access_tokens()?)))
    }

    /// Adds the credentials to a request.
    ///
    /// # Errors
    ///
    /// Returns an error if Google issues no access token. In that case nothing was sent.
    pub(super) async fn authorize(
        &self,
        request: RequestBuilder,
    ) -> Result<RequestBuilder, Failure> {
        match self {
            Self::Key(key) => Ok(request.header("x-goog-api-key", key.expose_secret())),
            Self::AnyToken => Ok(request.bearer_auth("fake")),
            Self::Token(tokens) => {
                let tokens = tokens
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                let token = tokens.access_token().await;
                // Nothing was sent, so the call is free: `unreachable`, not `unknown`.
                let token = token.map_err(|error| {
                    let detail = format!("no Google access token: {error}");
                    Failure::new(Class::Unreachable, detail)
                })?;
                Ok(request.bearer_auth(token.token))
            }
        }
    }

    /// Forgets the token after it was refused. The next request gets a new token. If the
    /// credentials cannot be read again, the old ones stay.
    pub(super) fn reset(&self) {
        if let Self::Token(current) = self
            && let Ok(tokens) = access_tokens()
        {
            *current.lock().unwrap_or_else(PoisonError::into_inner) = tokens;
        }
    }
}

fn access_tokens() -> anyhow::Result<AccessTokenCredentials> {
    Builder::default()
        .with_scopes([SCOPE])
        .build_access_token_credentials()
        .context("Google credentials are missing: set GOOGLE_APPLICATION_CREDENTIALS or run on Google Cloud")
}

/// The body of an error (`google.rpc.Status`). Some of Google's front ends put the error into a
/// list.
#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorBody {
    One { error: Status },
    Many(Vec<WrappedStatus>),
}

#[derive(Deserialize)]
struct WrappedStatus {
    error: Status,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Vec<Value>,
}

/// Classifies an answer whose HTTP status is not a success.
pub(super) fn http_failure(dialect: Dialect, received: &Received) -> Failure {
    let status = match received.body.read() {
        Ok(ErrorBody::One { error }) => error,
        Ok(ErrorBody::Many(list)) => list
            .into_iter()
            .next()
            .map(|wrapped| wrapped.error)
            .unwrap_or_default(),
        Err(_) => Status::default(),
    };
    let code = received.status;
    let answer_signal = if code == StatusCode::TOO_MANY_REQUESTS && status.is_permanent_quota() {
        "no_quota".to_owned()
    } else if status.blames_api_key() {
        // The Developer API answers 400 to an unknown key. This is our fault, not the tenant's.
        "status:401".to_owned()
    } else {
        format!("status:{}", code.as_u16())
    };
    let detail = describe_status(code, &status.message);
    let mut failure = Failure::new(table::class(dialect, &answer_signal), detail);
    failure.retry_after = status.retry_delay().or_else(|| received.retry_after());
    failure
}

impl Status {
    /// The details whose `@type` ends with `kind`.
    fn details_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.details.iter().filter(move |detail| {
            let name = detail["@type"].as_str();
            name.is_some_and(|name| name.ends_with(kind))
        })
    }

    /// The wait that `google.rpc.RetryInfo` asks for, such as "46s".
    fn retry_delay(&self) -> Option<Duration> {
        let delay = self.details_of("google.rpc.RetryInfo").next()?["retryDelay"].as_str()?;
        Duration::try_from_secs_f64(delay.strip_suffix('s')?.parse().ok()?).ok()
    }

    /// Whether `google.rpc.ErrorInfo` names the API key: `API_KEY_INVALID` and the like.
    fn blames_api_key(&self) -> bool {
        let mut reasons = self
            .details_of("google.rpc.ErrorInfo")
            .filter_map(|info| info["reason"].as_str());
        reasons.any(|reason| reason.starts_with("API_KEY_"))
    }

    /// Whether a retry within a job's time is useless: the message or `google.rpc.QuotaFailure`
    /// names a quota of zero, or `google.rpc.QuotaFailure` names a daily quota.
    fn is_permanent_quota(&self) -> bool {
        self.message.contains("limit: 0")
            || self
                .details_of("google.rpc.QuotaFailure")
                .filter_map(|failure| failure["violations"].as_array())
                .flatten()
                .any(|violation| {
                    violation["quotaId"]
                        .as_str()
                        .is_some_and(|id| id.contains("PerDay"))
                        || violation["quotaValue"] == "0"
                })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::http::ExtractedBody;
    use super::*;

    fn failure(code: u16, body: &Value) -> Failure {
        http_failure(
            Dialect::Gemini,
            &Received {
                status: StatusCode::from_u16(code).unwrap(),
                headers: reqwest::header::HeaderMap::new(),
                body: ExtractedBody::from_text(body.to_string()),
            },
        )
    }

    #[test]
    fn a_retry_delay_and_a_permanent_quota_are_read() {
        let details = |quota: &str| {
            json!({"error": {"message": "You exceeded your current quota", "details": [
                {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota}]},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "46.5s"},
            ]}})
        };
        let minute = failure(
            429,
            &details("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
        );
        assert_eq!(
            (minute.class, minute.retry_after),
            (Class::Throttled, Some(Duration::from_millis(46_500)))
        );
        let day = failure(
            429,
            &details("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
        );
        assert_eq!(day.class, Class::Config);
        let zero = json!({"error": {"message": "Quota exceeded, limit: 0, model: x"}});
        assert_eq!(failure(429, &zero).class, Class::Config);
    }

    #[test]
    fn an_unknown_api_key_is_a_config_failure() {
        let info = json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"});
        let refused = json!({"error": {"message": "API key not valid.", "details": [info]}});
        assert_eq!(failure(400, &refused).class, Class::Config);
    }

    #[test]
    fn a_status_is_classified_whatever_the_body_is() {
        assert_eq!(
            failure(404, &json!([{"error": {"message": "gone"}}])).detail,
            "HTTP 404: gone"
        );
        assert_eq!(failure(503, &json!("<html>")).class, Class::ProviderFault);
        assert_eq!(failure(302, &json!({})).class, Class::ProviderInvalid);
    }
}
