//! Simultaneous requests for one file become one request to the origin.
//!
//! A thread of its own fetches the file into a [`Flight`]. All requests for the file read from the flight, the first
//! one too. So no client can hold up another. The fetch keeps to the pace of the fastest reader. The bytes that slower
//! readers still need are kept in memory up to a window, and beyond that in an unlinked temporary file.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::Origin;
use super::sink::Sink;
use super::spool::{Portion, temporary_file};
use base::Chunk;
use base::process::spawn;
use getfile::{ClientGone, Outcome, Reply, Status};

/// What a flight keeps in memory, give or take one chunk.
const WINDOW: usize = 1 << 20;
/// What a reader takes at a time.
const PIECE: usize = 256 << 10;

/// How often a drain looks whether the threads have ended.
const LOOK: Duration = Duration::from_millis(5);

/// The files that are being fetched, by path.
#[derive(Debug, Default)]
pub(super) struct Flights {
    by_path: Mutex<HashMap<Vec<u8>, Arc<Flight>>>,
    /// At the end of the process none may be in a library that has cleaned up.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Flights {
    /// Joins the flight for `path`, or begins one, which the caller must then fetch.
    fn join_or_begin(&self, path: &[u8], ceiling: u64, disk: Portion) -> (Reader, bool) {
        let mut flights = self.by_path.lock();
        if let Some(reader) = flights.get(path).and_then(Reader::join) {
            return (reader, false);
        }
        let flight = Arc::new(Flight { state: Mutex::new(State::new(ceiling, disk)), changed: Condvar::new() });
        let reader = Reader::join(&flight).expect("a flight begins open");
        flights.insert(path.to_owned(), flight);
        (reader, true)
    }

    fn forget(&self, path: &[u8], flight: &Arc<Flight>) {
        let mut flights = self.by_path.lock();
        if flights.get(path).is_some_and(|current| Arc::ptr_eq(current, flight)) {
            flights.remove(path);
        }
    }

    fn note(&self, thread: JoinHandle<()>) {
        self.join_ended();
        self.threads.lock().push(thread);
    }

    /// Returns how many have not ended.
    fn join_ended(&self) -> usize {
        let mut threads = self.threads.lock();
        for thread in threads.extract_if(.., |thread| thread.is_finished()) {
            // A thread that panicked has printed why.
            let _ = thread.join();
        }
        threads.len()
    }
}

impl Origin {
    /// As [`serve`](Self::serve), but requests that come while another one for the same path is being answered share
    /// its answer. Costs a thread for each fetch, so it is for places where requests do coincide.
    pub fn serve_coalesced(self: &Arc<Self>, path: &[u8], reply: &mut dyn Reply) -> Outcome {
        let (reader, is_first) = self.flights.join_or_begin(path, self.config.spool_ceiling, self.budgets.disk());
        if is_first {
            let fetch = Fetch { origin: Arc::clone(self), path: path.to_owned(), flight: Arc::clone(&reader.flight) };
            match spawn("origin-fetch", move || fetch.run()) {
                Ok(thread) => self.flights.note(thread),
                // The fetch was dropped with its closure, which has ended the flight for the other readers.
                Err(error) => return Outcome::Failed(format!("no thread to fetch with: {error}")),
            }
        }
        reader.relay(reply)
    }

    /// Waits for the fetches, which nobody reads any more, to end. Returns how many are left at the deadline.
    pub fn drain(&self, deadline: Instant) -> usize {
        loop {
            let left = self.flights.join_ended();
            if left == 0 || Instant::now() >= deadline {
                return left;
            }
            thread::sleep(LOOK);
        }
    }
}

/// A file being fetched.
#[derive(Debug)]
struct Flight {
    state: Mutex<State>,
    /// Told when there is more to read, when a reader has read, and at the end.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// The length in the header, once it is there.
    length: Option<u64>,
    /// The bytes from `base` to `end` are kept.
    kept: Kept,
    base: u64,
    end: u64,
    outcome: Option<Outcome>,
    /// How far each reader is. Readers are few: at most one for each worker.
    readers: Vec<(u64, u64)>,
    next_reader: u64,
    /// The largest file that may be kept for slow readers. A larger one goes at their pace, and so does one for which
    /// the disk has no room.
    ceiling: u64,
    /// What the file has of the disk: room for all of it.
    disk: Portion,
}

#[derive(Debug)]
enum Kept {
    Memory(VecDeque<u8>),
    File(Arc<File>),
}

impl State {
    fn new(ceiling: u64, disk: Portion) -> Self {
        Self {
            length: None,
            kept: Kept::Memory(VecDeque::new()),
            base: 0,
            end: 0,
            outcome: None,
            readers: Vec::new(),
            next_reader: 0,
            ceiling,
            disk,
        }
    }

    fn slowest(&self) -> u64 {
        self.readers.iter().map(|&(_, offset)| offset).min().unwrap_or(self.end)
    }

    fn fastest(&self) -> u64 {
        self.readers.iter().map(|&(_, offset)| offset).max().unwrap_or(self.end)
    }

    /// Whether the next chunk has to wait for a reader.
    fn is_ahead(&mut self) -> bool {
        let window = WINDOW as u64;
        self.end - self.fastest() >= window || (self.end - self.slowest() >= window && !self.may_spill())
    }

    /// Whether slow readers may have a file.
    fn may_spill(&mut self) -> bool {
        self.length.is_some_and(|length| length <= self.ceiling && self.disk.grow_to(length))
    }

    /// Whether nothing more is to come. A file can be whole before the fetch has ended: somebody may already have all
    /// of it and ask again, and that asks the origin.
    fn is_over(&self) -> bool {
        self.outcome.is_some() || self.length == Some(self.end)
    }

    /// Whether nobody reads. From then on nobody joins, either.
    fn close_if_abandoned(&mut self) -> bool {
        if self.readers.is_empty() {
            self.outcome = Some(Outcome::Cut("nobody waits for the file".to_owned()));
        }
        self.readers.is_empty()
    }

    fn append(&mut self, data: &[u8]) -> io::Result<()> {
        if let Kept::Memory(memory) = &mut self.kept
            && memory.len() + data.len() > WINDOW
        {
            self.make_room(data.len())?;
        }
        match &mut self.kept {
            Kept::Memory(memory) => memory.extend(data),
            Kept::File(file) => file.write_all_at(data, self.end - self.base)?,
        }
        self.end += data.len() as u64;
        Ok(())
    }

    /// Drops what everybody has read. If that is not enough, a slow reader needs it: it goes to a file.
    fn make_room(&mut self, len: usize) -> io::Result<()> {
        let read = self.slowest() - self.base;
        let Kept::Memory(memory) = &mut self.kept else { return Ok(()) };
        memory.drain(..read as usize);
        self.base += read;
        // Half a window more, so that readers a little apart do not make it a file.
        if memory.len() + len > WINDOW + WINDOW / 2 {
            let file = temporary_file()?;
            let (first, second) = memory.as_slices();
            file.write_all_at(first, 0)?;
            file.write_all_at(second, first.len() as u64)?;
            self.kept = Kept::File(Arc::new(file));
        }
        Ok(())
    }
}

/// The fetching side. However it ends, its flight does too.
struct Fetch {
    origin: Arc<Origin>,
    path: Vec<u8>,
    flight: Arc<Flight>,
}

impl Fetch {
    fn run(self) {
        let outcome = self.origin.fetch(&self.path, &mut FlightWriter { flight: &self.flight });
        self.end(outcome);
    }

    /// The first end counts.
    fn end(&self, outcome: Outcome) {
        self.origin.flights.forget(&self.path, &self.flight);
        self.flight.state.lock().outcome.get_or_insert(outcome);
        self.flight.changed.notify_all();
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.end(Outcome::Failed("the fetch was given up".to_owned()));
    }
}

/// Where a fetch writes to.
struct FlightWriter<'f> {
    flight: &'f Flight,
}

impl Sink for FlightWriter<'_> {
    fn header(&mut self, len: u64) -> Result<(), ClientGone> {
        self.flight.state.lock().length = Some(len);
        self.flight.changed.notify_all();
        Ok(())
    }

    fn body(&mut self, data: &[u8]) -> Result<(), ClientGone> {
        let mut state = self.flight.state.lock();
        while state.is_ahead() && !state.readers.is_empty() {
            self.flight.changed.wait(&mut state);
        }
        if state.close_if_abandoned() {
            return Err(ClientGone);
        }
        if let Err(error) = state.append(data) {
            state.outcome = Some(Outcome::Cut(format!("the body cannot be kept for those that wait: {error}")));
            return Err(ClientGone);
        }
        drop(state);
        self.flight.changed.notify_all();
        Ok(())
    }

    /// Not passed on: a resume concerns the fetch, not one of its readers.
    fn resumed(&mut self) {}

    /// Readers that have it all have left, too: then the fetch ends by itself, and its connection can be kept.
    fn is_abandoned(&self) -> bool {
        let mut state = self.flight.state.lock();
        state.length != Some(state.end) && state.close_if_abandoned()
    }
}

/// One of those that wait for a file.
struct Reader {
    flight: Arc<Flight>,
    id: u64,
}

impl Reader {
    /// None if the flight is over, or its beginning gone.
    fn join(flight: &Arc<Flight>) -> Option<Self> {
        let mut state = flight.state.lock();
        if state.is_over() || state.base > 0 {
            return None;
        }
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.push((id, 0));
        Some(Self { flight: Arc::clone(flight), id })
    }

    /// Sends the file as it comes.
    fn relay(&self, reply: &mut dyn Reply) -> Outcome {
        let length = {
            let mut state = self.flight.state.lock();
            while state.length.is_none() && state.outcome.is_none() {
                self.flight.changed.wait(&mut state);
            }
            match (state.length, &state.outcome) {
                (Some(length), _) => length,
                (None, outcome) => return outcome.clone().expect("waited for"),
            }
        };
        match self.relay_body(length, reply) {
            Ok(outcome) => outcome,
            Err(gone) => Outcome::Cut(gone.to_string()),
        }
    }

    fn relay_body(&self, length: u64, reply: &mut dyn Reply) -> Result<Outcome, ClientGone> {
        reply.header(Status::Ok, length)?;
        let mut piece = vec![0; PIECE.min(usize::try_from(length).unwrap_or(usize::MAX))];
        let mut offset = 0;
        while offset < length {
            let read = match self.read(offset, &mut piece) {
                Ok(0) => return Ok(self.broken_off()),
                Ok(read) => read,
                Err(error) => return Ok(Outcome::Cut(format!("the kept body cannot be read: {error}"))),
            };
            reply.body(Chunk::from(&piece[..read]))?;
            offset += read as u64;
            self.advance(offset);
        }
        Ok(Outcome::Sent(length))
    }

    /// Waits for bytes from `offset` on; 0 is the end.
    fn read(&self, offset: u64, piece: &mut [u8]) -> io::Result<usize> {
        let mut state = self.flight.state.lock();
        while state.end == offset && state.outcome.is_none() {
            self.flight.changed.wait(&mut state);
        }
        let len = piece.len().min(usize::try_from(state.end - offset).unwrap_or(usize::MAX));
        let at = offset - state.base;
        match &state.kept {
            Kept::Memory(memory) => {
                let at = at as usize;
                let (first, second) = memory.as_slices();
                let from_first = first.get(at..).map_or(0, |rest| rest.len().min(len));
                piece[..from_first].copy_from_slice(&first[at.min(first.len())..][..from_first]);
                let at = (at + from_first) - first.len().min(at + from_first);
                piece[from_first..len].copy_from_slice(&second[at..][..len - from_first]);
                Ok(len)
            }
            Kept::File(file) => {
                let file = Arc::clone(file);
                MutexGuard::unlocked(&mut state, || file.read_exact_at(&mut piece[..len], at))?;
                Ok(len)
            }
        }
    }

    fn advance(&self, offset: u64) {
        let mut state = self.flight.state.lock();
        if let Some(reader) = state.readers.iter_mut().find(|(id, _)| *id == self.id) {
            reader.1 = offset;
        }
        drop(state);
        self.flight.changed.notify_all();
    }

    fn broken_off(&self) -> Outcome {
        match self.flight.state.lock().outcome.clone() {
            Some(Outcome::Cut(reason) | Outcome::Failed(reason)) => Outcome::Cut(reason),
            _ => Outcome::Cut("the body ended before its length".to_owned()),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.flight.state.lock().readers.retain(|&(id, _)| id != self.id);
        self.flight.changed.notify_all();
    }
}
