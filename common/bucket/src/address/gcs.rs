//! Google Cloud Storage. Credentials are found as Google's own clients find them: a file that
//! `GOOGLE_APPLICATION_CREDENTIALS` names, `gcloud`'s own, or the machine's service account. Encryption with a key of one's own
//! (CMEK) is the bucket's default there: whatever is written without naming a key gets it.

use object_store::ClientOptions;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path as Key;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{BadAddress, is_loopback, retries};

/// A key as it stands in a link's path: what Google's own signer leaves as it is, and everything else escaped.
/// `object_store` 0.14.2 escapes keys in its requests and forgets to in its links.
pub(super) fn escaped(key: &Key) -> Key {
    const ALL_BUT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~')
        .remove(b'/');
    let escaped = utf8_percent_encode(key.as_ref(), ALL_BUT).to_string();
    Key::parse(escaped).expect("the escaped form of a key is one")
}

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
    // As Google's clients have it, with or without a scheme.
    let emulator = if emulator.contains("://") {
        emulator
    } else {
        format!("http://{emulator}")
    };
    if emulator.starts_with("http://") {
        if !is_loopback(&emulator) {
            return Err(BadAddress(format!("{emulator} is not encrypted: https")));
        }
        builder = builder.with_client_options(ClientOptions::new().with_allow_http(true));
    }
    // Nobody there asks who we are, and nobody else need be asked for a token.
    Ok(builder
        .with_bearer_token("emulated")
        .with_base_url(emulator.trim_end_matches('/')))
}

/// Where the links of a store begin, as `object_store` makes them.
pub(super) fn url(builder: &GoogleCloudStorageBuilder) -> String {
    let endpoint = builder.get_config_value(&GoogleConfigKey::BaseUrl);
    endpoint.unwrap_or_else(|| "https://storage.googleapis.com".to_owned())
}
