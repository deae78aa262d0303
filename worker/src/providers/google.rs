//! What Google's services share: who we are, and how they refuse.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use common::outcome::table::{self, Dialect};
use common::outcome::{Class, Failure};
use google_cloud_auth::credentials::{AccessTokenCredentials, Builder};
use reqwest::{RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

use super::http::{Received, describe_status};

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Who we are.
pub(super) enum Credentials {
    /// A service account, by tokens that expire.
    Token(Mutex<AccessTokenCredentials>),
    /// The key of the Gemini Developer API.
    Key(SecretString),
    /// A fake takes any token.
    AnyToken,
}

impl Credentials {
    pub(super) fn of_service_account() -> anyhow::Result<Self> {
        Ok(Self::Token(Mutex::new(tokens()?)))
    }

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
                // Nothing was sent, so nothing was bought.
                let token = token.map_err(|error| {
                    let detail = format!("no Google access token: {error}");
                    Failure::new(Class::Unreachable, detail)
                })?;
                Ok(request.bearer_auth(token.token))
            }
        }
    }

    /// Forgets the token that was refused; the next request gets a new one.
    pub(super) fn renew(&self) {
        if let Self::Token(kept) = self
            && let Ok(tokens) = tokens()
        {
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = tokens;
        }
    }
}

fn tokens() -> anyhow::Result<AccessTokenCredentials> {
    Builder::default()
        .with_scopes([SCOPE])
        .build_access_token_credentials()
        .context("Google credentials are missing: set GOOGLE_APPLICATION_CREDENTIALS or run on Google Cloud")
}

/// The body of an error (google.rpc.Status). Some of Google's front ends put it into a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Refusal {
    One { error: Status },
    Many(Vec<Wrapped>),
}

#[derive(Deserialize)]
struct Wrapped {
    error: Status,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Vec<Value>,
}

/// An answer with a status that is no success.
pub(super) fn refused(dialect: Dialect, received: &Received) -> Failure {
    let status = match received.body.read() {
        Ok(Refusal::One { error }) => error,
        Ok(Refusal::Many(list)) => list
            .into_iter()
            .next()
            .map(|wrapped| wrapped.error)
            .unwrap_or_default(),
        Err(_) => Status::default(),
    };
    let code = received.status;
    let sign = if code == StatusCode::TOO_MANY_REQUESTS && status.is_permanent_quota() {
        "no_quota".to_owned()
    } else if status.blames_api_key() {
        // The Developer API answers 400 to a key it does not know.
        "status:401".to_owned()
    } else {
        format!("status:{}", code.as_u16())
    };
    let detail = describe_status(code, &status.message);
    let mut failure = Failure::new(table::class(dialect, &sign), detail);
    failure.retry_after = status.retry_delay().or_else(|| received.retry_after());
    failure
}

impl Status {
    fn details_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.details.iter().filter(move |detail| {
            let named = detail["@type"].as_str();
            named.is_some_and(|named| named.ends_with(kind))
        })
    }

    /// `google.rpc.RetryInfo`: "46s".
    fn retry_delay(&self) -> Option<Duration> {
        let delay = self.details_of("google.rpc.RetryInfo").next()?["retryDelay"].as_str()?;
        Duration::try_from_secs_f64(delay.strip_suffix('s')?.parse().ok()?).ok()
    }

    /// `google.rpc.ErrorInfo`: `API_KEY_INVALID` and its like.
    fn blames_api_key(&self) -> bool {
        let mut reasons = self
            .details_of("google.rpc.ErrorInfo")
            .filter_map(|info| info["reason"].as_str());
        reasons.any(|reason| reason.starts_with("API_KEY_"))
    }

    /// A quota of zero, or one for the whole day (google.rpc.QuotaFailure).
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
        refused(
            Dialect::Gemini,
            &Received {
                status: StatusCode::from_u16(code).unwrap(),
                headers: reqwest::header::HeaderMap::new(),
                body: ExtractedBody::of(body.to_string()),
            },
        )
    }

    #[test]
    fn a_hint_is_read_and_a_quota_that_never_comes_back_is_known() {
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
    fn a_key_that_is_not_known_is_no_mistake_of_the_customer() {
        let info = json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"});
        let refused = json!({"error": {"message": "API key not valid.", "details": [info]}});
        assert_eq!(failure(400, &refused).class, Class::Config);
    }

    #[test]
    fn whatever_the_body_is_a_status_is_classified() {
        assert_eq!(
            failure(404, &json!([{"error": {"message": "gone"}}])).detail,
            "HTTP 404: gone"
        );
        assert_eq!(failure(503, &json!("<html>")).class, Class::ProviderFault);
        assert_eq!(failure(302, &json!({})).class, Class::ProviderInvalid);
    }
}
