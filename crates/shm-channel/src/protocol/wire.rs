//! The datagrams of the command socket. `docs/reference/protocol.md` gives them byte by byte. All numbers are
//! little-endian.
//!
//! Each begins with the magic `GFSC`, its type (16 bits) and zero (16 bits). A datagram that is too short, too long or
//! has a wrong number in it is an error: the connection ends.

use crate::memory::layout::{MAGIC, Validator};

/// The protocol version that this library speaks.
pub(crate) const VERSION: u16 = 2;
/// A feature: requests may offer what their head holds ([`Condition::IfNoneMatch`]).
pub(crate) const FEATURE_IF_NONE_MATCH: u64 = 1;
/// A feature, on top of that one: requests may ask for a [`Probe`].
pub(crate) const FEATURE_PROBE: u64 = 2;
/// The longest key, in bytes: Linux's PATH_MAX less the NUL.
pub const MAX_KEY: usize = 4095;
/// The longest path, the same.
const MAX_PATH: usize = 4095;
/// The longest datagram to the server.
pub(crate) const MAX_DATAGRAM: usize = GET_HEADER + MAX_KEY;
/// The longest to a client that has been welcomed.
pub(crate) const MAX_PROBE: usize = 16 + MAX_KEY + MAX_PATH;

const TYPE_HELLO: u16 = 1;
const TYPE_WELCOME: u16 = 2;
const TYPE_REFUSED: u16 = 3;
const TYPE_GET: u16 = 4;
const TYPE_PROBE: u16 = 5;
const GET_HEADER: usize = 72;

/// The request's validator counts: go on with this state of the file or tell that it changed.
const FLAG_VALIDATOR: u32 = 1;
/// The head holds all of the file in the validator's state, from a stream before.
const FLAG_IF_NONE_MATCH: u32 = 2;
/// The client would like a probe of the file that the head holds.
const FLAG_PROBE: u32 = 4;
const FLAGS_IF_NONE_MATCH_AND_PROBE: u32 = FLAG_IF_NONE_MATCH | FLAG_PROBE;

/// The first datagram of a proxy; the memory's descriptor comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) min_version: u16,
    pub(crate) max_version: u16,
    pub(crate) segments: u32,
    pub(crate) segment_size: u32,
    pub(crate) session: u64,
    /// What the proxy can do beyond the version: [`FEATURE_IF_NONE_MATCH`], [`FEATURE_PROBE`], and bits for later use.
    pub(crate) features: u64,
}

/// The daemon's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HelloReply {
    /// Both speak `version` with these features.
    Welcome { version: u16, features: u64 },
    /// The connection ends, for this reason.
    Refused(String),
}

/// What a proxy has of the file that it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    None,
    /// What lies before the offset: go on with this state of the file or tell that it changed.
    Resume(Validator),
    /// The head holds all of it: if it still is in this state, it need not be read again.
    IfNoneMatch {
        file: Validator,
        wants_probe: bool,
    },
}

/// A request: a stream on `head` that begins at `offset` of the file behind `key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Get<'a> {
    pub(crate) head: u16,
    pub(crate) sequence: u32,
    pub(crate) offset: u64,
    pub(crate) condition: Condition,
    pub(crate) key: &'a [u8],
}

/// Where the file behind a key is found, since this generation: there the proxy sees for itself whether it is
/// unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe<'a> {
    pub(crate) generation: u32,
    pub(crate) key: &'a [u8],
    /// Absolute, as the two processes see the same files.
    pub(crate) path: &'a [u8],
}

/// A datagram that is none of the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed datagram: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Checks magic and type.
    fn new(datagram: &'a [u8], kind: u16) -> Result<Self, Malformed> {
        let mut reader = Self(datagram);
        if reader.u32()? != MAGIC {
            return Err(Malformed("magic"));
        }
        if reader.u16()? != kind {
            return Err(Malformed("type"));
        }
        if reader.u16()? != 0 {
            return Err(Malformed("reserved bits"));
        }
        Ok(reader)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Malformed("too short"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_le_bytes)
    }

    fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("too long")) }
    }
}

fn begin(kind: u16) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(GET_HEADER);
    datagram.extend(MAGIC.to_le_bytes());
    datagram.extend(kind.to_le_bytes());
    datagram.extend(0u16.to_le_bytes());
    datagram
}

impl Hello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut d = begin(TYPE_HELLO);
        d.extend(self.min_version.to_le_bytes());
        d.extend(self.max_version.to_le_bytes());
        d.extend(self.segments.to_le_bytes());
        d.extend(self.segment_size.to_le_bytes());
        d.extend(self.session.to_le_bytes());
        d.extend(self.features.to_le_bytes());
        d
    }

    pub(crate) fn decode(datagram: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(datagram, TYPE_HELLO)?;
        let hello = Self {
            min_version: r.u16()?,
            max_version: r.u16()?,
            segments: r.u32()?,
            segment_size: r.u32()?,
            session: r.u64()?,
            features: r.u64()?,
        };
        r.end()?;
        Ok(hello)
    }
}

impl HelloReply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Welcome { version, features } => {
                let mut d = begin(TYPE_WELCOME);
                d.extend(version.to_le_bytes());
                d.extend(0u16.to_le_bytes());
                d.extend(0u32.to_le_bytes());
                d.extend(features.to_le_bytes());
                d
            }
            Self::Refused(reason) => {
                let mut d = begin(TYPE_REFUSED);
                d.extend(reason.as_bytes());
                d
            }
        }
    }

    pub(crate) fn decode(datagram: &[u8]) -> Result<Self, Malformed> {
        if let Ok(r) = Reader::new(datagram, TYPE_REFUSED) {
            // A peer's text goes to the log: one line of it, and not a long one.
            let reason: String = String::from_utf8_lossy(r.0).chars().filter(|c| !c.is_control()).take(200).collect();
            return Ok(Self::Refused(reason));
        }
        let mut r = Reader::new(datagram, TYPE_WELCOME)?;
        let version = r.u16()?;
        if r.u16()? != 0 || r.u32()? != 0 {
            return Err(Malformed("reserved bits"));
        }
        let features = r.u64()?;
        r.end()?;
        Ok(Self::Welcome { version, features })
    }
}

impl<'a> Get<'a> {
    /// Writes the datagram over `buffer`, which is kept from request to request.
    pub(crate) fn encode(&self, buffer: &mut Vec<u8>) {
        let (flags, validator) = match self.condition {
            Condition::None => (0, Validator::default()),
            Condition::Resume(validator) => (FLAG_VALIDATOR, validator),
            Condition::IfNoneMatch { file, wants_probe: false } => (FLAG_IF_NONE_MATCH, file),
            Condition::IfNoneMatch { file, wants_probe: true } => (FLAGS_IF_NONE_MATCH_AND_PROBE, file),
        };
        buffer.clear();
        buffer.extend(MAGIC.to_le_bytes());
        buffer.extend(TYPE_GET.to_le_bytes());
        buffer.extend(0u16.to_le_bytes());
        buffer.extend(flags.to_le_bytes());
        buffer.extend(self.sequence.to_le_bytes());
        buffer.extend(self.head.to_le_bytes());
        buffer.extend((self.key.len() as u16).to_le_bytes());
        buffer.extend(0u32.to_le_bytes());
        buffer.extend(self.offset.to_le_bytes());
        let Validator { device, inode, len, modified_ns, changed_ns } = validator;
        for word in [device, inode, len, modified_ns, changed_ns] {
            buffer.extend(word.to_le_bytes());
        }
        buffer.extend(self.key);
    }

    pub(crate) fn decode(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(datagram, TYPE_GET)?;
        let flags = r.u32()?;
        let sequence = r.u32()?;
        let head = r.u16()?;
        let key_len = r.u16()? as usize;
        if r.u32()? != 0 {
            return Err(Malformed("reserved bits"));
        }
        let offset = r.u64()?;
        let validator =
            Validator { device: r.u64()?, inode: r.u64()?, len: r.u64()?, modified_ns: r.u64()?, changed_ns: r.u64()? };
        let key = r.0;
        if key.len() != key_len || key.len() > MAX_KEY {
            return Err(Malformed("key length"));
        }
        let condition = match flags {
            0 => Condition::None,
            FLAG_VALIDATOR => Condition::Resume(validator),
            _ if offset != 0 => return Err(Malformed("flags")),
            FLAG_IF_NONE_MATCH => Condition::IfNoneMatch { file: validator, wants_probe: false },
            FLAGS_IF_NONE_MATCH_AND_PROBE => Condition::IfNoneMatch { file: validator, wants_probe: true },
            _ => return Err(Malformed("flags")),
        };
        Ok(Self { head, sequence, offset, condition, key })
    }
}

impl<'a> Probe<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut d = begin(TYPE_PROBE);
        d.extend(self.generation.to_le_bytes());
        d.extend((self.key.len() as u16).to_le_bytes());
        d.extend((self.path.len() as u16).to_le_bytes());
        d.extend(self.key);
        d.extend(self.path);
        d
    }

    pub(crate) fn decode(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(datagram, TYPE_PROBE)?;
        let (generation, key_len, path_len) = (r.u32()?, r.u16()?, r.u16()?);
        if key_len as usize > MAX_KEY || r.0.len() != usize::from(key_len) + usize::from(path_len) {
            return Err(Malformed("key or path length"));
        }
        let (key, path) = r.0.split_at(key_len.into());
        if path.len() > MAX_PATH || path.first() != Some(&b'/') || path.contains(&0) {
            return Err(Malformed("path"));
        }
        Ok(Self { generation, key, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_get_has_the_documented_length() {
        let mut buffer = Vec::new();
        Get { head: 1, sequence: 2, offset: 3, condition: Condition::None, key: b"" }.encode(&mut buffer);
        assert_eq!(buffer.len(), GET_HEADER);
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let mut buffer = Vec::new();
        let validator = Validator { device: 1, inode: 2, len: 3, modified_ns: 4, changed_ns: 5 };
        let held = |wants_probe| Condition::IfNoneMatch { file: validator, wants_probe };
        for (condition, offset) in
            [(Condition::None, 5), (Condition::Resume(validator), 1 << 40), (held(false), 0), (held(true), 0)]
        {
            let get = Get { head: 7, sequence: u32::MAX, offset, condition, key: b"/k" };
            get.encode(&mut buffer);
            assert_eq!(Get::decode(&buffer), Ok(get));
        }
        for flags in [FLAG_VALIDATOR | FLAG_IF_NONE_MATCH, FLAG_PROBE, FLAG_VALIDATOR | FLAG_PROBE, 8] {
            buffer[8] = flags as u8;
            assert_eq!(Get::decode(&buffer), Err(Malformed("flags")));
        }
        Get { head: 7, sequence: 0, offset: 1, condition: held(false), key: b"/k" }.encode(&mut buffer);
        assert_eq!(Get::decode(&buffer), Err(Malformed("flags")));
        buffer.pop();
        assert_eq!(Get::decode(&buffer), Err(Malformed("key length")));

        let hello = Hello { min_version: 1, max_version: 2, segments: 3, segment_size: 4, session: 5, features: 6 };
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        assert_eq!(Hello::decode(&hello.encode()[..20]), Err(Malformed("too short")));
        for reply in [HelloReply::Welcome { version: 1, features: 2 }, HelloReply::Refused("no".into())] {
            assert_eq!(HelloReply::decode(&reply.encode()), Ok(reply));
        }

        let probe = Probe { generation: 1, key: b"k", path: b"/p" };
        let datagram = probe.encode();
        assert_eq!(Probe::decode(&datagram), Ok(probe));
        assert_eq!(Probe::decode(&datagram[..15]), Err(Malformed("too short")));
        let bad_length = Err(Malformed("key or path length"));
        assert_eq!(Probe::decode(&datagram[..18]), bad_length);
        assert_eq!(Probe::decode(&[&datagram[..], b"0"].concat()), bad_length);
        for path in [&b""[..], b"p", b"/p\0", &[b'/'; MAX_PATH + 1]] {
            assert_eq!(Probe::decode(&Probe { path, ..probe }.encode()), Err(Malformed("path")));
        }
    }
}
