//! Every exported C symbol and nothing else: NULL checks, one panic guard, one safe call.
#![allow(unsafe_code)]

mod handlers;
mod process;
mod shm_channel;
