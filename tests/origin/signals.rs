//! The program's signals are its own, while libcurl runs, too.

use std::fs;
use std::sync::{Arc, Mutex};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::support::{After, fetch};

extern "C" fn nothing(_: nix::libc::c_int) {}

/// Whether this process has a handler for SIGPIPE.
fn is_caught() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("SigCgt");
    let caught = u64::from_str_radix(caught.trim(), 16).expect("a mask");
    caught & 1 << (Signal::SIGPIPE as u32 - 1) != 0
}

/// Without CURLOPT_NOSIGNAL, libcurl ignores SIGPIPE for all threads as long as a transfer runs.
#[test]
#[allow(unsafe_code)]
fn a_transfer_leaves_the_programs_signal_handlers_alone() {
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing, which is safe at any time. To the other tests it is as good as ignoring the
    // signal.
    unsafe { sigaction(Signal::SIGPIPE, &action) }.expect("sigaction");
    let during = Arc::new(Mutex::new(None));
    let fetched = fetch({
        let during = Arc::clone(&during);
        move |x| {
            x.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfi");
            *during.lock().expect("not poisoned") = Some(is_caught());
            x.send("le");
            After::Keep
        }
    });
    fetched.assert_whole(b"file");
    assert_eq!(*during.lock().expect("not poisoned"), Some(true));
}
