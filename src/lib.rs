//! gfproxy: the handlers of a GETFILE proxy behind a C ABI.
//!
//! The root package is what is linked: the C API, the proxy and the daemon. What has a life of its own is a crate:
//!
//! | crate | what | uses |
//! |---|---|---|
//! | `shm-channel` | files over shared memory: memory, protocol, client, server | `base` |
//! | `origin` | GETFILE to HTTP through libcurl | `getfile`, `base` |
//! | `gfserver` | a GETFILE server with the C ABI of the kit | `base` |
//! | `getfile` | statuses, answers, the client side | `base` |
//! | `telemetry` | log lines and Prometheus metrics | `base` |
//! | `base` | threads without signals, bytes that another process may change, a limit for log lines | |
//! | `gfclients` | `gfclient_download`, `gfclient_measure` | `getfile` |
//!
//! Here, from top to bottom; each uses only what stands below it and the crates:
//!
//! - `ffi`: every exported C symbol and nothing else: NULL checks, a panic guard, one safe call.
//! - `kit_abi`: the way from a handler's answer to `gfs_sendheader` and `gfs_send`.
//! - `proxy`: one request from the handler's call to its outcome, over the cache, the origin, or both.
//! - [`daemon`]: the files of the daemon (`simplecached`): catalog of the locals file, open files.
//!
//! `unsafe` is denied here and allowed by name in `ffi` and `kit_abi`.

pub mod daemon;
mod ffi;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod kit_abi;
mod proxy;
