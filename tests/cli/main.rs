//! The C programs as their users run them: command lines, failures at the start, signals, and what they serve.

#[path = "../common/fixture.rs"]
mod fixture;
#[path = "../common/load.rs"]
mod load;
#[path = "../common/memcheck.rs"]
mod memcheck;
#[path = "../common/programs.rs"]
mod programs;
#[path = "../common/static_origin.rs"]
mod static_origin;

mod drain;
mod failures;
mod fileserver;
mod options;
mod parts;
mod places;
mod service_manager;
mod signals;
mod valgrind;
