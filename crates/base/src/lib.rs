//! What every crate of gfproxy needs of its process: threads without signals, a life of its own for a child of fork(2),
//! descriptors 0 to 2 left alone, bytes that another process may change, a limit for log lines, waits
//! for descriptors.
#![allow(missing_docs, reason = "this workspace alone uses it, and knows it by its names")]

#[allow(unsafe_code)]
mod chunk;
#[allow(unsafe_code)]
pub mod fork;
#[allow(unsafe_code)]
pub mod handed;
mod log_limit;
#[allow(unsafe_code)]
pub mod process;
#[allow(unsafe_code)]
pub mod standard;
mod wait;

pub use chunk::Chunk;
pub use log_limit::{LeftOut, Limiter};
pub use wait::poll_within;
