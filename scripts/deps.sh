#!/usr/bin/env bash
# scripts/deps.sh build|demo|test|bench: probes for what `make`, `make demo`, `make test` or `make bench` needs and installs what is missing with
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

# Says what to do about Rust, which no Debian package has in a version that is new enough.
check_rust() {
    local line wanted='' have install
    while IFS= read -r line; do
        [[ $line =~ ^rust-version\ =\ \"([0-9]+\.[0-9]+) ]] && wanted=${BASH_REMATCH[1]}
    done <"${BASH_SOURCE[0]%/*}/../Cargo.toml"
    install="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . ~/.cargo/env"
    if ! command -v cargo >/dev/null; then
        echo "Rust $wanted or newer is missing (no cargo in PATH): $install" >&2
        exit 1
    fi
    have=$(cargo --version) && [[ $have =~ ([0-9]+)\.([0-9]+)\. ]] && have=("${BASH_REMATCH[@]:1}") || have=()
    if [ ${#have[@]} -eq 2 ] && ((have[0] * 10000 + have[1] >= ${wanted%.*} * 10000 + ${wanted#*.})); then
        return
    fi
    command -v rustup >/dev/null && install="rustup update stable && rustup default stable"
    echo "Rust $wanted or newer is needed, $(command -v cargo) is ${have[0]-of an unknown version}${have[1]+.${have[1]}}: $install" >&2
    exit 1
}

check_rust
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
echo "Installing what is missing: ${missing[*]}"
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
