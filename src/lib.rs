//! gfproxy: the handlers of a GETFILE proxy behind a C ABI.
//!
//! A map of the house; dependencies point down the list only:
//!
//! - `ffi`: every exported C symbol and nothing else: NULL checks, a panic guard, one safe call.
//! - `handler`: one request from the handler's call to its outcome, over the cache, the origin, or both.
//! - [`origin`]: GETFILE to HTTP through libcurl (`handle_with_curl`).
//! - [`cache`]: the daemon: catalog, boss, workers (`simplecached`).
//! - [`channel`]: the shared-memory library between the two processes: layout, ring, pool, sessions, wire format.
//! - [`gfserver`]: our own GETFILE server, where none was provided (feature `gfserver`).
//! - [`getfile`]: the GETFILE client side: request, header parsing.
//! - [`reply`]: what a handler sees of its client.
//! - `sys`: raw system calls and foreign ABIs.
//!
//! `unsafe` is denied here and allowed by name in `ffi`, `sys` and the shared-memory files of `channel`.

pub mod cache;
pub mod channel;
mod ffi;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod getfile;
#[cfg(feature = "gfserver")]
pub mod gfserver;
mod handler;
mod logging;
mod metrics;
pub mod origin;
pub mod reply;
mod sys;
