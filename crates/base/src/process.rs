//! What a handler must keep from the thread and the process that it runs in.

use std::ffi::c_int;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

const PTHREAD_CANCEL_DISABLE: c_int = 1;

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

unsafe extern "C-unwind" {
    fn pthread_testcancel();
}

/// Ends this thread, if it was cancelled.
///
/// # Safety
/// The frames of Rust on the stack let an unwinding pass (`extern "C-unwind"`, or plain Rust) and have nothing to drop.
pub unsafe fn cancel_here() {
    // SAFETY: the caller's promise.
    unsafe { pthread_testcancel() };
}

/// While it lives, this thread is not cancelled: the provided `gfserver_stop` cancels its workers, and a cancellation
/// that unwinds through Rust frames aborts the process.
pub struct NoCancel(c_int);

impl NoCancel {
    /// From now on.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let mut old = PTHREAD_CANCEL_DISABLE;
        // SAFETY: both arguments are valid; the call cannot fail with them.
        unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &raw mut old) };
        Self(old)
    }
}

impl Drop for NoCancel {
    fn drop(&mut self) {
        // SAFETY: the state is one that the call above returned.
        unsafe { pthread_setcancelstate(self.0, std::ptr::null_mut()) };
    }
}

/// Whether a path leads to the same file for this process and that one, as far as the system tells.
pub fn sees_the_files_of(pid: i32) -> bool {
    let id = |path: String| fs::metadata(path).map(|seen| (seen.dev(), seen.ino())).ok();
    ["ns/mnt", "root"].iter().all(|what| {
        let own = id(format!("/proc/self/{what}"));
        own.is_some() && own == id(format!("/proc/{pid}/{what}"))
    })
}

/// Whether this thread can be cancelled.
pub fn is_cancellable() -> bool {
    NoCancel::new().0 != PTHREAD_CANCEL_DISABLE
}

/// Turns two signals that end the process into errors: a write to a client that left (EPIPE), and to a file that would
/// be larger than `ulimit -f` allows (EFBIG). A handler of the program's own stays. The provided gfserver writes with
/// plain write(2), in threads that block no signals.
pub fn ignore_write_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
            // SAFETY: SIG_IGN runs no code of ours; sigaction is plain data for which zeros are valid.
            unsafe {
                let mut current: libc::sigaction = std::mem::zeroed();
                if libc::sigaction(signal, std::ptr::null(), &raw mut current) == 0
                    && current.sa_sigaction == libc::SIG_DFL
                {
                    libc::signal(signal, libc::SIG_IGN);
                }
            }
        }
    });
}

/// Blocks all signals of this thread but those that report its own faults. Returns the mask before.
pub fn block_signals() -> SigSet {
    let mut blocked = SigSet::all();
    for fault in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGABRT,
        Signal::SIGTRAP,
        Signal::SIGSYS,
    ] {
        blocked.remove(fault);
    }
    blocked.thread_swap_mask(SigmaskHow::SIG_SETMASK).unwrap_or_else(|_| SigSet::empty())
}

/// Runs `call`, which may raise `signal` on this thread besides failing. The signal is not delivered.
pub fn without_signal<T>(signal: Signal, call: impl FnOnce() -> T) -> T {
    let mut blocked = SigSet::empty();
    blocked.add(signal);
    let before = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap_or_else(|_| SigSet::all());
    let result = call();
    if !before.contains(signal) {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a set and a time that live here; NULL for what is not wanted. None pending is an error at once.
        unsafe { libc::sigtimedwait(blocked.as_ref(), std::ptr::null_mut(), &raw const now) };
        // Cannot fail with a mask that was this thread's.
        let _ = before.thread_set_mask();
    }
    result
}

/// Starts a thread that takes no signals: they are for the program's own threads. Blocked before it starts, since a
/// thread that blocks them itself could take one first.
pub fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    let signals = block_signals();
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
    // Cannot fail with a mask that was this thread's.
    let _ = signals.thread_set_mask();
    spawned
}

/// More than the functions that run at exit(3) may take.
const END: Duration = Duration::from_secs(3);

static IS_ENDING: AtomicBool = AtomicBool::new(false);

/// exit(3) was called.
pub fn begin_end() {
    IS_ENDING.store(true, Ordering::Relaxed);
}

/// Whether the process is about to end. The provided gfserver may have freed the contexts of running handlers by then.
pub fn is_ending() -> bool {
    IS_ENDING.load(Ordering::Relaxed)
}

/// Sleeps until the process has ended, or should have.
pub fn wait_for_end() {
    thread::sleep(END);
}

/// Ends a process that has no business to go on, with nothing of what exit(3) does.
pub fn end_at_once(reason: &str) -> ! {
    super::standard::complain(format_args!("{reason}"));
    // SAFETY: takes a number, and does not return.
    unsafe { libc::_exit(libc::EXIT_FAILURE) }
}

/// Lets `function` run when the program calls exit(3) or returns from main.
pub fn at_exit(function: extern "C" fn()) {
    // SAFETY: the function takes nothing and is there as long as the process. Where the table of such functions is full
    // it is not called.
    unsafe { libc::atexit(function) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_that_fail_raise_no_signal_that_ends_the_process() {
        ignore_write_signals();
        let status = std::fs::read_to_string("/proc/self/status").expect("of this process");
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("its ignored signals");
        let ignored = u64::from_str_radix(ignored.trim(), 16).expect("a mask");
        for signal in [Signal::SIGPIPE, Signal::SIGXFSZ] {
            assert!(ignored & 1 << (signal as i32 - 1) != 0, "{signal}");
        }
    }

    #[test]
    fn a_thread_starts_with_signals_blocked_and_its_starter_keeps_its_own() {
        let before = SigSet::thread_get_mask().expect("a mask");
        let masked = spawn("test", || SigSet::thread_get_mask().expect("a mask")).expect("a thread");
        let masked = masked.join().expect("its mask");
        assert!(masked.contains(Signal::SIGTERM) && masked.contains(Signal::SIGALRM));
        assert!(!masked.contains(Signal::SIGSEGV));
        assert_eq!(SigSet::thread_get_mask(), Ok(before));
    }
}
