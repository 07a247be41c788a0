//! A client as a handler sees it: it is sent what it has room for, and waited for as long as it takes something.

use std::time::{Duration, Instant};

use base::Chunk;
use getfile::{ClientGone, Outcome, Reply, Status};

/// What a handler needs of its client beside the answer itself.
pub(crate) trait Connection: Reply {
    /// Bounds every read and write.
    fn set_timeouts(&self, receive: Duration, send: Duration);
    /// Holds small writes back (true), or sends what is held back (false).
    fn set_cork(&self, on: bool);
    /// How many of `len` bytes can be sent without waiting for the client; 0 if there is no room within `patience`.
    fn room(&mut self, len: usize, patience: Duration) -> usize;
    /// Waits for room. False if the client takes no byte for `limit`.
    fn drains(&self, limit: Duration) -> bool;
    /// Whether a header went out, so that an error can only be told by cutting the connection.
    fn header_sent(&self) -> bool;
    /// Ends the connection in both directions, so that the client sees a file cut short.
    fn cut(&self);
    /// The client's address, for the log.
    fn peer(&self) -> String;
}

/// A client, and what it has got so far.
pub(super) struct PacedReply<'c> {
    pub(super) connection: &'c mut dyn Connection,
    /// How long the client may take no byte.
    stall: Duration,
    pub(super) bytes: u64,
    /// How often the transfer broke off and went on.
    pub(super) resumed: u32,
}

impl<'c> PacedReply<'c> {
    pub(super) fn new(connection: &'c mut dyn Connection, stall: Duration) -> Self {
        Self { connection, stall, bytes: 0, resumed: 0 }
    }

    /// Sends of a chunk what the client has room for, or makes room for within `patience`, which is for the whole
    /// chunk: a client that takes it in drips would hold it for long. Returns how many bytes that was.
    pub(super) fn send(&mut self, chunk: Chunk<'_>, patience: Duration) -> Result<usize, ClientGone> {
        let mut sent = 0;
        let mut since = None;
        while sent < chunk.len() {
            let waited = since.map_or(Duration::ZERO, |since: Instant| since.elapsed());
            let room = self.connection.room(chunk.len() - sent, patience.saturating_sub(waited));
            if room == 0 {
                break;
            }
            self.connection.body(chunk.part(sent, room))?;
            sent += room;
            self.bytes += room as u64;
            since = since.or_else(|| Some(Instant::now()));
        }
        Ok(sent)
    }

    /// Tells the client of an outcome that is not a whole file, if it can be told.
    pub(super) fn conclude(&mut self, outcome: Outcome) -> Outcome {
        let outcome = match outcome {
            Outcome::NotFound => match self.connection.header(Status::FileNotFound, 0) {
                Ok(()) => Outcome::NotFound,
                Err(gone) => Outcome::Cut(gone.to_string()),
            },
            other => other,
        };
        if matches!(outcome, Outcome::Cut(_)) {
            self.connection.cut();
        }
        outcome
    }

    /// Waits until the client has made room, as long as it takes anything at all.
    pub(super) fn wait_for_client(&self) -> Result<(), ClientGone> {
        if self.connection.drains(self.stall) { Ok(()) } else { Err(ClientGone) }
    }
}

impl Reply for PacedReply<'_> {
    fn header(&mut self, status: Status, len: u64) -> Result<(), ClientGone> {
        self.connection.header(status, len)
    }

    /// Sends all of a chunk. A send that waits in the kernel would be given up after `stall` however much the client
    /// takes meanwhile, so it is waited here.
    fn body(&mut self, chunk: Chunk<'_>) -> Result<(), ClientGone> {
        let mut sent = self.send(chunk, Duration::ZERO)?;
        while sent < chunk.len() {
            self.wait_for_client()?;
            sent += self.send(chunk.part(sent, chunk.len() - sent), Duration::ZERO)?;
        }
        Ok(())
    }

    fn resumed(&mut self) {
        self.resumed += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A client with little room, which it makes again only while it is waited for.
    #[derive(Debug, Default)]
    struct Narrow {
        room: Cell<usize>,
        got: Vec<u8>,
        /// So many times it makes room, and then no more.
        drains: Cell<u32>,
        /// It makes room for one byte a millisecond, for whoever waits.
        drips: bool,
    }

    impl Reply for Narrow {
        fn header(&mut self, _: Status, _: u64) -> Result<(), ClientGone> {
            Ok(())
        }

        fn body(&mut self, chunk: Chunk<'_>) -> Result<(), ClientGone> {
            assert!(chunk.len() <= self.room.get(), "a send that would wait in the kernel");
            self.room.set(self.room.get() - chunk.len());
            let (mut read, write) = std::io::pipe().expect("a pipe");
            chunk.write_to(&write).expect("a pipe holds this much");
            drop(write);
            std::io::Read::read_to_end(&mut read, &mut self.got).expect("a pipe");
            Ok(())
        }
    }

    impl Connection for Narrow {
        fn set_timeouts(&self, _: Duration, _: Duration) {}

        fn set_cork(&self, _: bool) {}

        fn room(&mut self, len: usize, patience: Duration) -> usize {
            if self.drips && !patience.is_zero() {
                std::thread::sleep(Duration::from_millis(1));
                self.room.set(1);
            }
            len.min(self.room.get())
        }

        fn drains(&self, _: Duration) -> bool {
            let left = self.drains.get();
            self.drains.set(left.saturating_sub(1));
            self.room.set(100);
            left > 0
        }

        fn header_sent(&self) -> bool {
            false
        }

        fn cut(&self) {}

        fn peer(&self) -> String {
            String::new()
        }
    }

    #[test]
    fn a_body_goes_out_as_the_client_makes_room() {
        let file: Vec<u8> = (0..250).collect();
        let mut client = Narrow { drains: Cell::new(3), ..Narrow::default() };
        let mut paced = PacedReply::new(&mut client, Duration::ZERO);
        assert_eq!(paced.body(Chunk::from(&file[..])), Ok(()));
        assert_eq!(paced.bytes, 250);
        assert_eq!(client.got, file);
    }

    #[test]
    fn a_client_that_makes_no_room_is_gone() {
        let file = [7; 250];
        let mut client = Narrow { drains: Cell::new(2), ..Narrow::default() };
        let mut paced = PacedReply::new(&mut client, Duration::ZERO);
        assert_eq!(paced.body(Chunk::from(&file[..])), Err(ClientGone));
        assert_eq!(paced.bytes, 200);
    }

    #[test]
    fn a_client_that_takes_a_chunk_in_drips_has_one_patience_for_all_of_it() {
        let mut client = Narrow { drips: true, ..Narrow::default() };
        let mut paced = PacedReply::new(&mut client, Duration::ZERO);
        let sent = paced.send(Chunk::from(&[7; 1000][..]), Duration::from_millis(20)).expect("it is there");
        assert!((1..1000).contains(&sent), "{sent}");
    }
}
