//! The ring against a plain model: any interleaving of the two sides' calls, for every small segment, file and number of
//! segments, with loans, segments taken back, cancelled and parked leases, and counters that wrap.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const LEAD: u16 = 0;
/// No transfer of the test needs more steps than this once it is left alone.
const ENOUGH: usize = 10_000;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The producer reads on.
    Fill,
    /// The producer ends its lease early, with data or without.
    Park { with_data: bool },
    /// The consumer takes the next chunk.
    Poll,
    /// The consumer gives the oldest chunk's segment back to the producer, or keeps it.
    Release { keep: bool },
    /// The consumer lends another segment.
    Lend,
    /// The consumer gives the lease up.
    Cancel,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Fill),
        1 => any::<bool>().prop_map(|with_data| Step::Park { with_data }),
        8 => Just(Step::Poll),
        8 => any::<bool>().prop_map(|keep| Step::Release { keep }),
        3 => Just(Step::Lend),
        1 => Just(Step::Cancel),
    ]
}

/// A begin of the counters that wraps soon, or any.
fn sequence() -> impl Strategy<Value = u32> {
    prop_oneof![(u32::MAX - 20)..=u32::MAX, any::<u32>()]
}

/// Both sides, the memory between them, and what each call must answer.
struct World<'c> {
    control: &'c Control,
    size: u32,
    file: Vec<u8>,
    memory: Vec<Vec<u8>>,
    producer: Option<Producer<'c>>,
    /// Where the producer reads on.
    read: usize,
    consumer: Consumer,
    /// What the consumer has of the file.
    got: Vec<u8>,
    cancelled: bool,
    /// Model: segments of the running lease, chunks that were published and not polled, polled and not released.
    leased: Vec<u16>,
    published: VecDeque<Published>,
    held: VecDeque<Published>,
}

impl<'c> World<'c> {
    fn new(control: &'c Control, sequence: u32, size: u32, len: usize, segments: u16) -> Self {
        let mut world = Self {
            control,
            size,
            file: (0..len).map(|i| (i * 7 + 1) as u8).collect(),
            memory: vec![vec![0; size as usize]; usize::from(segments)],
            producer: None,
            read: 0,
            consumer: Consumer::new(LEAD, sequence),
            got: Vec::new(),
            cancelled: false,
            leased: Vec::new(),
            published: VecDeque::new(),
            held: VecDeque::new(),
        };
        world.request();
        world
    }

    /// Begins a lease where the consumer's bytes end.
    fn request(&mut self) {
        let sequence = self.consumer.begin(self.control);
        self.producer = Some(Producer::new(self.control, LEAD, sequence));
        self.read = self.got.len();
        self.leased = vec![LEAD];
        self.cancelled = false;
        self.published.clear();
        self.held.clear();
    }

    fn publish(&mut self, segment: u16, len: u32, kind: Kind) {
        let producer = self.producer.as_mut().expect("a running lease");
        producer.publish(segment, len, kind);
        self.published.push_back(Published { segment, len, kind });
        if kind.ends_lease() {
            self.producer = None;
        }
    }

    /// Asks the producer for a free segment, which must be one that the model has free. None also where a cancellation
    /// was seen and the lease has ended.
    fn free_segment(&mut self) -> Option<u16> {
        let producer = self.producer.as_mut()?;
        producer.poll(self.memory.len() as u32).expect("honest words");
        assert_eq!(producer.cancelled(), self.cancelled);
        if self.cancelled {
            self.publish(LEAD, 0, Kind::Cancelled);
            return None;
        }
        let busy = |segment: &u16| self.published.iter().chain(&self.held).any(|chunk| chunk.segment == *segment);
        let free: Vec<u16> = self.leased.iter().copied().filter(|segment| !busy(segment)).collect();
        let segment = producer.take_free();
        match segment {
            Some(segment) => assert!(free.contains(&segment), "{segment} is not free: {free:?} are"),
            None => assert!(free.is_empty(), "{free:?} are free"),
        }
        segment
    }

    fn fill(&mut self, parks: bool) {
        let Some(segment) = self.free_segment() else { return };
        let len = (self.file.len() - self.read).min(self.size as usize);
        let data = &self.file[self.read..self.read + len];
        self.memory[usize::from(segment)][..len].copy_from_slice(data);
        self.read += len;
        let kind = match self.read == self.file.len() {
            true => Kind::End,
            false if parks => Kind::Parked,
            false => Kind::Data,
        };
        self.publish(segment, len as u32, kind);
    }

    fn poll(&mut self) {
        let chunk = self.consumer.poll(self.control, self.size).expect("honest words");
        assert_eq!(chunk, self.published.pop_front());
        let Some(chunk) = chunk else { return };
        let data = &self.memory[usize::from(chunk.segment)][..chunk.len as usize];
        if !self.cancelled {
            self.got.extend_from_slice(data);
            assert!(self.file.starts_with(&self.got), "wrong bytes");
        }
        match chunk.kind {
            Kind::Data => self.held.push_back(chunk),
            Kind::End if !self.cancelled => {
                assert_eq!(self.got, self.file);
                self.got.clear();
                self.request();
            }
            _ => self.request(),
        }
    }

    fn release(&mut self, keep: bool) {
        let Some(chunk) = self.held.pop_front() else { return };
        let keep = keep && chunk.segment != LEAD;
        self.consumer.release(self.control, chunk, keep);
        if keep {
            self.leased.retain(|&segment| segment != chunk.segment);
            // Its new owner's data: a producer that wrote here, or told of it, would be seen.
            self.memory[usize::from(chunk.segment)].fill(0xee);
        }
    }

    fn lend(&mut self) {
        let idle = (0..self.memory.len() as u16).find(|segment| !self.leased.contains(segment));
        if let Some(segment) = idle
            && !self.cancelled
            && self.consumer.can_lend()
        {
            self.consumer.lend(self.control, segment);
            self.leased.push(segment);
        }
    }

    fn cancel(&mut self) {
        if self.cancelled {
            return;
        }
        self.cancelled = true;
        let ended = self.published.iter().any(|chunk| chunk.kind.ends_lease());
        assert_eq!(self.consumer.cancel(self.control, self.size), Ok(ended));
        self.published.clear();
        self.held.clear();
        if ended {
            self.request();
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Fill => self.fill(false),
            Step::Park { with_data: true } => self.fill(true),
            Step::Park { with_data: false } => {
                if self.producer.is_some() && !self.cancelled {
                    self.publish(LEAD, 0, Kind::Parked);
                }
            }
            Step::Poll => self.poll(),
            Step::Release { keep } => self.release(keep),
            Step::Lend => self.lend(),
            Step::Cancel => self.cancel(),
        }
    }

    /// Two sides that only do their work come to the end of the file.
    fn finish(&mut self) {
        for _ in 0..ENOUGH {
            self.fill(false);
            let last = self.published.front().is_some_and(|chunk| chunk.kind == Kind::End) && !self.cancelled;
            self.poll();
            if last {
                return;
            }
            self.release(false);
        }
        panic!("no end of the file after {ENOUGH} rounds");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_interleaving_brings_the_file(
        sequence in sequence(),
        size in 1u32..6,
        len in 0usize..80,
        segments in 1u16..=9,
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let control = Control::new(sequence);
        let mut world = World::new(&control, sequence, size, len, segments);
        for step in steps {
            world.take(step);
        }
        world.finish();
    }
}
