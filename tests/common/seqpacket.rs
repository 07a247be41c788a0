//! The command socket spoken by hand, byte by byte, for peers that do not keep to the protocol.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::cmsg_space;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr,
    accept4, bind, connect, listen, recv, recvmsg, send, sendmsg, setsockopt, shutdown, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;

use crate::pair::WATCHDOG;

pub const MAGIC: [u8; 4] = *b"GFSC";
const PAGE: u64 = 4096;
/// Where a fresh area's counters begin.
pub const FIRST_SEQUENCE: u32 = u32::MAX - 3;

fn seqpacket() -> OwnedFd {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    setsockopt(&fd, ReceiveTimeout, &TimeVal::new(WATCHDOG.as_secs().cast_signed(), 0)).expect("SO_RCVTIMEO");
    fd
}

/// One end of a connection.
#[derive(Debug)]
pub struct Peer(OwnedFd);

impl Peer {
    pub fn connect(path: &Path) -> io::Result<Self> {
        let fd = seqpacket();
        connect(fd.as_raw_fd(), &UnixAddr::new(path).expect("a path")).map_err(io::Error::from)?;
        Ok(Self(fd))
    }

    pub fn send(&self, datagram: &[u8]) -> nix::Result<()> {
        send(self.0.as_raw_fd(), datagram, MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    pub fn send_with(&self, datagram: &[u8], descriptors: &[RawFd]) -> nix::Result<()> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control = if descriptors.is_empty() { &rights[..0] } else { &rights };
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<UnixAddr>(self.0.as_raw_fd(), &[IoSlice::new(datagram)], control, flags, None).map(drop)
    }

    pub fn shut_down(&self) {
        // An error means that the other side has ended it.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }

    /// The next datagram; None at the end of the connection.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 8192];
        match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) | Err(nix::errno::Errno::ECONNRESET) => None,
            Ok(len) => Some(buffer[..len].to_vec()),
            Err(errno) => panic!("the peer neither answers nor hangs up: {errno}"),
        }
    }

    /// The next datagram and the file that came with it.
    pub fn receive_file(&self) -> Option<(Vec<u8>, Option<File>)> {
        let mut buffer = vec![0; 8192];
        let mut space = cmsg_space!(RawFd);
        let mut iov = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<UnixAddr>(self.0.as_raw_fd(), &mut iov, Some(&mut space), flags).ok()?;
        let file = message.cmsgs().expect("control messages").find_map(|message| match message {
            ControlMessageOwned::ScmRights(descriptors) => descriptors.first().map(|&fd| owned(fd).into()),
            _ => None,
        });
        let len = message.bytes;
        (len > 0).then(|| (buffer[..len].to_vec(), file))
    }
}

#[allow(unsafe_code)]
fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just installed this descriptor for the caller, who asks once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A listening command socket.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    pub fn bind(path: &Path) -> Self {
        let fd = seqpacket();
        bind(fd.as_raw_fd(), &UnixAddr::new(path).expect("a path")).expect("bind");
        listen(&fd, Backlog::new(16).expect("a backlog")).expect("listen");
        Self(fd)
    }

    /// The next connection; None once `self` is shut down.
    pub fn accept(&self) -> Option<Peer> {
        let fd = accept4(self.0.as_raw_fd(), SockFlag::SOCK_CLOEXEC).ok()?;
        let fd = owned(fd);
        setsockopt(&fd, ReceiveTimeout, &TimeVal::new(WATCHDOG.as_secs().cast_signed(), 0)).expect("SO_RCVTIMEO");
        Some(Peer(fd))
    }

    pub fn has_waiting(&self) -> bool {
        let mut listener = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut listener, PollTimeout::ZERO).expect("poll") > 0
    }

    pub fn shut_down(&self) {
        shutdown(self.0.as_raw_fd(), Shutdown::Both).expect("shutdown");
    }
}

/// The sizes of an area.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub segments: u32,
    pub segment_size: u32,
}

impl Sizes {
    fn data_offset(self) -> u64 {
        (64 + u64::from(self.segments) * 256).next_multiple_of(PAGE) + PAGE / 2
    }

    pub fn total(self) -> u64 {
        self.data_offset() + u64::from(self.segments) * u64::from(self.segment_size)
    }

    /// Where a segment begins.
    pub fn data(self, segment: u32) -> u64 {
        self.data_offset() + u64::from(segment) * u64::from(self.segment_size)
    }

    /// Where the control words of a segment are: the producer's, the descriptors (64 further), the consumer's (128).
    pub fn control(self, segment: u32) -> u64 {
        64 + u64::from(segment) * 256
    }
}

/// An area made by hand, read and written through its descriptor.
#[derive(Debug)]
pub struct Area {
    pub file: File,
    pub sizes: Sizes,
}

impl Area {
    /// As an honest proxy makes it.
    pub fn new(sizes: Sizes) -> Self {
        let area = Self::with_flags(sizes, sizes.total(), MFdFlags::empty());
        nix::fcntl::fallocate(&area.file, nix::fcntl::FallocateFlags::empty(), 0, sizes.total().cast_signed())
            .expect("fallocate");
        area.initialise();
        area.seal(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL);
        area
    }

    /// A memfd of `len` bytes, neither sealed nor initialised.
    pub fn with_flags(sizes: Sizes, len: u64, flags: MFdFlags) -> Self {
        let flags = flags | MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(c"hostile", flags).expect("memfd_create"));
        file.set_len(len).expect("ftruncate");
        Self { file, sizes }
    }

    pub fn seal(&self, seals: SealFlag) {
        fcntl(&self.file, FcntlArg::F_ADD_SEALS(seals)).expect("F_ADD_SEALS");
    }

    pub fn initialise(&self) {
        self.write(0, &MAGIC);
        self.write(4, &2u32.to_le_bytes());
        for segment in 0..self.sizes.segments {
            self.write(self.sizes.control(segment), &FIRST_SEQUENCE.to_le_bytes());
            self.write(self.sizes.control(segment) + 128, &FIRST_SEQUENCE.to_le_bytes());
        }
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, offset).expect("pwrite");
    }

    pub fn word(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, offset).expect("pread");
        u32::from_le_bytes(bytes)
    }
}

fn datagram(kind: u16) -> Vec<u8> {
    [&MAGIC[..], &kind.to_le_bytes(), &[0, 0]].concat()
}

pub fn hello(versions: (u16, u16), sizes: Sizes) -> Vec<u8> {
    let mut d = datagram(1);
    d.extend(versions.0.to_le_bytes());
    d.extend(versions.1.to_le_bytes());
    d.extend(sizes.segments.to_le_bytes());
    d.extend(sizes.segment_size.to_le_bytes());
    d.extend([0; 16]);
    d
}

pub fn welcome(version: u16, features: u64) -> Vec<u8> {
    let mut d = datagram(2);
    d.extend(version.to_le_bytes());
    d.extend([0; 6]);
    d.extend(features.to_le_bytes());
    d
}

pub fn get(lead: u16, sequence: u32, offset: u64, key: &[u8]) -> Vec<u8> {
    let mut d = datagram(4);
    d.extend(0u32.to_le_bytes());
    d.extend(sequence.to_le_bytes());
    d.extend(lead.to_le_bytes());
    d.extend((key.len() as u16).to_le_bytes());
    d.extend([0; 4]);
    d.extend(offset.to_le_bytes());
    d.extend([0; 40]);
    d.extend(key);
    d
}

/// Connects and shakes hands as an honest proxy does.
pub fn join(path: &Path, area: &Area) -> Peer {
    let peer = Peer::connect(path).expect("connect");
    peer.send_with(&hello((2, 2), area.sizes), &[area.file.as_raw_fd()]).expect("HELLO");
    assert_eq!(peer.receive().as_deref(), Some(&welcome(2, 0)[..]));
    peer
}
