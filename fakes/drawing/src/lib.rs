//! The images of the fake vendors, and the damaged or hostile files that they can send instead.
//!
//! [`draw`] draws a small still life from the prompt and the input images of a request. [`draw_flat`] returns an image
//! of one color, for measurements in which the image does not matter. [`hostile_file`] returns a file that must never
//! be delivered.
//!
//! This is a crate of its own because it is the only part of the fakes that needs optimization. The development profile
//! optimizes this crate, so that `fakes` still compiles quickly.

mod canvas;
mod cutout;
mod encode;
mod flat;
mod hostile_files;
mod lettering;
mod palette;
mod scene;

pub use encode::Format;
pub use flat::draw_flat;
pub use hostile_files::{heavy_file_names, hostile_file, hostile_file_names, is_hostile_or_heavy};
pub use scene::{Input, Scene, draw};
