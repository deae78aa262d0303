//! What a tenant keeps with us: the size of its files that rows name, uploads, inputs, originals and what was made of them.
//!
//! It is read from a roll-up that triggers keep (`0022_bounds_on_abuse.sql`), as billing is: whatever names or deletes a file adds a
//! line, and `storage::stored_bytes::fold` adds lines up. A total and its lines, read in one snapshot, equal the rows at every moment; `platen
//! verify` compares them (I25).

/// Bytes a tenant may keep when nothing else is said.
pub const DEFAULT: i64 = 50_000_000_000;

/// What a tenant keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// `None`: it was not counted yet, for it is older than the count.
    pub bytes: Option<i64>,
}

impl Stored {
    /// Whether there is room for so many bytes more. What is not counted yet is no reason to refuse anything.
    pub fn has_room(self, more: i64, limit: Option<i64>) -> bool {
        match (self.bytes, limit) {
            (Some(bytes), Some(limit)) => more == 0 || bytes.saturating_add(more) <= limit,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_up_to_the_limit_and_always_for_nothing() {
        let check = |bytes, more, limit, room| {
            assert_eq!(Stored { bytes }.has_room(more, limit), room, "{bytes:?}");
        };
        check(Some(90), 10, Some(100), true);
        check(Some(91), 10, Some(100), false);
        check(Some(200), 0, Some(100), true);
        check(Some(200), 10, None, true);
        check(None, 10, Some(0), true);
    }
}
