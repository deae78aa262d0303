//! Google Cloud Storage.
//!
//! Credentials are found as Google's own clients find them: a file that
//! `GOOGLE_APPLICATION_CREDENTIALS` names, those of `gcloud`, or the machine's service account. A
//! customer's own encryption key (CMEK) is set as the default of the bucket. Objects that are
//! written without a key are encrypted with it.

use object_store::ClientOptions;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path as Key;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{BadAddress, is_loopback, retries};

/// The form of a key in the path of a link: percent-encoded, except the characters that Google's
/// own signer does not encode. `object_store` 0.14.2 encodes keys in its requests, but not in its
/// links.
pub(super) fn escaped(key: &Key) -> Key {
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~')
        .remove(b'/');
    let escaped = utf8_percent_encode(key.as_ref(), ESCAPED).to_string();
    Key::parse(escaped).expect("the escaped form of a key is a key")
}

/// The settings of a bucket from Google's variables.
///
/// # Errors
/// Returns an error if `STORAGE_EMULATOR_HOST` names another machine without encryption.
pub(super) fn builder(
    bucket: &str,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<GoogleCloudStorageBuilder, BadAddress> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_client_options(ClientOptions::new())
        .with_bucket_name(bucket)
        .with_retry(retries());
    let mut emulator = None;
    for (name, value) in variables {
        if name == "STORAGE_EMULATOR_HOST" {
            emulator = Some(value);
        } else if let Ok(key) = name.to_ascii_lowercase().parse::<GoogleConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let Some(emulator) = emulator else {
        return Ok(builder);
    };
    // The variable may have a scheme or not, as for Google's own clients.
    let emulator = if emulator.contains("://") {
        emulator
    } else {
        format!("http://{emulator}")
    };
    if emulator.starts_with("http://") {
        if !is_loopback(&emulator) {
            return Err(BadAddress(format!(
                "{emulator} is not encrypted: use https"
            )));
        }
        builder = builder.with_client_options(ClientOptions::new().with_allow_http(true));
    }
    // An emulator accepts any token. Without a token here, the client would ask Google's metadata
    // server for one.
    Ok(builder
        .with_bearer_token("emulated")
        .with_base_url(emulator.trim_end_matches('/')))
}

/// What the links of the store begin with, as `object_store` builds them.
pub(super) fn url(builder: &GoogleCloudStorageBuilder) -> String {
    let endpoint = builder.get_config_value(&GoogleConfigKey::BaseUrl);
    endpoint.unwrap_or_else(|| "https://storage.googleapis.com".to_owned())
}
