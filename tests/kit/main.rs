//! The archive as a drop-in: under foreign mains, in the examples of the README, and through `make install`.

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

mod deps;
mod headers;
mod mains;
mod makefile;
mod readme;
mod stops;
mod valgrind;
