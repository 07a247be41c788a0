//! What segments still hold of files, and whether that is current.

pub(crate) mod extent;
pub(crate) mod guard;
pub(crate) mod pool;
pub(crate) mod probe;
