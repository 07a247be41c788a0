//! What an operator sees: logs and metrics of real processes.

#[path = "../common/fixture.rs"]
mod fixture;
#[path = "../common/daemon_and_proxy.rs"]
mod pair;
#[path = "../common/programs.rs"]
mod programs;
#[path = "../common/scrape.rs"]
mod scrape;
#[path = "../common/static_origin.rs"]
mod static_origin;

mod documents;
mod fork;
mod logs;
mod metrics;
mod stdio;
mod stuck;
