//! The shared-memory library between the two processes: files by key, from a [`Server`] to many [`Client`]s.
//!
//! A client owns the data channel, a sealed memfd of equal segments with control words for each, and hands it over
//! once, when it connects to the server's command socket. Requests are datagrams on that socket; answers and data go
//! through the shared memory alone. `docs/reference/protocol.md` has every byte of it.
//!
//! ```
//! use std::fs::{self, File};
//! use std::path::PathBuf;
//! use std::sync::Arc;
//!
//! use shm_channel::{Client, ClientConfig, OpenFile, Server, ServerConfig, Store, StoreError};
//!
//! /// Keys are names of files in a directory.
//! struct Directory(PathBuf);
//!
//! impl Store for Directory {
//!     fn open(&self, key: &[u8]) -> Result<Arc<OpenFile>, StoreError> {
//!         let name = str::from_utf8(key).map_err(|_| StoreError::NotFound)?;
//!         let file = File::open(self.0.join(name)).map_err(|_| StoreError::NotFound)?;
//!         OpenFile::new(file).map(Arc::new).map_err(|error| StoreError::Failed(error.to_string()))
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! fs::write(directory.path().join("greeting"), "hello")?;
//! let socket = directory.path().join("socket");
//!
//! // One process serves,
//! let config = ServerConfig { socket: socket.clone(), threads: 2, ..ServerConfig::default() };
//! let server = Server::start(&config, Arc::new(Directory(directory.path().to_owned())))?;
//!
//! // another asks; it need not wait for the first.
//! let client = Client::start(ClientConfig { socket, ..ClientConfig::default() })?;
//! let mut transfer = client.open(b"greeting")?;
//! assert_eq!(transfer.len(), 5);
//! let copy = File::create(directory.path().join("copy"))?;
//! while let Some(chunk) = transfer.next_chunk()? {
//!     chunk.write_to(&copy)?;
//! }
//! assert_eq!(fs::read(directory.path().join("copy"))?, b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! From the bottom up: `layout` and `wire` say where each number is. `arena` maps the memory. `ring` hands chunks over.
//! `backoff` yields the processor before a side sleeps. [`client`] and [`server`] keep sessions. Neither side believes
//! what the other writes: see `ring::Violation`.

pub mod client;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod memory;
mod protocol;
pub mod server;
mod store;

pub use client::{Absence, Client, ClientConfig, ClientError, ClientStats, OpenError, Transfer, TransferError};
pub use memory::arena::MemoryError;
pub use memory::layout::{Layout, LayoutError, MAX_AREA, MAX_SEGMENT_SIZE, MAX_SEGMENTS, MIN_SEGMENT_SIZE, Validator};
pub use protocol::address::settled;
pub use protocol::address::{BindError, default_socket};
pub use protocol::wire::MAX_KEY;
pub use server::{Server, ServerConfig, ServerError, ServerStats};
pub use store::{MAX_OPEN_LOOKS, MTIME_TICK, OpenFile, Store, StoreError};
