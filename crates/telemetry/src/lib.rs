//! What an operator sees of a process: log lines on standard error, and metrics over HTTP.
#![allow(missing_docs, reason = "this workspace alone uses it, and knows it by its names")]

pub mod logging;
pub mod metrics;
