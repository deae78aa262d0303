//! Whose a bucket is.

/// Which database the bucket belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Ownership {
    /// This one: the marker has the recorded id.
    Ours,
    /// This database has recorded no id. Files are written and read, but none is deleted.
    NotAdopted,
    /// Another one: the marker has another id.
    Foreign,
    /// The bucket has no marker although this database has recorded an id.
    Absent,
}

impl Ownership {
    /// All of them, in the order of the metric's states.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The label of metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether files may be written to it and read from it.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Ours | Self::NotAdopted)
    }

    /// What is wrong, and what to do; `None` where nothing is.
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
