//! Every exported C symbol and nothing else: NULL checks, one panic guard, one safe call.
#![allow(unsafe_code)]

#[cfg(feature = "gfserver")]
mod gfserver;
mod handlers;
mod process;
mod shm_channel;
mod simplecache;

use std::panic::{AssertUnwindSafe, catch_unwind};

use base::process::NoCancel;
use base::standard::settle;

/// Runs the body of an export. A panic must not cross into C, where it would abort the process. The panic hook has
/// logged where and why, and the caller gets `failed`. A cancellation (pthread_cancel) must not unwind these frames
/// either, which would abort, too. It waits for the caller's next cancellation point.
fn guard<T>(failed: T, body: impl FnOnce() -> T) -> T {
    let _no_cancel = NoCancel::new();
    settle();
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(failed)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use base::process::is_cancellable;

    #[test]
    fn no_export_is_cancelled_before_its_return() {
        assert!(is_cancellable());
        assert!(!guard(true, is_cancellable));
        assert!(is_cancellable());
        guard((), || panic!("on purpose"));
        assert!(is_cancellable());
    }
}
