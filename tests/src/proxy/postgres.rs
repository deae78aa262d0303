//! What a Postgres says, message by message: just enough to find the end of a statement.
//!
//! A message is its type (one byte), its length (four, their own included) and its body. Before the first there may be
//! a single byte, `N`: no TLS here. A server that is no Postgres says nothing that reads like one for long; nobody asks.

/// Where in the stream of messages the server is. Chunks end anywhere, so it remembers what it has begun to read.
#[derive(Default)]
pub(super) struct Replies {
    begun: bool,
    /// Type and length of a message whose head is not whole yet.
    head: Vec<u8>,
    /// The body of a `CommandComplete` that is not whole yet.
    tag: Option<Vec<u8>>,
    /// Bytes of the current body that are still to come.
    left: usize,
}

const HEAD: usize = 5;
const COMMAND_COMPLETE: u8 = b'C';

impl Replies {
    /// Reads on. Where a `CommandComplete` is `wanted` by its tag, answers how much of the chunk stood before it.
    pub(super) fn first(
        &mut self,
        chunk: &[u8],
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> Option<usize> {
        let mut at = 0;
        // Where the message that is being read began; what of it came in an earlier chunk has been passed on.
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
    fn a_commit_is_found_however_the_stream_is_cut_into_chunks() {
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
            // Of its head what came in earlier chunks may have passed; its body never has as a whole.
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
