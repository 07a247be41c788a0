//! What must hold when processes are killed, stopped, crowded or hostile, at the level of the channel and of the
//! programs.

#[path = "../common/channel.rs"]
mod channel;
#[path = "../common/download.rs"]
mod download;
#[path = "../common/library.rs"]
mod library;
#[path = "../common/pair.rs"]
mod pair;
#[path = "../common/procfs.rs"]
mod procfs;
#[path = "../common/programs.rs"]
mod programs;
#[path = "../common/seqpacket.rs"]
mod seqpacket;

mod crowd;
mod descriptors;
mod hostile_daemon;
mod hostile_proxy;
mod kills;
mod resume;
mod roles;
mod segments;
mod stalls;
mod users;
