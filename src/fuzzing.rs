//! The locals file, as a function of bytes: a target of `fuzz/`, and of the property below, which runs in `make test`.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::daemon::{Catalog, OnBadLine};

/// A locals file: no more entries than lines, each to be found by its key.
pub fn locals(bytes: &[u8]) {
    let memory = memfd_create(c"locals", MFdFlags::MFD_CLOEXEC).expect("a memfd");
    let mut file = std::fs::File::from(memory);
    file.write_all(bytes).expect("a file in memory");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()));
    let catalog = Catalog::load(&path, OnBadLine::Skip).expect("a file that can be read");
    let lines = bytes.split(|&byte| byte == b'\n').count();
    assert!(catalog.len() <= lines);
    for word in bytes.split(|byte| byte.is_ascii_whitespace()) {
        if let Some(entry) = catalog.find(word) {
            assert!(!catalog.path(entry).as_os_str().is_empty());
        }
    }
}

#[cfg(all(test, not(loom)))]
mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Mostly the letters that mean something.
    fn text(alphabet: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
        let letter = prop_oneof![9 => prop::sample::select(alphabet), 1 => any::<u8>()];
        prop::collection::vec(letter, 0..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn locals_of_any_bytes(bytes in text(b"/ab# \t\r\n\n\"\\\0")) {
            locals(&bytes);
        }
    }
}
