//! What the two clients share: options, the workload, and the threads that work through it.

pub mod options;
mod run;
mod workload;

pub use options::CommonOptions;
pub use run::{Run, complain, say, shown, survive_large_files};
