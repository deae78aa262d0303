//! The environment variables that Platen reads, and the check that refuses others with the prefix
//! `PLATEN_`.

use strsim::damerau_levenshtein;

use super::ConfigError;

/// Every variable that Platen reads, with its meaning and its default. A description is not a whole
/// sentence, because it is shown after the name.
pub const VARIABLES: &[(&str, &str)] = &[
    (
        "DATABASE_URL",
        "runtime login of PostgreSQL 15 or newer; without it `platen up` starts a private one",
    ),
    (
        "DATABASE_API_URL",
        "login for connections that act as platen_api; default DATABASE_URL",
    ),
    (
        "DATABASE_WORKER_URL",
        "login for connections that act as platen_worker; default DATABASE_URL",
    ),
    (
        "DATABASE_READER_URL",
        "login for connections that act as platen_reader; default DATABASE_URL",
    ),
    (
        "DATABASE_OWNER_URL",
        "login that migrates; only `platen migrate` and `platen up` use it",
    ),
    (
        "REDIS_URL",
        "Redis 7 or newer; without it `platen up` starts a private one. A file that REDIS_URL_FILE names is read for each connection",
    ),
    (
        "PLATEN_PROVIDERS",
        "providers whose models are offered, separated by commas; default vertex, or all in PLATEN_MODELS",
    ),
    (
        "GOOGLE_CLOUD_PROJECT",
        "Google Cloud project whose Vertex AI is called",
    ),
    ("GEMINI_API_KEY", "key of the Gemini Developer API"),
    ("OPENAI_API_KEY", "key of OpenAI"),
    (
        "PLATEN_BUCKET",
        "bucket for all files: a folder, s3://bucket/prefix or gs://bucket/prefix; without it `platen up` uses a folder in its data folder",
    ),
    (
        "PLATEN_LINKS",
        "what serves files: store, if it can sign links, or api; default store",
    ),
    (
        "PLATEN_LINK_SECONDS",
        "how long a link to a file works, 60 to 86400 seconds; default 900",
    ),
    (
        "AWS_ACCESS_KEY_ID",
        "access key of S3; without it a role is used, found as AWS's own programs find it",
    ),
    ("AWS_SECRET_ACCESS_KEY", "secret of AWS_ACCESS_KEY_ID"),
    ("AWS_REGION", "region of the bucket; default us-east-1"),
    (
        "AWS_ENDPOINT_URL",
        "URL of the S3 service, if it is not AWS",
    ),
    (
        "AWS_SERVER_SIDE_ENCRYPTION",
        "encryption at rest: AES256, aws:kms or aws:kms:dsse; default the bucket's own setting",
    ),
    ("AWS_SSE_KMS_KEY_ID", "key of AWS KMS to encrypt with"),
    (
        "PLATEN_SIGNING_KEY",
        "secret that signs links to files; at least 32 characters",
    ),
    (
        "PLATEN_SIGNING_KEY_PREVIOUS",
        "previous signing key, as long as clients have links that it signed; default none",
    ),
    (
        "PLATEN_MASTER_KEYS",
        "keys that encrypt secrets in the database, as name:key separated by commas or lines, the newest first; `openssl rand -hex 32` makes a key",
    ),
    (
        "PLATEN_OPERATOR_KEY",
        "key for /v1/admin, at least 32 characters; without it that API is off",
    ),
    (
        "PLATEN_LISTEN",
        "address of the API; default 127.0.0.1:8080",
    ),
    (
        "PLATEN_METRICS_LISTEN",
        "address of the metrics; default 127.0.0.1:9464",
    ),
    (
        "PLATEN_CORS_ORIGINS",
        "origins of web pages that may call the API, separated by commas; default none",
    ),
    (
        "PLATEN_PUBLIC_URL",
        "URL under which clients reach the API, such as https://pictures.example; default what a trusted proxy reports",
    ),
    (
        "PLATEN_TRUSTED_PROXIES",
        "addresses or networks of proxies whose Forwarded and X-Forwarded headers are trusted, separated by commas; default none",
    ),
    (
        "PLATEN_PRIVATE_NETWORKS",
        "private networks that URLs given by customers may lead to, separated by commas; default none",
    ),
    (
        "PLATEN_CONNECTIONS",
        "most connections to the API at once; default 4096",
    ),
    (
        "PLATEN_CONNECTIONS_PER_ADDRESS",
        "most of these from one address, except trusted proxies; default 256",
    ),
    (
        "PLATEN_METRICS_CONNECTIONS",
        "most connections to the metrics at once; default 64",
    ),
    (
        "PLATEN_BACKLOG",
        "connections that wait in the system to be accepted; default 1024",
    ),
    (
        "PLATEN_OPEN_FILES",
        "open files to ask the system for; default as many as it allows",
    ),
    (
        "PLATEN_HEAD_SECONDS",
        "how long the head of a request may take to arrive; default 10",
    ),
    (
        "PLATEN_IDLE_SECONDS",
        "how long a connection may be idle between two requests; default 75",
    ),
    (
        "PLATEN_BODY_SECONDS",
        "how long a body may take to arrive, besides one second for each 64 KiB, 1 to 60; default 30",
    ),
    (
        "PLATEN_WRITE_SECONDS",
        "how long a client may read nothing of its answer; default 30",
    ),
    (
        "PLATEN_RATE_ADDRESS",
        "requests of one address: per minute, and at once; 0 for no limit; default 18000,3000",
    ),
    (
        "PLATEN_RATE_FAILURES",
        "requests of one address with a wrong key; default 30,30",
    ),
    (
        "PLATEN_RATE_TENANT",
        "requests of one tenant; default 12000,2000",
    ),
    (
        "PLATEN_RATE_KEY",
        "requests with one key; default 12000,2000",
    ),
    (
        "PLATEN_SLOTS",
        "most jobs that one worker runs at once; default 16",
    ),
    (
        "PLATEN_TENANT_SLOTS_PERCENT",
        "share of a worker's slots that one tenant may have, times its weight, 1 to 100; default 100",
    ),
    (
        "PLATEN_MEMORY_MB",
        "memory that one worker may use, in MB; default 512",
    ),
    (
        "PLATEN_API_MEMORY_MB",
        "memory that one API process may use, in MB, 512 to 65536; default 512",
    ),
    (
        "PLATEN_SPOOL_MB",
        "memory for images that wait while the bucket is unavailable, in MB; default 256",
    ),
    (
        "PLATEN_SPOOL_DISK_MB",
        "disk space (in TMPDIR) for such images that find no memory, in MB; default 0",
    ),
    (
        "PLATEN_LEASE_SECONDS",
        "how long a worker that died keeps its jobs; default 25",
    ),
    (
        "PLATEN_IDEMPOTENCY_HOURS",
        "how long a repeated request gets the first answer again, 1 to 8760; default 24",
    ),
    (
        "PLATEN_CANCEL_ALLOWANCE",
        "most calls that have begun and that one tenant may abandon in an hour; default 20",
    ),
    (
        "PLATEN_ABANDONED_COST_USD",
        "cost of the calls that one tenant abandons in an hour, in US dollars, above which operators are alerted; default 5",
    ),
    (
        "PLATEN_TENANT_STORAGE_MB",
        "most that one tenant may store in the bucket, in MB, 0 for no limit; default 50000",
    ),
    (
        "PLATEN_UNDELIVERED_INPUTS_DAYS",
        "longest time inputs of jobs that delivered nothing are kept, 0 for as long as the tenant wants; default 7",
    ),
    (
        "PLATEN_UNPAID_UPLOADS_DAYS",
        "longest time uploads of tenants that never paid are kept, 0 for as long as the tenant wants; default 30",
    ),
    (
        "PLATEN_QUEUE",
        "prefix of the keys in Redis; default platen",
    ),
    (
        "PLATEN_MODELS",
        "folder of model files that replaces the shipped catalogue",
    ),
    ("PLATEN_LOG", "what is logged, as in RUST_LOG; default info"),
    ("PLATEN_LOG_FORMAT", "text or json; default text"),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "collector that traces are sent to by OTLP over HTTP; without it none are sent",
    ),
];

/// Variables that `data/demo.env` sets for clients. Platen ignores them.
pub(super) const CLIENT_VARIABLES: [&str; 2] = ["PLATEN_URL", "PLATEN_KEY"];

/// Refuses `PLATEN_…` variables that are not known, and names the nearest known one. Variables of
/// tests (`PLATEN_TEST_…`) are not checked.
pub(super) fn refuse_unknown(names: impl Iterator<Item = String>) -> Result<(), ConfigError> {
    for name in names {
        let plain = name.strip_suffix("_FILE").unwrap_or(&name);
        if name.starts_with("PLATEN_")
            && !CLIENT_VARIABLES.contains(&name.as_str())
            && !name.starts_with("PLATEN_TEST_")
            && !VARIABLES.iter().any(|&(variable, _)| variable == plain)
        {
            let nearest = nearest(plain);
            return Err(ConfigError::Unknown { name, nearest });
        }
    }
    Ok(())
}

/// The known variable that needs the fewest letters inserted, removed, replaced or swapped to
/// become `name`. The prefix `PLATEN_` does not count: `PLATEN_REDIS_URL` is near to `REDIS_URL`.
fn nearest(name: &str) -> &'static str {
    let bare = |name: &'static str| name.strip_prefix("PLATEN_").unwrap_or(name);
    let name = name.strip_prefix("PLATEN_").unwrap_or(name);
    let variables = VARIABLES.iter().map(|&(variable, _)| variable);
    variables
        .min_by_key(|variable| damerau_levenshtein(bare(variable), name))
        .expect("there are variables")
}
