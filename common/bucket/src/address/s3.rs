//! S3, configured by the standard `AWS_…` variables.

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum, S3ConditionalPut};

use super::{Algorithm, BadAddress, is_loopback, retries};

/// The variable of AWS's own programs that says when a checksum is sent. `when_required` is for
/// stores that refuse the header of a checksum. Objects in such a store are read back after they
/// were written.
const CHECKSUM_VARIABLE: &str = "AWS_REQUEST_CHECKSUM_CALCULATION";

/// The settings of a bucket from the variables of AWS.
///
/// # Errors
/// Returns an error if the endpoint is on another machine, has no encryption, and `AWS_ALLOW_HTTP`
/// does not allow that.
pub(super) fn builder(
    bucket: &str,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<AmazonS3Builder, BadAddress> {
    let mut builder = AmazonS3Builder::new();
    let mut endpoint = None;
    let mut http_is_allowed = false;
    let mut sends_checksums = true;
    for (name, value) in variables {
        if name == CHECKSUM_VARIABLE {
            sends_checksums = !value.eq_ignore_ascii_case("when_required");
        }
        let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() else {
            continue;
        };
        // The endpoint for S3 has priority over the general endpoint, as in AWS's own programs.
        match name.as_str() {
            "AWS_ENDPOINT_URL_S3" => endpoint = Some(value.clone()),
            "AWS_ENDPOINT_URL" | "AWS_ENDPOINT" => {
                endpoint.get_or_insert_with(|| value.clone());
            }
            "AWS_ALLOW_HTTP" => http_is_allowed = value == "true" || value == "1",
            _ => {}
        }
        builder = builder.with_config(key, value);
    }
    if let Some(endpoint) = endpoint.filter(|endpoint| endpoint.starts_with("http://"))
        && !http_is_allowed
    {
        if !is_loopback(&endpoint) {
            return Err(BadAddress(format!(
                "{endpoint} is not encrypted: use https, or set AWS_ALLOW_HTTP=true in a network of your own"
            )));
        }
        builder = builder.with_allow_http(true);
    }
    if sends_checksums {
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    Ok(builder
        .with_bucket_name(bucket)
        // No key is written twice. A store that cannot guarantee this is not usable.
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(retries()))
}

/// The checksum that is sent with each write. `None` if none is sent.
pub(super) fn checksum(builder: &AmazonS3Builder) -> Option<Algorithm> {
    let setting = builder.get_config_value(&AmazonS3ConfigKey::Checksum);
    (setting.as_deref() == Some("sha256")).then_some(Algorithm::AmazonSha256)
}

/// What the links of the store begin with, as `object_store` builds them.
pub(super) fn url(builder: &AmazonS3Builder) -> String {
    let setting = |key| builder.get_config_value(&key);
    let is_on = |key| setting(key).is_some_and(|value| value == "true");
    let endpoint =
        setting(AmazonS3ConfigKey::S3Endpoint).or_else(|| setting(AmazonS3ConfigKey::Endpoint));
    let bucket = setting(AmazonS3ConfigKey::Bucket).unwrap_or_default();
    let region = setting(AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
    if let Some(endpoint) = endpoint {
        endpoint
    } else if is_on(AmazonS3ConfigKey::S3Express) {
        // The name of a directory bucket is name--zone--x-s3.
        let zone = bucket.rsplit("--").nth(1).unwrap_or_default();
        format!("https://{bucket}.s3express-{zone}.{region}.amazonaws.com")
    } else if is_on(AmazonS3ConfigKey::VirtualHostedStyleRequest) {
        format!("https://{bucket}.s3.{region}.amazonaws.com")
    } else {
        format!("https://s3.{region}.amazonaws.com")
    }
}
