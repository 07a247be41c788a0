//! The shared-memory library between the two processes: files by key, from a [`Server`] to many [`Client`]s.
//!
//! A client owns the data channel, a sealed memfd of equal segments with control words for each, and hands it over once,
//! when it connects to the server's command socket. Requests are datagrams on that socket; answers and data go through
//! the shared memory alone. `docs/protocol.md` has every byte of it.
//!
//! From the bottom up: `layout` and `wire` say where each number is; `arena` maps the memory; `ring` hands chunks over;
//! [`client`] and [`server`] keep sessions. Neither side believes what the other writes: see `ring::Violation`.

mod address;
mod arena;
pub mod client;
mod layout;
mod ring;
pub mod server;
mod store;
mod sync;
mod wire;

pub use address::{BindError, default_socket};
pub use client::{Client, ClientConfig, ClientError, ClientStats, OpenError, Transfer, TransferError};
pub use layout::{LayoutError, MAX_AREA, MAX_SEGMENT_SIZE, MAX_SEGMENTS, MIN_SEGMENT_SIZE, Validator};
pub use server::{Server, ServerConfig, ServerError};
pub use store::{OpenFile, Store, StoreError};
pub use wire::MAX_KEY;
