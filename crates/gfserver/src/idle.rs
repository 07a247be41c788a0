//! The parked connections: those that wait for the rest of a request, and those whose answer is sent and whose client
//! has not hung up yet. No thread waits with them; each has a deadline.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use slab::Slab;

/// How long a client may take to send its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may take to hang up after its answer.
const LINGER_LIMIT: Duration = Duration::from_secs(2);
/// When one connection must go, at most this many are asked whether they are idle.
const LOOKED_AT: usize = 64;

/// A client's connection.
pub(super) struct Connection {
    pub(super) socket: OwnedFd,
    pub(super) wait: Wait,
    /// Until when it may wait, set when it is parked first.
    pub(super) deadline: Option<Instant>,
    /// Whether the epoll knows the socket.
    pub(super) registered: bool,
}

/// What a connection waits for.
pub(super) enum Wait {
    /// The rest of the request, of which this much has arrived.
    Request(Vec<u8>),
    /// The client's hang-up.
    HangUp,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, wait: Wait::Request(Vec::new()), deadline: None, registered: false }
    }

    /// The answer is sent: from now on the connection waits for the client's hang-up.
    pub(super) fn linger(&mut self) {
        self.wait = Wait::HangUp;
        self.deadline = None;
    }

    /// Whether it was parked and has used up its time.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// The deadline for what it waits for now. It stays the same however often the connection is parked meanwhile.
    fn fix_deadline(&mut self) -> Instant {
        let limit = match self.wait {
            Wait::Request(_) => REQUEST_LIMIT,
            Wait::HangUp => LINGER_LIMIT,
        };
        *self.deadline.get_or_insert_with(|| Instant::now() + limit)
    }
}

/// All parked connections of a server.
#[derive(Default)]
pub(super) struct IdleConnections {
    places: Slab<Connection>,
    /// (deadline, place) of those that wait for a request, and of those that wait for a hang-up.
    requests: BTreeSet<(Instant, usize)>,
    hang_ups: BTreeSet<(Instant, usize)>,
}

impl IdleConnections {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Parks a connection that `arm`, given its place, has made ready for events; where that fails, closes it.
    /// Returns the connection's deadline.
    pub(super) fn park<E>(
        &mut self,
        mut connection: Connection,
        arm: impl FnOnce(&mut Connection, usize) -> Result<(), E>,
    ) -> Result<Instant, E> {
        let place = self.places.vacant_entry();
        let key = place.key();
        arm(&mut connection, key)?;
        let deadline = connection.fix_deadline();
        Self::order(&mut self.requests, &mut self.hang_ups, &connection).insert((deadline, key));
        place.insert(connection);
        Ok(deadline)
    }

    /// Takes the connection of a place out, if there still is one.
    pub(super) fn take(&mut self, place: usize) -> Option<Connection> {
        let mut connection = self.places.try_remove(place)?;
        let deadline = connection.fix_deadline();
        Self::order(&mut self.requests, &mut self.hang_ups, &connection).remove(&(deadline, place));
        Some(connection)
    }

    /// Takes out the connection that has waited longest for its request, or, where none does, for its hang-up. Of the
    /// requests, those stay whose sockets `have_bytes`: a worker is about to serve them.
    pub(super) fn take_oldest(&mut self, have_bytes: impl Fn(&OwnedFd) -> bool) -> Option<Connection> {
        let is_idle = |&&(_, place): &&(Instant, usize)| !have_bytes(&self.places[place].socket);
        let &(_, place) = self.requests.iter().take(LOOKED_AT).find(is_idle).or_else(|| self.hang_ups.first())?;
        self.take(place)
    }

    /// Takes out a connection whose deadline has passed.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Connection> {
        let expired = |set: &BTreeSet<(Instant, usize)>| set.first().filter(|(deadline, _)| *deadline <= now).copied();
        let (_, place) = expired(&self.requests).or_else(|| expired(&self.hang_ups))?;
        self.take(place)
    }

    /// Takes out all connections.
    pub(super) fn take_all(&mut self) -> Vec<Connection> {
        self.requests.clear();
        self.hang_ups.clear();
        self.places.drain().collect()
    }

    /// Takes out a connection that waits for its request.
    pub(super) fn take_unanswered(&mut self) -> Option<Connection> {
        let &(_, place) = self.requests.first()?;
        self.take(place)
    }

    /// The earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [&self.requests, &self.hang_ups].into_iter().filter_map(|set| set.first()).map(|(deadline, _)| *deadline).min()
    }

    fn order<'a>(
        requests: &'a mut BTreeSet<(Instant, usize)>,
        hang_ups: &'a mut BTreeSet<(Instant, usize)>,
        connection: &Connection,
    ) -> &'a mut BTreeSet<(Instant, usize)> {
        match connection.wait {
            Wait::Request(_) => requests,
            Wait::HangUp => hang_ups,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn connection() -> Connection {
        Connection::new(std::fs::File::open("/dev/null").expect("/dev/null").into())
    }

    fn lingering() -> Connection {
        let mut connection = connection();
        connection.linger();
        connection
    }

    fn park(connections: &mut IdleConnections, connection: Connection) -> usize {
        let mut place = 0;
        let arm = |_: &mut Connection, key| {
            place = key;
            Ok::<_, ()>(())
        };
        connections.park(connection, arm).expect("armed");
        place
    }

    #[test]
    fn deadlines_are_kept_while_a_connection_comes_and_goes() {
        let mut connections = IdleConnections::default();
        let first = park(&mut connections, connection());
        let deadline = connections.next_deadline().expect("one is idle");
        let slow = connections.take(first).expect("idle");
        assert_eq!(connections.next_deadline(), None);
        park(&mut connections, connection());
        park(&mut connections, slow);
        assert_eq!(connections.next_deadline(), Some(deadline));
    }

    #[test]
    fn only_what_is_due_expires() {
        let mut connections = IdleConnections::default();
        park(&mut connections, connection());
        park(&mut connections, lingering());
        let now = Instant::now();
        assert!(connections.take_expired(now).is_none());
        assert!(matches!(connections.take_expired(now + LINGER_LIMIT).map(|c| c.wait), Some(Wait::HangUp)));
        assert!(connections.take_expired(now + LINGER_LIMIT).is_none());
        assert!(matches!(connections.take_expired(now + REQUEST_LIMIT).map(|c| c.wait), Some(Wait::Request(_))));
        assert_eq!((connections.len(), connections.next_deadline()), (0, None));
    }

    #[test]
    fn the_oldest_idle_one_goes_first_and_answered_ones_last() {
        let mut connections = IdleConnections::default();
        park(&mut connections, lingering());
        let first = park(&mut connections, connection());
        park(&mut connections, connection());
        let oldest = connections.places[first].deadline;
        let mut take_oldest = || connections.take_oldest(|_| false);
        assert_eq!(take_oldest().expect("two are idle").deadline, oldest);
        assert!(matches!(take_oldest().map(|c| c.wait), Some(Wait::Request(_))));
        assert!(matches!(take_oldest().map(|c| c.wait), Some(Wait::HangUp)));
        assert!(take_oldest().is_none());
    }

    #[test]
    fn a_request_that_has_come_is_not_idle() {
        let mut connections = IdleConnections::default();
        let first = park(&mut connections, connection());
        let second = park(&mut connections, connection());
        let has_bytes = connections.places[first].socket.as_raw_fd();
        let idle = connections.places[second].socket.as_raw_fd();
        let mut take_oldest = || connections.take_oldest(|socket| socket.as_raw_fd() == has_bytes);
        assert_eq!(take_oldest().expect("one is idle").socket.as_raw_fd(), idle);
        assert!(take_oldest().is_none());
    }

    #[test]
    fn a_connection_that_cannot_be_armed_is_not_parked() {
        let mut connections = IdleConnections::default();
        assert!(connections.park(connection(), |_, _| Err(())).is_err());
        assert_eq!((connections.len(), connections.next_deadline()), (0, None));
    }
}
