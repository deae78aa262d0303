//! Whose a bucket is.

/// Whose the bucket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// The marker is the one this database has recorded.
    Ours,
    /// This database has recorded none. Files are written and read, and none is deleted.
    NotAdopted,
    /// The marker is another's.
    Foreign,
    /// There is no marker, though this database has recorded one.
    Absent,
}

impl Ownership {
    pub const ALL: [Self; 4] = [Self::Ours, Self::NotAdopted, Self::Foreign, Self::Absent];

    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::NotAdopted => "not_adopted",
            Self::Foreign => "foreign",
            Self::Absent => "absent",
        }
    }

    /// Whether files may be written to it and read from it.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Ours | Self::NotAdopted)
    }

    /// What is wrong, and what to do; `None` when all is well.
    pub fn problem(self) -> Option<&'static str> {
        match self {
            Self::Ours => None,
            Self::NotAdopted => Some(
                "no bucket was adopted by this database: files that are due are not deleted until an operator has run `platen bucket adopt`",
            ),
            Self::Foreign => Some(
                "the marker in the bucket is not this database's: set PLATEN_BUCKET to the right bucket, or run `platen bucket adopt --replace` if this is it",
            ),
            Self::Absent => Some(
                "the bucket lacks this database's marker: mount the right volume, set PLATEN_BUCKET to the right bucket, or run `platen bucket adopt --replace` if this is it",
            ),
        }
    }
}

/// It could not be found out whose the bucket is.
#[derive(Clone, Debug, thiserror::Error)]
#[error("whose the bucket is could not be found out: {0}")]
pub struct Unknown(pub String);
