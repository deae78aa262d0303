//! Which database a bucket belongs to.

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
    /// All variants, in the order in which the metric shows them.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The label of metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether files may be written to the bucket and read from it.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Ours | Self::NotAdopted)
    }

    /// What is wrong, and what to do; `None` if nothing is wrong.
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

/// Which database the bucket belongs to could not be found out. The text says why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("whose the bucket is could not be found out: {0}")]
pub struct Unknown(pub String);
