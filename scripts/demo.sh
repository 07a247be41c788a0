#!/usr/bin/env bash
# scripts/demo.sh: the main job on real input. An nginx on loopback is the origin; one webproxy relays to it (Part 1), a
# second one serves the same files from simplecached over shared memory (Part 2). Each file is downloaded through both
# and compared with the original. Exits 1 if anything differs. All lies in one temporary directory, which goes at the
# end together with every process that was started, also on failure and Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=$(cd "${BIN:-bin}" && pwd)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
CLIENTS=16 REQUESTS=200
work=$(mktemp -d "${TMPDIR:-/tmp}/gfproxy-demo.XXXXXX")
declare -A running=()
failures=0

end() { # end PID: SIGTERM, after 10 s SIGKILL; returns the status of the process
    [ -n "${running[$1]-}" ] || return 0
    unset "running[$1]"
    kill -TERM "$1" 2>/dev/null || true
    for _ in {1..200}; do
        kill -0 "$1" 2>/dev/null || break
        sleep 0.05
    done
    kill -KILL "$1" 2>/dev/null || true
    wait "$1"
}
cleanup() {
    local status=$? pid
    trap - EXIT INT TERM
    for pid in "${!running[@]}"; do end "$pid" || true; done
    rm -rf "$work"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
    echo "demo: $*" >&2
    failures=$((failures + 1))
}

port_of() { # port_of PID: the TCP port that the process listens on, as soon as it does
    local inode port
    for _ in {1..200}; do
        kill -0 "$1" 2>/dev/null || return 1
        for inode in $(find "/proc/$1/fd" -lname 'socket:*' -printf '%l\n' 2>/dev/null | tr -dc '0-9\n'); do
            port=$(cat "/proc/$1/net/tcp" "/proc/$1/net/tcp6" 2>/dev/null |
                awk -v inode="$inode" '$4 == "0A" && $10 == inode { sub(/.*:/, "", $2); print $2; exit }')
            if [ -n "$port" ]; then
                echo $((16#$port))
                return
            fi
        done
        sleep 0.05
    done
    return 1
}

collect_files() { # real files of every kind, a large one, an empty one
    local image count=0
    mkdir -p "$work/origin/images" "$work/origin/text"
    cp docs/*.svg "$work/origin/images/"
    while read -r image; do
        cp "$image" "$work/origin/images/$((++count))-${image##*/}"
    done < <(find -L /usr/share "$(rustc --print sysroot)/share" -type f -readable -size +1k -size -2048k \
        -regex '.*/[A-Za-z0-9._-]+\.\(png\|jpe?g\|gif\|webp\)' -printf '%s %p\n' 2>/dev/null |
        sort -rnu -k 1,1 | head -n 3 | cut -d ' ' -f 2-)
    cp README.md LICENSE-APACHE "$work/origin/text/"
    cp Cargo.lock "$work/origin/text/Cargo.lock"
    cp "$bin/webproxy" "$work/origin/program"
    : >"$work/origin/empty"
    # 64 MiB that are the same each time: the key stream of AES under a fixed key.
    head -c 67108864 /dev/zero |
        openssl enc -aes-128-ctr -K 67667072677072786f7879202d2d2d20 -iv 00000000000000000000000000000000 \
            >"$work/origin/64MiB.bin"
    (cd "$work/origin" && find . -type f -printf '/%P\n' | LC_ALL=C sort) >"$work/files"
    # The cache's catalog of the same files.
    awk -v root="$work/origin" '{ print $0 " " root $0 }' "$work/files" >"$work/locals.txt"
}

start_origin() { # sets origin
    local port pid
    mkdir "$work/nginx"
    for _ in {1..20}; do
        port=$((20000 + RANDOM % 40000))
        cat >"$work/nginx.conf" <<CONF
$([ "$(id -u)" -ne 0 ] || echo "user root;")
daemon off;
pid $work/nginx/pid;
events {}
http {
    access_log off;
    sendfile on;
    client_body_temp_path $work/nginx/body;
    proxy_temp_path $work/nginx/proxy;
    fastcgi_temp_path $work/nginx/fastcgi;
    uwsgi_temp_path $work/nginx/uwsgi;
    scgi_temp_path $work/nginx/scgi;
    server { listen 127.0.0.1:$port; root $work/origin; }
}
CONF
        nginx -e "$work/nginx/error.log" -p "$work/nginx" -c "$work/nginx.conf" 2>"$work/nginx/stderr" &
        pid=$!
        running[$pid]=1
        if [ "$(port_of "$pid")" = "$port" ]; then
            origin=http://127.0.0.1:$port
            return
        fi
        end "$pid" || true
    done
    cat "$work/nginx/stderr" >&2
    echo "demo: nginx does not start" >&2
    exit 1
}

start_proxy() { # start_proxy OPTION...: sets proxy_pid and proxy_port
    "$bin/webproxy_noasan" -p 0 "$@" &
    proxy_pid=$!
    running[$proxy_pid]=1
    proxy_port=$(port_of "$proxy_pid") || {
        echo "demo: webproxy does not listen" >&2
        exit 1
    }
}

row() { printf '%-34s %10s  %-15s %9s %8s  %s\n' "$@"; }

# download NAME PORT VIA CLIENTS REQUESTS FILE...: fetches the files, compares each with the original, prints a row
download() {
    local name=$1 port=$2 via=$3 clients=$4 requests=$5 into status=OK bytes=- seconds=- rate=- file
    shift 5
    into=$(mktemp -d "$work/download.XXXXXX")
    printf '%s\n' "$@" >"$into.workload"
    if (cd "$into" && "$bin/gfclient_download" -s 127.0.0.1 -p "$port" -t "$clients" -r "$requests" \
        -w "$into.workload") >"$into.log" 2>"$into.errors"; then
        read -r bytes seconds < <(sed -nE 's/.* ([0-9]+) bytes in ([0-9.]+) s$/\1 \2/p' "$into.log")
        rate=$(awk -v b="$bytes" -v s="$seconds" 'BEGIN { if (s > 0) printf "%.0f", b / s / 1e6; else print "-" }')
        for file in "$@"; do
            cmp -s "$work/origin$file" "$into$file" || status=DIFFERS
        done
    else
        status=$(sed -nE '1s/.*: ([A-Z_]+)$/\1/p' "$into.errors")
        [ -n "$status" ] || status=FAILED
        # What failed must have left nothing behind.
        [ -z "$(find "$into" -type f)" ] || status=LEFTOVERS
    fi
    row "$name" "$bytes" "$status" "$seconds" "$rate" "$via"
    if [ "$status" != "$expected" ]; then
        fail "$name via $via: $status, expected $expected"
        cat "$into.errors" >&2
    fi
    rm -rf "$into"
}

collect_files
start_origin
start_proxy -s "$origin" -t "$CLIENTS"
part1_pid=$proxy_pid part1=$proxy_port
"$bin/simplecached_noasan" -c "$work/locals.txt" -S "$work/socket" &
cached_pid=$!
running[$cached_pid]=1
start_proxy -S "$work/socket" -t "$CLIENTS"
part2_pid=$proxy_pid part2=$proxy_port

row file bytes status seconds MB/s via
expected=OK
while read -r file; do
    download "$file" "$part1" origin 1 1 "$file"
    download "$file" "$part2" cache 1 1 "$file"
done <"$work/files"
expected=FILE_NOT_FOUND
download /missing "$part1" origin 1 1 /missing
download /missing "$part2" cache 1 1 /missing
expected=OK
mapfile -t files < <(grep -v 64MiB "$work/files")
download "all but the 64 MiB, $CLIENTS clients" "$part1" origin "$CLIENTS" "$REQUESTS" "${files[@]}"
download "all but the 64 MiB, $CLIENTS clients" "$part2" cache "$CLIENTS" "$REQUESTS" "${files[@]}"

for pid in "$part1_pid" "$part2_pid" "$cached_pid"; do
    end "$pid" || fail "process $pid ended with status $?"
done
[ "$failures" -eq 0 ] || exit 1
echo "Every byte is as on the origin, and all three programs ended cleanly on SIGTERM."
