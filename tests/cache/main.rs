//! The cache daemon's files: what a locals file may say, what becomes of odd files, reloads under load, and how much
//! memory and how many descriptors it takes. Real processes, asked over GETFILE.

#[path = "../common/fixture.rs"]
mod fixture;
#[path = "../common/daemon_and_proxy.rs"]
mod pair;
#[path = "../common/programs.rs"]
mod programs;
#[path = "../common/scrape.rs"]
mod scrape;

mod c_interface;
mod descriptors;
mod file_systems;
mod held;
mod in_place;
mod moved;
mod odd_files;
mod reload;
mod size;
