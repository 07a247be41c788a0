//! What both processes map, and how chunks are handed over in it.

pub(crate) mod arena;
pub(crate) mod backoff;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub(crate) mod futex;
pub(crate) mod layout;
pub(crate) mod ring;
mod shortage;
pub(crate) mod sync;
