//! webproxy in front of an origin.

use std::process::Command;

use crate::fixture::{Cache, Files};
use crate::programs::{Ended, Program, program};
use crate::scripted::ScriptedOrigin;

/// Which handler relays.
#[derive(Clone, Copy, Debug)]
pub enum Route {
    /// `-s` alone.
    Plain,
    /// `-s` behind a cache that has nothing: simultaneous requests for a path become one.
    Coalesced,
}

pub struct Relay {
    pub port: u16,
    pub webproxy: Program,
    _cache: Option<Cache>,
}

impl Relay {
    pub fn start(route: Route, origin: &ScriptedOrigin, options: &[&str]) -> Self {
        let mut command = Command::new(program("webproxy_noasan"));
        command.args(["-s", &origin.url()]).args(options);
        Self::start_command(route, command)
    }

    /// With a command line that names the origin.
    pub fn start_command(route: Route, mut command: Command) -> Self {
        let cache = match route {
            Route::Plain => None,
            Route::Coalesced => Some(Cache::start("simplecached_noasan", &Files::new())),
        };
        if let Some(cache) = &cache {
            command.args(["-n", "4", "-S"]).arg(cache.socket());
        }
        let mut webproxy = Program::start(command.args(["-p", "0"]));
        let port = webproxy.port_at_all_addresses();
        Self { port, webproxy, _cache: cache }
    }

    pub fn stop(self) -> Ended {
        self.webproxy.stop()
    }
}
