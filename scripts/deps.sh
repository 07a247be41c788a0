#!/usr/bin/env bash
# scripts/deps.sh build|demo|test|bench: probes for what `make`, `make demo`, `make test` or `make bench` needs and installs what misses with
# apt-get, as root or through sudo. Where it may not, it lists what to install and fails. Needs no network, and
# changes nothing, when nothing misses.
set -euo pipefail

# nginx lies in /usr/sbin, which is not in every user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
goal=${1:-test}
missing=()

need() { # need PACKAGE... -- PROBE...: the packages miss if the probe fails
    local packages=()
    while [ "$1" != -- ]; do packages+=("$1"); shift; done
    shift
    "$@" >/dev/null 2>&1 || missing+=("${packages[@]}")
}
links() { # links FLAGS...: whether a C program with these flags compiles and links
    printf '#include <stdlib.h>\n%s\nint main(void) { return EXIT_SUCCESS; }\n' "${include-}" |
        gcc -x c - -o /dev/null "$@"
}
curl_links() {
    local include='#include <curl/curl.h>'
    # Word splitting is meant: these are flags.
    # shellcheck disable=SC2046
    links $(pkg-config --cflags --libs libcurl)
}
probe() {
    missing=()
    need gcc libc6-dev -- links -fsanitize=address -static-libasan
    need pkg-config -- pkg-config --version
    need libcurl4-openssl-dev -- curl_links
    case $goal in
    build) return ;;
    esac
    need nginx -- nginx -v
    need openssl -- openssl version
    case $goal in
    test)
        need ca-certificates -- test -e /etc/ssl/certs/ca-certificates.crt
        # Valgrind needs the symbols of ld.so, which Debian ships in libc6-dbg.
        need valgrind libc6-dbg -- valgrind --quiet true
        ;;
    bench)
        need varnish -- varnishd -V
        need strace -- strace -V
        ;;
    esac
}

if ! command -v cargo >/dev/null; then
    echo "A Rust toolchain is missing (cargo is not in PATH): see https://rustup.rs" >&2
    exit 1
fi
probe
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if sudo -n true 2>/dev/null || { command -v sudo >/dev/null && [ -t 0 ]; }; then
        as_root=(sudo)
    else
        as_root=(false)
    fi
fi
if ! command -v apt-get >/dev/null || [ "${as_root[*]}" = false ]; then
    echo "Missing, please install (names of Debian packages): ${missing[*]}" >&2
    exit 1
fi
echo "Installing what misses: ${missing[*]}"
# RUNLEVEL=1 keeps the packages from starting their services: nginx is run by the demo and the tests alone.
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -y)
if ! { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${missing[@]}"; }; then
    echo "apt-get failed; please install: ${missing[*]}" >&2
    exit 1
fi
probe
if [ ${#missing[@]} -ne 0 ]; then
    echo "Still missing after apt-get: ${missing[*]}" >&2
    exit 1
fi
