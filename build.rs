//! Compiles the C shims into the archive and generates the C headers.
//!
//! The headers are committed. This script writes them to `OUT_DIR`, where a test compares them with `include/`; with
//! `GFPROXY_WRITE_HEADERS=1` (that is `make headers`) it writes `include/` itself.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// (header, include guard, Rust sources, what else the header includes)
const HEADERS: &[(&str, &str, &[&str], &[&str])] = &[
    ("gfproxy.h", "GFPROXY_H", &["src/ffi/process.rs", "src/ffi/handlers.rs", "src/ffi/gfserver.rs"], &["gfserver.h"]),
    (
        "shm_channel.h",
        "SHM_CHANNEL_H",
        &[
            "src/ffi/shm_channel/error.rs",
            "src/ffi/shm_channel/transfer.rs",
            "src/ffi/shm_channel/client.rs",
            "src/ffi/shm_channel/server.rs",
        ],
        &[],
    ),
];

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    compile_shims();
    println!("cargo:rerun-if-env-changed=GFPROXY_WRITE_HEADERS");
    let write = env::var_os("GFPROXY_WRITE_HEADERS").is_some();
    let target = if write { root.join("include") } else { out.join("include") };
    fs::create_dir_all(&target).unwrap_or_else(|e| panic!("{}: {e}", target.display()));
    for (name, guard, sources, includes) in HEADERS {
        generate_header(&root, &target.join(name), guard, sources, includes);
    }
    println!("cargo:rustc-env=GFPROXY_GENERATED_HEADERS={}", out.join("include").display());
}

/// What C alone can say: a variadic function and weak symbols. Each is a member of its own in the archive, so a linker
/// takes it only where the program (or a provided gfserver.o, steque.o) does not define the same symbols.
fn compile_shims() {
    let mut shims = vec!["c/steque.c", "c/compat.c", "c/simplecache.c"];
    if env::var_os("CARGO_FEATURE_GFSERVER").is_some() {
        shims.push("c/gfserver.c");
    }
    println!("cargo:rerun-if-changed=include");
    for shim in &shims {
        println!("cargo:rerun-if-changed={shim}");
    }
    cc::Build::new()
        .files(shims)
        .include("include")
        .flag("-std=gnu11")
        .warnings(true)
        .extra_warnings(true)
        .warnings_into_errors(true)
        .compile("gfproxy_shims");
}

fn generate_header(root: &Path, target: &Path, guard: &str, sources: &[&str], includes: &[&str]) {
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config).with_include_guard(guard);
    for source in sources {
        println!("cargo:rerun-if-changed={source}");
        builder = builder.with_src(root.join(source));
    }
    for include in includes {
        builder = builder.with_include(include);
    }
    let bindings = builder.generate().unwrap_or_else(|e| panic!("{}: {e}", target.display()));
    bindings.write_to_file(target);
}
