//! The channel as a C library of its own: `shm_channel_<object>_<verb>`. One file for each type of the C interface.

mod client;
mod error;
mod server;
mod transfer;
