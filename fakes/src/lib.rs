//! Fakes of the vendors that Platen calls: one real HTTP server that follows each vendor's protocol.
//!
//! `platen up` uses this server on a machine without API keys, and all tests use it. The answers of a fake are checked
//! with the vendor's own client: see `tests/python/google_oracle.py`, `openai_oracle.py` and
//! `identity_oracle.py`.
//!
//! The vendors' paths differ, so one address, one set of [`Faults`] and one [`Journal`] serve them all:
//!
//! | vendor in the journal | protocol | paths |
//! |---|---|---|
//! | `vertex` | Google's `generateContent` | `/v1/projects/{p}/locations/{l}/publishers/google/models/{m}:generateContent` |
//! | `gemini` | the same on the Developer API | `/{v1,v1beta}/models/{m}:generateContent` |
//! | `interactions` | Google's Interactions API | `/{v1,v1beta}/interactions`, `/v1beta1/projects/{p}/locations/{l}/interactions` |
//! | `openai` | `OpenAI` Images and servers like it | `/v1/images/generations`, `/v1/images/edits` |
//! | `identity` | `OpenID` Connect, and the keys of Firebase Authentication | `/identity/…`, `/service_accounts/v1/jwk/…` |
//!
//! To read on: `call` follows a call from the request to the reply, a file such as `openai` has one vendor, and `fault`
//! has what can go wrong. The crate `drawing` draws the images.

mod admission;
mod blob;
mod call;
mod connection;
mod controls;
mod fault;
mod faults;
mod generated_image;
mod journal;
mod metadata;
mod reply;
mod server;
mod service;
mod shapes;

// The vendors.
mod generate_content;
mod google;
mod identity;
mod interactions;
mod openai;

pub use admission::AdmissionLimit;
pub use drawing::{heavy_file_names, hostile_file, hostile_file_names};
pub use fault::{Fault, UnknownFault};
pub use faults::{Faults, Latency, REFUSED_WORDS, Refusal, Switches};
pub use identity::{IdentityProvider, IdentitySwitches, SigningKey};
pub use journal::{Call, Journal};
pub use server::{Fake, Options};
