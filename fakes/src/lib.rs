//! The vendors Platen speaks to, played by real HTTP servers that keep to the vendor's protocol.
//!
//! `platen up` uses them on a machine without keys, and every test drives them. A fake is trusted only as far as the
//! vendor's own client has driven it: see `tests/python/vertex_oracle.py`.
//!
//! - [`vertex`]: Google Vertex AI, image generation through `generateContent`.

pub mod vertex;
