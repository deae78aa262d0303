//! Reads the messages of a Postgres client, just enough to name the statements that it sends.
//!
//! A message has a type (one byte), a length (four bytes, which it includes) and a body. The first messages have no type:
//! they ask for TLS, or start the session. The data of another kind of client is misread, which does not matter as long as
//! nobody asks for its round trips.

use std::collections::HashMap;

/// The code of the message that starts a session: version 3.0 of the protocol.
const START: [u8; 4] = [0, 3, 0, 0];

/// The messages of one connection.
#[derive(Default)]
pub(super) struct Requests {
    /// What was read of a message that is not complete.
    bytes: Vec<u8>,
    started: bool,
    /// The labels of prepared statements, by name.
    prepared: HashMap<Vec<u8>, String>,
}

impl Requests {
    /// Reads a chunk, and returns the labels of the statements whose messages it completes. A statement that is prepared
    /// and one that is executed count each.
    pub(super) fn statements(&mut self, chunk: &[u8]) -> Vec<String> {
        self.bytes.extend_from_slice(chunk);
        let mut labels = Vec::new();
        loop {
            let head = usize::from(self.started);
            let Some(length) = self.bytes.get(head..head + 4) else {
                return labels;
            };
            let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
            let end = head + length.max(4);
            if self.bytes.len() < end {
                return labels;
            }
            let message: Vec<u8> = self.bytes.drain(..end).collect();
            let body = &message[head + 4..];
            if self.started {
                labels.extend(self.label(message[0], body));
            } else {
                self.started = body.starts_with(&START);
            }
        }
    }

    /// The label of a message that contains or names a statement.
    fn label(&mut self, kind: u8, body: &[u8]) -> Option<String> {
        let mut texts = body.split(|byte| *byte == 0);
        let (first, second) = (texts.next()?, texts.next().unwrap_or_default());
        match kind {
            b'Q' => Some(label(first)),
            b'P' => {
                let label = label(second);
                let prepares = format!("prepare {label}");
                self.prepared.insert(first.to_vec(), label);
                Some(prepares)
            }
            b'B' => Some(
                self.prepared
                    .get(second)
                    .cloned()
                    .unwrap_or_else(|| "unknown".to_owned()),
            ),
            _ => None,
        }
    }
}

/// The name in the comment at the head of a statement, such as `job::claim`; without a comment, the statement.
fn label(sql: &[u8]) -> String {
    let sql = String::from_utf8_lossy(sql);
    let first = sql.lines().next().unwrap_or_default();
    first.strip_prefix("-- ").unwrap_or(&sql).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], &length[..], body].concat()
    }

    #[test]
    fn statements_are_named_in_chunks_of_any_size() {
        let stream = [
            vec![0, 0, 0, 8, 4, 210, 22, 47], // asks for TLS
            vec![0, 0, 0, 9, 0, 3, 0, 0, 0],  // starts the session
            message(b'Q', b"BEGIN\0"),
            message(b'P', b"s1\0-- job::claim\nSELECT 1\0\0\0"),
            message(b'D', b"Ss1\0"),
            message(b'S', b""),
            message(b'B', b"\0s1\0\0\0\0\0\0\0"),
            message(b'E', b"\0\0\0\0\0"),
            message(b'S', b""),
        ]
        .concat();
        for size in 1..=stream.len() {
            let mut requests = Requests::default();
            let labels: Vec<_> = stream
                .chunks(size)
                .flat_map(|chunk| requests.statements(chunk))
                .collect();
            assert_eq!(
                labels,
                ["BEGIN", "prepare job::claim", "job::claim"],
                "in chunks of {size}"
            );
        }
    }
}
