//! Why Redis is of no use just now: a word for metrics, a sentence for people.

use redis::{ErrorKind, RedisError};

/// Why Redis does not do what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// Nobody listens at its address.
    Refused,
    /// Its address leads nowhere: no such name, no route.
    Unreachable,
    /// It takes what is said and does not answer in time.
    Silent,
    /// The connection ended in the middle.
    Broken,
    /// It does not accept our login.
    Password,
    /// Its URL is none, or the file with the URL cannot be read.
    Address,
    /// It has as many clients as it takes.
    Clients,
    /// It still reads its data.
    Loading,
    /// It is a replica.
    ReadOnly,
    /// It has no memory left.
    Memory,
    /// It cannot save its data, or has too few replicas, and takes no writes.
    Disk,
    /// A script of somebody keeps it busy.
    Busy,
    /// Something else; the log has the error.
    Other,
}

impl Trouble {
    pub const ALL: [Self; 13] = [
        Self::Refused,
        Self::Unreachable,
        Self::Silent,
        Self::Broken,
        Self::Password,
        Self::Address,
        Self::Clients,
        Self::Loading,
        Self::ReadOnly,
        Self::Memory,
        Self::Disk,
        Self::Busy,
        Self::Other,
    ];

    /// What an error says of Redis. `None`: it is well, and refused one command; a script it does not know yet, for example.
    pub fn of(error: &RedisError) -> Option<Self> {
        match error.kind() {
            ErrorKind::Io => Some(of_connection(error)),
            ErrorKind::AuthenticationFailed => Some(Self::Password),
            ErrorKind::InvalidClientConfig => Some(Self::Address),
            ErrorKind::Parse | ErrorKind::RESP3NotSupported => Some(Self::Broken),
            ErrorKind::Server(_) | ErrorKind::Extension => {
                of_answer(error.code().unwrap_or_default(), error)
            }
            _ => None,
        }
    }

    /// Whether another connection may do better: this one leads to nobody, to somebody else, or without the right login.
    pub(super) fn wants_new_connection(self) -> bool {
        match self {
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

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Broken => "broken",
            Self::Password => "password",
            Self::Address => "address",
            Self::Clients => "clients",
            Self::Loading => "loading",
            Self::ReadOnly => "read_only",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Busy => "busy",
            Self::Other => "other",
        }
    }

    /// What an operator reads: what is wrong, and what to look at.
    pub fn plain_words(self) -> &'static str {
        match self {
            Self::Refused => "nobody listens at its address: start it, or correct REDIS_URL",
            Self::Unreachable => {
                "its address leads nowhere: look at REDIS_URL, DNS and the network"
            }
            Self::Silent => "it does not answer in time: look whether it hangs, and at the network",
            Self::Broken => {
                "the connection ended in the middle: it was restarted, or somebody closes connections"
            }
            Self::Password => {
                "it does not accept the login: write the right one into REDIS_URL or its file"
            }
            Self::Address => "REDIS_URL is no usable URL, or the file that holds it cannot be read",
            Self::Clients => {
                "it has as many clients as it takes: raise maxclients, or close other clients"
            }
            Self::Loading => "it still reads its data: wait, or start an empty one",
            Self::ReadOnly => {
                "it is a replica and takes no writes: let REDIS_URL lead to the master"
            }
            Self::Memory => "it has no memory left: raise maxmemory, or find who else fills it",
            Self::Disk => {
                "it takes no writes because it cannot save its data: make room on its disk, or switch saving off"
            }
            Self::Busy => "a script keeps it busy: wait, or SCRIPT KILL",
            Self::Other => "it refuses what it is asked: the log has its words",
        }
    }
}

fn of_connection(error: &RedisError) -> Trouble {
    if error.is_timeout() {
        Trouble::Silent
    } else if error.is_connection_refusal() {
        Trouble::Refused
    } else if error.is_connection_dropped() {
        Trouble::Broken
    } else {
        // Names that are not known have no kind of their own.
        Trouble::Unreachable
    }
}

fn of_answer(code: &str, error: &RedisError) -> Option<Trouble> {
    match code {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => Some(Trouble::Password),
        "LOADING" => Some(Trouble::Loading),
        "READONLY" | "MASTERDOWN" => Some(Trouble::ReadOnly),
        "OOM" => Some(Trouble::Memory),
        "MISCONF" | "NOREPLICAS" => Some(Trouble::Disk),
        "BUSY" => Some(Trouble::Busy),
        "ERR" if error.to_string().contains("max number of clients") => Some(Trouble::Clients),
        _ => None,
    }
}
