//! Raw system calls and foreign ABIs, each behind a safe face.
#![allow(unsafe_code)]

#[cfg(feature = "gfserver")]
pub(crate) mod contexts;
pub(crate) mod curl;
pub(crate) mod fork;
#[cfg(not(loom))]
pub(crate) mod futex;
pub(crate) mod gfserver;
mod handed;
pub(crate) mod memory;
#[cfg(feature = "gfserver")]
pub(crate) mod net;
pub(crate) mod process;
pub(crate) mod send_buffer;
pub(crate) mod seqpacket;
pub(crate) mod standard;
pub(crate) mod unconfirmed;
pub(crate) mod watch;
pub(crate) mod write;
