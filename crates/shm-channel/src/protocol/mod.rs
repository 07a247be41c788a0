//! The command socket: where it is, its datagrams, and how they are sent.

pub(crate) mod address;
pub(crate) mod owner;
#[allow(unsafe_code)]
pub(crate) mod seqpacket;
#[allow(unsafe_code)]
pub(crate) mod watch;
pub(crate) mod wire;
