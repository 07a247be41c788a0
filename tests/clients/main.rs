//! The two clients as their users run them: real processes against a scripted server.

#[path = "../common/getfile_client.rs"]
mod getfile_client;
#[path = "../common/getfile_server.rs"]
mod getfile_server;
#[path = "../common/programs.rs"]
mod programs;

mod download;
mod measure;
mod options;
