//! Every exported C symbol and nothing else: NULL checks, one panic guard, one safe call.
#![allow(unsafe_code)]

#[cfg(feature = "gfserver")]
mod gfserver;
mod handlers;
mod process;
mod shm_channel;
mod simplecache;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::sys::standard::settle;

/// Runs the body of an export. A panic must not cross into C, where it would abort the process; the panic hook has told
/// where and why, and the caller gets `failed`.
fn guard<T>(failed: T, body: impl FnOnce() -> T) -> T {
    settle();
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(failed)
}
