//! The channel from outside: its C interface, its C examples, and second implementations of both sides, written from
//! docs/reference/protocol.md.

#[path = "../common/programs.rs"]
mod programs;

mod abi;
mod examples;
mod fork;
mod held;
mod leaving;
mod memory;
mod second_client;
mod second_server;
mod store;
