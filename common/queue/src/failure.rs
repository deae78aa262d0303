//! Why Redis is unavailable: a word for metrics, and a sentence for operators.

use redis::{ErrorKind, RedisError};

/// Why Redis is unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum RedisFailure {
    /// No process listens at the address of Redis.
    Refused,
    /// The address of Redis cannot be reached: the host name is not known, or there is no route.
    Unreachable,
    /// Redis does not answer in time, or the network loses its answers.
    Silent,
    /// The connection was closed while it was in use, or the server does not speak Redis' protocol.
    Broken,
    /// Redis rejects the login.
    Password,
    /// The URL is not valid, or the file that holds it cannot be read.
    Address,
    /// Redis has as many clients as it allows (`maxclients`).
    Clients,
    /// Redis has just started and is still loading its data.
    Loading,
    /// Redis is a replica and accepts no writes.
    ReadOnly,
    /// Redis has no memory left (`maxmemory`).
    Memory,
    /// Redis accepts no writes because it cannot save its data, or has too few replicas.
    Disk,
    /// A long script keeps Redis busy.
    Busy,
    /// Another error; the log has its text.
    Other,
}

impl RedisFailure {
    /// Every failure.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// Classifies an error. Returns `None` if Redis is available and refused only this command, for
    /// example because it does not know a script yet.
    pub fn classify(error: &RedisError) -> Option<Self> {
        match error.kind() {
            ErrorKind::Io => Some(classify_connection_error(error)),
            ErrorKind::AuthenticationFailed => Some(Self::Password),
            ErrorKind::InvalidClientConfig => Some(Self::Address),
            // The answer cannot be parsed, so no later answer on this connection can be trusted. Or
            // the server does not know `HELLO`, as Redis before version 6.
            ErrorKind::Parse | ErrorKind::RESP3NotSupported => Some(Self::Broken),
            ErrorKind::Server(_) | ErrorKind::Extension => {
                classify_answer(error.code().unwrap_or_default(), error)
            }
            _ => None,
        }
    }

    /// Whether a new connection may help, because the old connection is broken, leads to a server
    /// that cannot be used, or has the wrong login.
    pub(super) fn wants_new_connection(self) -> bool {
        match self {
            // The server answered that it cannot serve now. It would answer the same on any
            // connection.
            Self::Loading | Self::Memory | Self::Disk | Self::Busy => false,
            Self::Refused
            | Self::Unreachable
            | Self::Silent
            | Self::Broken
            | Self::Password
            | Self::Address
            | Self::Clients
            | Self::ReadOnly
            | Self::Other => true,
        }
    }

    /// The label of metrics and logs.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The reason as a sentence for operators: what is wrong, and what to do.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Refused => "no process listens at its address: start Redis, or correct REDIS_URL",
            Self::Unreachable => {
                "its address cannot be reached: check REDIS_URL, DNS and the network"
            }
            Self::Silent => {
                "it does not answer in time: check whether it hangs, and check the network"
            }
            Self::Broken => {
                "the connection was closed while in use, or an answer was not in the protocol of Redis 6: Redis was restarted, something closes connections, or REDIS_URL leads to another server"
            }
            Self::Password => "it rejects the login: correct it in REDIS_URL or its file",
            Self::Address => {
                "REDIS_URL is not a valid URL, or the file that holds it cannot be read: correct it"
            }
            Self::Clients => {
                "it has as many clients as it allows: raise maxclients, or close other clients"
            }
            Self::Loading => "it is still loading its data: wait, or start an empty one",
            Self::ReadOnly => {
                "it is a replica and accepts no writes: point REDIS_URL to the primary"
            }
            Self::Memory => "it has no memory left: raise maxmemory, or find what else fills it",
            Self::Disk => {
                "it accepts no writes because it cannot save its data: free space on its disk, or turn saving off"
            }
            Self::Busy => "a long script keeps it busy: wait, or run SCRIPT KILL",
            Self::Other => "it refuses commands: the log has the error",
        }
    }
}

/// Classifies an error of the connection.
fn classify_connection_error(error: &RedisError) -> RedisFailure {
    if error.is_timeout() {
        RedisFailure::Silent
    // Before `is_connection_dropped`, which is true for a refusal as well.
    } else if error.is_connection_refusal() {
        RedisFailure::Refused
    } else if error.is_connection_dropped() {
        RedisFailure::Broken
    } else {
        // What is left is mostly an unknown host name or a missing route; the client has no error
        // kinds for them.
        RedisFailure::Unreachable
    }
}

/// Classifies an error that Redis sent as its answer, by the error's code.
fn classify_answer(code: &str, error: &RedisError) -> Option<RedisFailure> {
    match code {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => Some(RedisFailure::Password),
        "LOADING" => Some(RedisFailure::Loading),
        "READONLY" | "MASTERDOWN" => Some(RedisFailure::ReadOnly),
        "OOM" => Some(RedisFailure::Memory),
        "MISCONF" | "NOREPLICAS" => Some(RedisFailure::Disk),
        "BUSY" => Some(RedisFailure::Busy),
        "ERR" if error.to_string().contains("max number of clients") => Some(RedisFailure::Clients),
        _ => None,
    }
}
