//! The socket of a peer, and what comes through it. A close must keep nobody waiting. That of a TCP socket takes as
//! long as its sender chose (SO_LINGER). Closing a socket also closes the descriptors that were never received from it.

use std::io;
use std::ops::Deref;

use nix::sys::socket::{setsockopt, sockopt};

use crate::protocol::seqpacket::{Received, SeqPacket};

pub(super) struct Peer(SeqPacket);

impl Peer {
    pub(super) fn new(socket: SeqPacket) -> Self {
        Self(socket)
    }

    /// Receives one datagram. The descriptors with it close at once.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let received = self.0.receive(buffer)?;
        for descriptor in &received.descriptors {
            // Refused by all that is no socket.
            let _ = setsockopt(descriptor, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 });
        }
        Ok(received)
    }
}

impl Deref for Peer {
    type Target = SeqPacket;

    fn deref(&self) -> &SeqPacket {
        &self.0
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // From here on nothing comes after what there is.
        self.shut_down();
        while self.receive(&mut [0]).is_ok_and(|received| !received.is_end()) {}
    }
}
