//! Reads the messages of a Postgres server, just enough to find the end of a statement.
//!
//! A message has a type (one byte), a length (four bytes, which it includes) and a body; see "Message Formats" in the
//! manual of PostgreSQL. Before the first message there may be the single byte `N`, which means that there is no TLS. The
//! data of another kind of server is misread, which does not matter as long as no reply is to be lost.

/// The position in the stream of messages. A chunk may end inside a message, so the beginning of a message is kept.
#[derive(Default)]
pub(super) struct Replies {
    begun: bool,
    /// The beginning of type and length, while they are incomplete.
    head: Vec<u8>,
    /// The beginning of the body of a `CommandComplete`, while it is incomplete.
    tag: Option<Vec<u8>>,
    /// How many bytes of the current body are missing.
    left: usize,
}

/// Type and length, in bytes.
const HEAD: usize = 5;
const COMMAND_COMPLETE: u8 = b'C';

impl Replies {
    /// Reads a chunk. If it contains a `CommandComplete` whose tag is `wanted`, returns how many bytes come before it.
    pub(super) fn first(
        &mut self,
        chunk: &[u8],
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> Option<usize> {
        let mut at = 0;
        // Where the current message began. A part of it in an earlier chunk has been passed on already.
        let mut began = 0;
        if !self.begun && chunk.first() == Some(&b'N') {
            at = 1;
        }
        self.begun = true;
        while at < chunk.len() {
            if self.left == 0 {
                if self.head.is_empty() {
                    began = at;
                }
                let take = (HEAD - self.head.len()).min(chunk.len() - at);
                self.head.extend_from_slice(&chunk[at..at + take]);
                at += take;
                if self.head.len() < HEAD {
                    return None;
                }
                let length = [self.head[1], self.head[2], self.head[3], self.head[4]];
                self.left = (u32::from_be_bytes(length) as usize).saturating_sub(4);
                self.tag = (self.head[0] == COMMAND_COMPLETE).then(Vec::new);
                self.head.clear();
            }
            let take = self.left.min(chunk.len() - at);
            if let Some(tag) = &mut self.tag {
                tag.extend_from_slice(&chunk[at..at + take]);
            }
            at += take;
            self.left -= take;
            if self.left == 0
                && let Some(tag) = self.tag.take()
                && wanted(&tag)
            {
                return Some(began);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], &length[..], body].concat()
    }

    fn stream() -> Vec<u8> {
        [
            b"N".to_vec(),
            message(b'R', &[0, 0, 0, 0]),
            message(b'C', b"SELECT 1\0"),
            message(b'Z', b"T"),
            message(b'C', b"COMMIT\0"),
            message(b'Z', b"I"),
        ]
        .concat()
    }

    #[test]
    fn a_commit_is_found_in_chunks_of_any_size() {
        let stream = stream();
        let commit = stream.len() - message(b'C', b"COMMIT\0").len() - message(b'Z', b"I").len();
        for size in 1..=stream.len() {
            let mut replies = Replies::default();
            let mut passed = 0;
            let mut found = false;
            for chunk in stream.chunks(size) {
                match replies.first(chunk, |tag| tag == b"COMMIT\0") {
                    Some(before) => {
                        passed += before;
                        found = true;
                        break;
                    }
                    None => passed += chunk.len(),
                }
            }
            assert!(found, "in chunks of {size}");
            // The beginning of the message may have been passed on in earlier chunks, but never all of its body.
            assert!(
                passed >= commit && passed < commit + HEAD + 7,
                "in chunks of {size}: {passed}"
            );
        }
    }

    #[test]
    fn other_replies_pass() {
        let mut seen = Vec::new();
        let mut replies = Replies::default();
        assert_eq!(
            replies.first(&stream(), |tag| {
                seen.push(tag.to_vec());
                false
            }),
            None
        );
        assert_eq!(seen, [b"SELECT 1\0".to_vec(), b"COMMIT\0".to_vec()]);
    }
}
