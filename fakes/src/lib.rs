//! The vendors Platen speaks to, played by one real HTTP server that keeps to each vendor's protocol.
//!
//! `platen up` uses it on a machine without keys, and every test drives it. A fake is trusted only as far as the
//! vendor's own client has driven it: see `tests/python/google_oracle.py` and `openai_oracle.py`.
//!
//! The vendors' paths do not clash, so one address, one set of [`Faults`] and one [`Journal`] serve them all:
//!
//! | in the journal | speaks | at |
//! |---|---|---|
//! | `vertex` | Google's `generateContent` | `/v1/projects/{p}/locations/{l}/publishers/google/models/{m}:generateContent` |
//! | `gemini` | the same, Developer API | `/{v1,v1beta}/models/{m}:generateContent` |
//! | `interactions` | Google's Interactions API | `/{v1,v1beta}/interactions`, `/v1beta1/projects/{p}/locations/{l}/interactions` |
//! | `openai` | `OpenAI` Images and servers like it | `/v1/images/generations`, `/v1/images/edits` |
//!
//! Read next: `call` for a call from the request to the reply, then one vendor, say `openai`; `fault` for what can go
//! wrong; `picture` for what is drawn.

mod admission;
mod blob;
mod bombs;
mod call;
mod connection;
mod controls;
mod fault;
mod faults;
mod journal;
mod metadata;
mod picture;
mod reply;
mod server;

// The vendors.
mod generate_content;
mod google;
mod interactions;
mod openai;

pub use admission::Admit;
pub use bombs::{bomb, bombs, burdened};
pub use fault::{Fault, UnknownFault};
pub use faults::{Faults, Latency, REFUSED_WORDS, Refusal, Switches};
pub use journal::{Call, Journal};
pub use server::{Fake, Options};
