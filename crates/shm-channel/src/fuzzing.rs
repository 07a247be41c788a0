//! Every byte that crosses the trust boundary between the two processes, as functions of bytes: targets of `fuzz/`, and
//! of the properties below, which run in `make test`. Each panics where a parser or a side of the ring does what it
//! must not.

use std::sync::atomic::Ordering;

use crate::memory::layout::{Control, Descriptor, Kind, MAGIC};
use crate::memory::ring::{Consumer, Producer, Run};
use crate::protocol::wire::{Get, Hello, HelloReply, Probe};

const SEGMENTS: u32 = 9;
const SIZE: u32 = 1000;
const HEAD: u16 = 3;

/// The datagrams of the command socket, and descriptors.
pub fn wire(bytes: &[u8]) {
    datagrams(bytes);
    descriptors(bytes);
}

/// Any bytes as a datagram, and the same behind the right magic.
fn datagrams(bytes: &[u8]) {
    datagram(bytes);
    datagram(&[&MAGIC.to_le_bytes(), bytes].concat());
}

/// What decodes is the same after it was encoded and decoded once more.
fn datagram(bytes: &[u8]) {
    if let Ok(hello) = Hello::decode(bytes) {
        assert_eq!(hello.encode(), bytes);
    }
    if let Ok(reply) = HelloReply::decode(bytes) {
        assert_eq!(HelloReply::decode(&reply.encode()), Ok(reply));
    }
    if let Ok(probe) = Probe::decode(bytes) {
        assert_eq!(probe.encode(), bytes);
    }
    if let Ok(get) = Get::decode(bytes) {
        let mut again = Vec::new();
        get.encode(&mut again);
        assert_eq!(Get::decode(&again), Ok(get));
    }
}

fn descriptors(bytes: &[u8]) {
    for bits in bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes"))) {
        if let Some(descriptor) = Descriptor::from_bits(bits) {
            assert_eq!(descriptor.to_bits(), bits);
        }
    }
}

/// Takes numbers off the input; 0 at its end.
struct Input<'b>(&'b [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// Small, close to `near`, or any.
    fn word(&mut self, near: u32) -> u32 {
        match self.byte().unwrap_or(0) {
            small @ 0..=99 => u32::from(small % 12),
            close @ 100..=219 => near.wrapping_add(u32::from(close - 100)).wrapping_sub(4),
            _ => u32::from_le_bytes(std::array::from_fn(|_| self.byte().unwrap_or(0))),
        }
    }
}

/// The producer gives out segments of its ring only, each to one chunk at a time, whatever the consumer writes.
pub fn producer(bytes: &[u8]) {
    let mut input = Input(bytes);
    let sequence = input.word(u32::MAX);
    let control = Control::new(sequence);
    let mut producer = Producer::new(&control, HEAD, sequence);
    let words = &control.consumer;
    let mut in_hand: Vec<Run> = Vec::new();
    while let Some(step) = input.byte() {
        let produced = control.producer.produced.load(Ordering::Relaxed);
        match step % 8 {
            0 => words.consumed.store(input.word(produced), Ordering::Relaxed),
            1 => words.reclaimed.store(input.word(0), Ordering::Relaxed),
            2 => words.granted_count.store(input.word(0), Ordering::Relaxed),
            3 => {
                let at = usize::from(step / 8) % words.granted.len();
                words.granted[at].store(input.word(SEGMENTS), Ordering::Relaxed);
            }
            // As an honest consumer does.
            4 => words.consumed.store(produced, Ordering::Relaxed),
            5 => {
                if producer.poll(SEGMENTS).is_err() {
                    return;
                }
            }
            6 => {
                if let Some(first) = producer.take_free() {
                    let mut run = Run { first, count: 1, len: 1 };
                    while let Some(next) = producer.take_behind(run.segments().end - 1) {
                        assert_eq!(next, run.segments().end);
                        (run.count, run.len) = (run.count + 1, run.len + SIZE);
                    }
                    let is_in_hand = |segment| in_hand.iter().any(|other: &Run| other.segments().contains(&segment));
                    assert!(run.segments().all(|segment| u32::from(segment) < SEGMENTS && !is_in_hand(segment)));
                    in_hand.push(run);
                }
            }
            _ => {
                if let Some(run) = in_hand.pop() {
                    producer.publish(run, SIZE, Kind::Data);
                }
            }
        }
    }
    producer.publish(Run { first: HEAD, count: 1, len: 0 }, SIZE, Kind::End);
}

/// The consumer takes chunks of its ring only, no longer than a segment, whatever the producer writes.
pub fn consumer(bytes: &[u8]) {
    let mut input = Input(bytes);
    let sequence = input.word(u32::MAX);
    let control = Control::new(sequence);
    let mut consumer = Consumer::new(HEAD, sequence);
    assert_eq!(consumer.begin(&control), sequence);
    let mut ring = vec![HEAD];
    while let Some(step) = input.byte() {
        let words = &control.producer;
        match step % 5 {
            0 => words.produced.store(input.word(control.consumer.consumed.load(Ordering::Relaxed)), Ordering::Relaxed),
            1 => {
                let at = usize::from(step / 5) % control.descriptors.chunk.len();
                let (len, segment, kind) = (input.word(SIZE), input.word(SEGMENTS), input.word(0));
                let bits = u64::from(len) | u64::from(segment) << 32 | u64::from(kind) << 48;
                control.descriptors.chunk[at].store(bits, Ordering::Relaxed);
            }
            2 => match consumer.poll(&control, SIZE) {
                Ok(None) => {}
                Ok(Some(chunk)) => {
                    assert!(chunk.len <= SIZE && ring.contains(&chunk.segment));
                    if chunk.kind.ends_stream() {
                        consumer.begin(&control);
                        ring = vec![HEAD];
                    } else {
                        let Ok(behind) = consumer.poll_behind(&control, SIZE, chunk) else { return };
                        let run = Run { first: chunk.segment, count: 1 + u16::from(behind.is_some()), len: chunk.len };
                        assert!(run.segments().all(|segment| ring.contains(&segment)));
                        if behind.is_some_and(|last| last.kind.ends_stream()) {
                            consumer.begin(&control);
                            ring = vec![HEAD];
                            continue;
                        }
                        let keep = |segment| segment != HEAD && step >= 128;
                        consumer.release(&control, run, keep);
                        ring.retain(|&segment| !keep(segment) || !run.segments().contains(&segment));
                    }
                }
                Err(_) => return,
            },
            3 => {
                let idle = (0..SEGMENTS as u16).find(|segment| !ring.contains(segment));
                if let Some(segment) = idle.filter(|_| consumer.can_grant()) {
                    consumer.grant(&control, segment);
                    ring.push(segment);
                }
            }
            _ if step >= 250 => match consumer.cancel(&control, SIZE) {
                Ok(true) => {
                    consumer.begin(&control);
                    ring = vec![HEAD];
                }
                Ok(false) | Err(_) => return,
            },
            _ => {}
        }
    }
}

#[cfg(all(test, not(loom)))]
mod properties {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..400)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn datagrams_of_any_bytes(bytes in bytes()) {
            wire(&bytes);
        }

        #[test]
        fn datagrams_with_a_few_wrong_bytes(kind in 0..6u8, rest in bytes(), at in 0..70usize, wrong: u8) {
            let mut datagram = [b"GFSC".as_slice(), &[kind, 0, 0, 0], &rest].concat();
            wire(&datagram);
            let at = at.min(datagram.len() - 1);
            datagram[at] = wrong;
            wire(&datagram);
        }

        #[test]
        fn a_producer_with_any_consumer(bytes in bytes()) {
            producer(&bytes);
        }

        #[test]
        fn a_consumer_with_any_producer(bytes in bytes()) {
            consumer(&bytes);
        }
    }
}
