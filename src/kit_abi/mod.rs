//! What the kit's ABI asks of a handler: answers through `gfs_sendheader` and `gfs_send`, and what a client of a
//! gfserver that blocks in write(2) has room for.
#![allow(unsafe_code)]

mod reply;
mod send_buffer;

pub(crate) use reply::{ContextReply, path_bytes};
