//! What a provider can do and where, from its discovery document (`OpenID` Connect Discovery 1.0).

use jsonwebtoken::Algorithm;
use serde::Deserialize;
use url::Url;

use crate::people::identity::http::{FetchError, Fetched, IdentityHttp};

/// The path of the document below the issuer.
const PATH: &str = "/.well-known/openid-configuration";
/// What ID tokens may be signed with. HMAC is not among them: with it our secret, which every member
/// of the staff of an organisation may know, could sign.
const ALGORITHMS: [Algorithm; 2] = [Algorithm::RS256, Algorithm::ES256];

/// What we need of a provider.
pub(super) struct Metadata {
    /// Where browsers are sent to.
    pub(super) authorization: Url,
    /// Where a code is exchanged.
    pub(super) token: Url,
    /// Where the keys are.
    pub(super) keys: Url,
    /// What ID tokens are signed with: RS256, ES256 or both.
    pub(super) algorithms: Vec<Algorithm>,
    /// Whether our secret is sent in the form. It is in the `Authorization` header otherwise.
    pub(super) takes_secret_in_form: bool,
    /// Whether each callback names the issuer (RFC 9207).
    pub(super) sends_issuer_with_code: bool,
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    response_types_supported: Vec<String>,
    id_token_signing_alg_values_supported: Vec<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    code_challenge_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// The address of an issuer's document.
///
/// # Errors
/// Returns an error if the issuer is not a URL that may be used.
pub(super) fn address(issuer: &str, http: &IdentityHttp) -> Result<Url, FetchError> {
    let url = http.parse_address(issuer)?;
    if url.query().is_some() {
        return Err(FetchError::Unusable(format!("{issuer:?} has a query")));
    }
    http.parse_address(&format!("{}{PATH}", issuer.trim_end_matches('/')))
}

/// Fetches an issuer's document.
///
/// # Errors
/// Returns an error if there is none, or if we cannot sign people in with what it says.
pub(super) async fn fetch(
    http: &IdentityHttp,
    url: Url,
    issuer: &str,
) -> Result<Fetched<Metadata>, FetchError> {
    let Fetched { document, max_age } = http.get(url).await?;
    let document = read(document, http, issuer)?;
    Ok(Fetched { document, max_age })
}

fn read(document: Document, http: &IdentityHttp, issuer: &str) -> Result<Metadata, FetchError> {
    let unusable = |why: String| Err(FetchError::Unusable(why));
    // Otherwise one provider could speak for another (Discovery 1.0, 4.3).
    if document.issuer != issuer {
        return unusable(format!(
            "the issuer is {:?}, not {issuer:?}",
            document.issuer
        ));
    }
    if !document
        .response_types_supported
        .iter()
        .any(|kind| kind == "code")
    {
        return unusable("it does not support the response type code".to_owned());
    }
    let methods = document.code_challenge_methods_supported;
    if methods.is_some_and(|methods| !methods.iter().any(|method| method == "S256")) {
        return unusable("it does not support PKCE with S256".to_owned());
    }
    let names = document.id_token_signing_alg_values_supported;
    let algorithms: Vec<Algorithm> = (names.iter())
        .filter_map(|name| name.parse().ok())
        .filter(|algorithm| ALGORITHMS.contains(algorithm))
        .collect();
    if algorithms.is_empty() {
        return unusable("it signs with neither RS256 nor ES256".to_owned());
    }
    let supports = |name: &str| {
        let methods = document.token_endpoint_auth_methods_supported.as_ref();
        methods.map(|methods| methods.iter().any(|method| method == name))
    };
    // Without a list it is the header (Discovery 1.0, 3).
    let takes_secret_in_form = !supports("client_secret_basic").unwrap_or(true)
        && supports("client_secret_post").unwrap_or(false);
    Ok(Metadata {
        authorization: http.parse_address(&document.authorization_endpoint)?,
        token: http.parse_address(&document.token_endpoint)?,
        keys: http.parse_address(&document.jwks_uri)?,
        algorithms,
        takes_secret_in_form,
        sends_issuer_with_code: document.authorization_response_iss_parameter_supported,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ISSUER: &str = "https://issuer.example/acme";

    /// Reads a good document with these changes; `null` removes a field.
    fn read_with(changes: &Value) -> Result<Metadata, FetchError> {
        let mut document = json!({
            "issuer": ISSUER,
            "authorization_endpoint": "https://issuer.example/acme/authorize?lang=de",
            "token_endpoint": "https://issuer.example/acme/token",
            "jwks_uri": "https://keys.example/acme",
            "response_types_supported": ["code", "id_token"],
            "id_token_signing_alg_values_supported": ["RS256", "HS256", "none", "of the future"],
        });
        for (name, value) in changes.as_object().unwrap() {
            document[name] = value.clone();
        }
        document
            .as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        let document = serde_json::from_value(document).map_err(FetchError::Unreadable)?;
        read(document, &IdentityHttp::new(false).unwrap(), ISSUER)
    }

    #[test]
    fn a_document_that_does_not_fit_is_refused() {
        for (name, changes) in [
            (
                "another issuer",
                json!({"issuer": "https://issuer.example/other"}),
            ),
            (
                "a slash at the end",
                json!({"issuer": "https://issuer.example/acme/"}),
            ),
            ("no issuer", json!({"issuer": null})),
            ("no code", json!({"response_types_supported": ["id_token"]})),
            (
                "only plain PKCE",
                json!({"code_challenge_methods_supported": ["plain"]}),
            ),
            (
                "only HMAC",
                json!({"id_token_signing_alg_values_supported": ["HS256"]}),
            ),
            (
                "only none",
                json!({"id_token_signing_alg_values_supported": ["none"]}),
            ),
            (
                "no algorithm",
                json!({"id_token_signing_alg_values_supported": []}),
            ),
            (
                "keys without TLS",
                json!({"jwks_uri": "http://keys.example/acme"}),
            ),
            (
                "a token endpoint in a file",
                json!({"token_endpoint": "file:///etc/passwd"}),
            ),
            (
                "no place to go",
                json!({"authorization_endpoint": "javascript:alert(1)"}),
            ),
        ] {
            assert!(read_with(&changes).is_err(), "{name}");
        }
    }

    #[test]
    fn only_algorithms_with_public_keys_are_taken() {
        let algorithms = |names: Value| {
            let changes = json!({"id_token_signing_alg_values_supported": names});
            read_with(&changes).unwrap().algorithms
        };
        assert_eq!(
            algorithms(json!(["RS256", "HS256", "none"])),
            [Algorithm::RS256]
        );
        assert_eq!(algorithms(json!(["ES384", "ES256"])), [Algorithm::ES256]);
    }

    #[test]
    fn the_secret_goes_where_the_provider_reads_it() {
        for (methods, in_form) in [
            (json!(null), false),
            (json!(["client_secret_post"]), true),
            (json!(["client_secret_post", "client_secret_basic"]), false),
            (json!(["private_key_jwt"]), false),
        ] {
            let changes = json!({"token_endpoint_auth_methods_supported": methods});
            assert_eq!(
                read_with(&changes).unwrap().takes_secret_in_form,
                in_form,
                "{methods}"
            );
        }
    }

    #[test]
    fn the_document_is_below_the_issuer() {
        let http = IdentityHttp::new(false).unwrap();
        for issuer in [ISSUER, "https://issuer.example/acme/"] {
            let url = address(issuer, &http).unwrap();
            assert_eq!(url.as_str(), format!("{ISSUER}{PATH}"));
        }
        assert!(address("https://issuer.example/?tenant=acme", &http).is_err());
        assert!(address("http://issuer.example", &http).is_err());
    }
}
