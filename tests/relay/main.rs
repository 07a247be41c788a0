//! `handle_with_curl` from outside: webproxy with `-s` as it is shipped, between origins that misbehave and clients
//! that do.

#[path = "../common/download.rs"]
mod download;
#[path = "../common/fixture.rs"]
mod fixture;
#[path = "../origin/support/nginx.rs"]
mod nginx;
#[path = "../common/programs.rs"]
mod programs;
#[path = "../origin/support/scripted.rs"]
mod scripted;

mod clients;
mod environment;
mod memory;
mod origins;
mod relay;
