//! The origin: an HTTP server of the ledger's states. The seed decides what it does with which request.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fastrand::Rng;

use crate::acts::{Act, Entity, perform, redirects, stray};
use crate::ledger::{FILES, Ledger, ON_DISK};
use crate::scripted::{After, Exchange, ScriptedOrigin};

pub struct Origin {
    server: Option<ScriptedOrigin>,
    script: Arc<Script>,
    address: SocketAddr,
}

struct Script {
    seed: u64,
    ledger: Arc<Ledger>,
    /// How often each file was asked for.
    asked: Vec<AtomicU64>,
    calm: AtomicBool,
}

impl Origin {
    pub fn start(seed: u64, ledger: Arc<Ledger>) -> Self {
        let asked = (0..FILES).map(|_| AtomicU64::new(0)).collect();
        let script = Arc::new(Script { seed, ledger, asked, calm: AtomicBool::new(false) });
        let server = serve(&script, TcpListener::bind("127.0.0.1:0").expect("a free port"));
        Self { address: server.address(), server: Some(server), script }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends all connections, and listens no more.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Listens again at the same address. None while somebody else has it.
    pub fn restart(&mut self) -> Option<()> {
        self.server = Some(serve(&self.script, TcpListener::bind(self.address).ok()?));
        Some(())
    }

    /// Whether it is to do nothing but what is usual.
    pub fn set_calm(&self, calm: bool) {
        self.script.calm.store(calm, Ordering::SeqCst);
    }

    pub fn is_idle(&self) -> bool {
        self.server.as_ref().is_none_or(ScriptedOrigin::is_idle)
    }

    /// Sends strays over all connections on which nothing is asked for.
    pub fn send_strays(&self, random: &mut Rng) {
        let file = random.usize(ON_DISK..FILES);
        let server = self.server.as_ref().expect("it runs");
        server.send_unasked(|| stray(random, file));
    }
}

fn serve(script: &Arc<Script>, listener: TcpListener) -> ScriptedOrigin {
    let script = Arc::clone(script);
    ScriptedOrigin::start_on(listener, move |x| script.answer(x))
}

impl Script {
    fn answer(&self, x: &mut Exchange<'_>) -> After {
        let path = x.request.target.trim_start_matches("/again");
        let file: usize = path.strip_prefix("/f/").expect("no other path is asked for").parse().expect("a number");
        if file < ON_DISK {
            return x.answer("404 Not Found", &[], b"not here");
        }
        let number = self.asked[file].fetch_add(1, Ordering::SeqCst);
        let mut random = Rng::with_seed(self.seed ^ (file as u64) << 32 ^ number);
        let act = if self.calm.load(Ordering::SeqCst) { Act::Plain } else { Act::draw(&mut random) };
        let state = self.ledger.state(file);
        let Some(len) = state.len else { return x.answer("404 Not Found", &[], b"removed") };
        if redirects(state.version) && path == x.request.target {
            let location = format!("Location: /again{path}");
            return x.answer("302 Found", &[&location], b"elsewhere");
        }
        let mut entity = Entity::new(file, state.version, len);
        let first = offset(x).filter(|&first| first < len);
        // One that sends stale ranges does not look at If-Range.
        let named = |entity: &Entity| x.request.field("If-Range").is_some_and(|name| entity.is_named_by(name));
        if act == Act::StaleRange || (act != Act::Rangeless && named(&entity)) {
            entity.first = first.unwrap_or(0);
        }
        if let Some(fault) = act.fault() {
            self.ledger.fault(file, fault);
        }
        self.ledger.note(format!("origin /f/{file} version {} from {}: {act:?}", state.version, entity.first));
        perform(x, act, &entity, &mut random)
    }
}

/// The offset of a request for the rest.
fn offset(x: &Exchange<'_>) -> Option<u64> {
    x.request.field("Range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}
