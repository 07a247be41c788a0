//! Our own GETFILE server, for programs that bring no gfserver.o. `docs/reference/gfserver.md` has the wire and the
//! life of a connection, `docs/decisions/` the reasons and the figures.
//!
//! All workers share one epoll and do the same work. The worker that finds a connection accepts it. The worker that
//! finds a request complete calls the handler. So no request is handed from one thread to another. A connection that
//! waits, for the rest of a request or for the client's hang-up, lies parked in the epoll and holds no thread.
//!
//! - `abi`: the layout of the two structs of gfserver.h.
//! - `contexts`: the calls of the program's handler.
//! - `instance`: what `gfserver_init` makes: settings, the state from start to stop.
//! - `core`: what a serving instance shares: listener, epoll, parked connections, the end.
//! - `slot`: what one worker shares with others.
//! - `worker`: one worker thread.
//! - `worker_limit`: how many workers are on duty.
//! - `maintenance`: deadlines and the end, on the thread that called `gfserver_serve`.
//! - `idle`: idle connections and their deadlines.
//! - `answer`: what may still be sent in answer to a request, and how the connection ends.
//! - `request`: the request line.
#![allow(missing_docs, reason = "this workspace alone uses it, and knows it by its names")]

pub mod abi;
mod answer;
#[allow(unsafe_code)]
pub mod contexts;
mod core;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod idle;
mod instance;
mod maintenance;
#[allow(unsafe_code)]
mod net;
mod request;
mod slot;
mod worker;
mod worker_limit;

pub use answer::{send, send_header};
pub use contexts::calls_handler;
pub use instance::{Instance, SEND_LIMIT};
pub use net::Listener;
pub use slot::WorkerSlot;
