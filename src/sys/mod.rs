//! Raw system calls and foreign ABIs, each behind a safe face.
#![allow(unsafe_code)]

pub(crate) mod curl;
pub(crate) mod futex;
pub(crate) mod gfserver;
pub(crate) mod process;
pub(crate) mod seqpacket;
