//! The pictures of the fake vendors, and the damaged or hostile files that they can send instead.
//!
//! [`draw`] draws a small still life from the prompt and the photos of a request. [`draw_flat`] returns a picture of one
//! color, for measurements in which the picture does not matter. [`bomb`] returns a file that must never be delivered.
//!
//! This is a crate of its own because it is the only part of the fakes that needs optimization: the development profile
//! optimizes it, and leaves `fakes` quick to compile.

mod bombs;
mod canvas;
mod cutout;
mod encode;
mod flat;
mod lettering;
mod palette;
mod scene;

pub use bombs::{bomb, bombs, is_known_bomb, valid_but_heavy};
pub use encode::Format;
pub use flat::draw_flat;
pub use scene::{Input, Scene, draw};
