//! Verifies ID tokens of Firebase Authentication.
//!
//! The rules are Google's for third-party libraries
//! (<https://firebase.google.com/docs/auth/admin/verify-id-tokens>). Tokens of another kind from the same
//! project do not pass: session cookies and custom tokens have another issuer.
//!
//! The emulator of Firebase signs nothing, so everybody can write its tokens. They are accepted only if
//! the settings say so, for a project whose id begins with `demo-`, and never in production. A verifier
//! for the emulator in turn accepts no token of Google.

use jsonwebtoken::Algorithm;
use serde::Deserialize;
use time::OffsetDateTime;
use url::Url;

use super::cached::CacheTiming;
use super::claims::{Audience, Claims};
use super::http::IdentityHttp;
use super::key_set::KeySet;
use super::{Identity, Refusal, TokenError, token};

/// Where Google publishes the keys that sign ID tokens.
pub const GOOGLE_KEYS: &str =
    "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com";
/// The issuer of ID tokens, without the project.
const ISSUER: &str = "https://securetoken.google.com/";
/// What the id of a project begins with that exists in the emulator only.
const DEMO_PREFIX: &str = "demo-";
/// The longest subject, which is the user's id (`uid`).
const MAX_SUBJECT_BYTES: usize = 128;

/// Whose tokens are accepted.
#[derive(Clone, Debug)]
pub struct FirebaseSettings {
    /// The id of the project at Google.
    pub project: String,
    /// The tenant of the Identity Platform that people must belong to. With `None`, tokens of tenants
    /// are refused: the same user id may be another person there.
    pub tenant: Option<String>,
    /// Accept the unsigned tokens of an emulator, and none of Google.
    pub uses_emulator: bool,
    /// Whether this process serves customers. Then an emulator is refused.
    pub is_production: bool,
    /// Where the keys are: [`GOOGLE_KEYS`], or a fake.
    pub keys: String,
    /// How long keys are kept.
    pub timing: CacheTiming,
}

impl FirebaseSettings {
    /// The settings for people of this project, as production has them.
    pub fn new(project: impl Into<String>) -> Self {
        Self {
            project: project.into(),
            tenant: None,
            uses_emulator: false,
            is_production: true,
            keys: GOOGLE_KEYS.to_owned(),
            timing: CacheTiming::default(),
        }
    }
}

/// Why a process must not start with these settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FirebaseSettingsError {
    /// The project has no id that Google would give.
    #[error("{0:?} is not the id of a Firebase project: it has small letters, digits and hyphens")]
    Project(String),
    /// The emulator is switched on in production.
    #[error("everybody can write tokens of the Firebase emulator: production must not accept them")]
    EmulatorInProduction,
    /// The emulator is switched on for a project that may exist.
    #[error(
        "the Firebase emulator is only for projects whose id begins with demo-, such as demo-platen, not {0:?}"
    )]
    EmulatorForRealProject(String),
    /// The address of the keys is not usable.
    #[error("the address of the keys is not usable: {0}")]
    Keys(String),
}

/// Verifies ID tokens of one project.
pub struct FirebaseVerifier {
    issuer: String,
    project: String,
    tenant: Option<String>,
    trust: Trust,
}

/// What a token must show.
enum Trust {
    /// The signature of a key of Google.
    Keys(KeySet),
    /// Nothing.
    Emulator,
}

/// The claims of an ID token.
#[derive(Deserialize)]
struct IdToken {
    #[serde(flatten)]
    claims: Claims,
    #[serde(default)]
    firebase: FirebaseClaims,
}

#[derive(Default, Deserialize)]
struct FirebaseClaims {
    sign_in_provider: Option<String>,
    tenant: Option<String>,
}

impl FirebaseVerifier {
    /// Makes a verifier. The keys are fetched when the first token comes.
    ///
    /// # Errors
    /// Returns an error if the project's id is not valid, or if an emulator is used in production or
    /// for a project that may exist.
    pub fn new(
        settings: FirebaseSettings,
        http: &IdentityHttp,
    ) -> Result<Self, FirebaseSettingsError> {
        let FirebaseSettings { project, .. } = &settings;
        if !is_project_id(project) {
            return Err(FirebaseSettingsError::Project(project.clone()));
        }
        let trust = if settings.uses_emulator {
            if settings.is_production {
                return Err(FirebaseSettingsError::EmulatorInProduction);
            }
            if !project.starts_with(DEMO_PREFIX) {
                return Err(FirebaseSettingsError::EmulatorForRealProject(
                    project.clone(),
                ));
            }
            Trust::Emulator
        } else {
            let url: Url = (http.parse_address(&settings.keys))
                .map_err(|error| FirebaseSettingsError::Keys(error.to_string()))?;
            Trust::Keys(KeySet::at(url, http.clone(), settings.timing))
        };
        Ok(Self {
            issuer: format!("{ISSUER}{project}"),
            project: settings.project,
            tenant: settings.tenant,
            trust,
        })
    }

    /// Verifies a token. Whether it was revoked ([`Identity::is_revoked`]) is not known here.
    ///
    /// # Errors
    /// Returns an error if a rule refuses the token, or if Google's keys are not known.
    pub async fn verify(&self, token: &str, now: OffsetDateTime) -> Result<Identity, TokenError> {
        let header = token::header(token)?;
        let claims = match &self.trust {
            Trust::Keys(keys) => {
                let algorithm = header.algorithm(&[Algorithm::RS256])?;
                let key = keys.find(header.key_id()?, algorithm).await?;
                token::signed_claims(token, &key)?
            }
            Trust::Emulator => token::unsigned_claims(token)?,
        };
        Ok(self.check(claims, now)?)
    }

    fn check(&self, token: IdToken, now: OffsetDateTime) -> Result<Identity, Refusal> {
        let IdToken { claims, firebase } = token;
        claims.check_issuer(&self.issuer)?;
        match &claims.aud {
            Some(Audience::One(audience)) if *audience == self.project => {}
            _ => return Err(Refusal::Audience),
        }
        claims.check_times(now)?;
        if claims.auth_time.is_none() {
            return Err(Refusal::AuthTime);
        }
        if firebase.tenant != self.tenant {
            return Err(Refusal::FirebaseTenant);
        }
        let identity = claims.into_identity(MAX_SUBJECT_BYTES)?;
        Ok(Identity {
            sign_in_provider: firebase.sign_in_provider,
            ..identity
        })
    }
}

fn is_project_id(id: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=64).contains(&id.len()) && id.bytes().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(change: impl FnOnce(&mut FirebaseSettings)) -> Result<(), FirebaseSettingsError> {
        let mut settings = FirebaseSettings::new("demo-platen");
        change(&mut settings);
        let http = IdentityHttp::new(false).unwrap();
        FirebaseVerifier::new(settings, &http).map(|_| ())
    }

    #[test]
    fn production_refuses_an_emulator() {
        assert_eq!(made(|_| {}), Ok(()));
        assert_eq!(
            made(|settings| settings.uses_emulator = true),
            Err(FirebaseSettingsError::EmulatorInProduction)
        );
        let development = |settings: &mut FirebaseSettings| {
            settings.uses_emulator = true;
            settings.is_production = false;
        };
        assert_eq!(made(development), Ok(()));
        let real_project = made(|settings| {
            development(settings);
            settings.project = "platen-studio".to_owned();
        });
        assert!(matches!(
            real_project,
            Err(FirebaseSettingsError::EmulatorForRealProject(_))
        ));
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        for project in ["", "Platen", "platen/../other", "platen studio"] {
            let result = made(|settings| settings.project = project.to_owned());
            assert_eq!(
                result,
                Err(FirebaseSettingsError::Project(project.to_owned()))
            );
        }
        let result = made(|settings| settings.keys = "http://127.0.0.1/keys".to_owned());
        assert!(matches!(result, Err(FirebaseSettingsError::Keys(_))));
    }
}
