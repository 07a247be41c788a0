//! Our gfserver from outside: a C program of the archive (`server.c`), and clients on real sockets.

mod answers;
mod crowd;
mod fixture;
mod listening;
mod requests;
mod stop;

// The archive is this crate's: it must be built before these tests run.
use gfproxy as _;
