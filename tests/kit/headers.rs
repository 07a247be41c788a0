//! The committed headers are those that cbindgen makes of `src/ffi`.

use std::fs;
use std::path::Path;

#[test]
fn committed_headers_are_fresh() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    for name in ["gfproxy.h", "shm_channel.h"] {
        let generated = fs::read_to_string(Path::new(env!("GFPROXY_GENERATED_HEADERS")).join(name)).expect(name);
        let header = fs::read_to_string(committed.join(name)).unwrap_or_default();
        assert!(header == generated, "include/{name} is not what src/ffi says: run `make headers` and commit it");
    }
}
