//! The ring against a plain model: any interleaving of the two sides' calls, for every small segment, file and number
//! of segments, with grants, segments taken back, cancelled and sleeping streams, and counters that wrap.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const HEAD: u16 = 0;
/// No transfer of the test needs more steps than this once it is left alone.
const ENOUGH: usize = 10_000;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The producer reads on, into a run of at most so many segments.
    Fill { most: u16 },
    /// The producer ends its stream early, with data or without.
    Park { with_data: bool },
    /// The consumer takes the next chunks, at most so many.
    Poll { most: u16 },
    /// The consumer gives the oldest run's segments back to the producer, or keeps those that were granted.
    Release { keep: bool },
    /// The consumer grants another segment.
    Lend,
    /// The consumer gives the stream up.
    Cancel,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1u16..4).prop_map(|most| Step::Fill { most }),
        1 => any::<bool>().prop_map(|with_data| Step::Park { with_data }),
        8 => (1u16..4).prop_map(|most| Step::Poll { most }),
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
    /// Model: segments of the running stream, chunks that were published and not polled, polled and not released.
    leased: Vec<u16>,
    published: VecDeque<Published>,
    held: VecDeque<Run>,
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
            consumer: Consumer::new(HEAD, sequence),
            got: Vec::new(),
            cancelled: false,
            leased: Vec::new(),
            published: VecDeque::new(),
            held: VecDeque::new(),
        };
        world.request();
        world
    }

    /// Begins a stream where the consumer's bytes end.
    fn request(&mut self) {
        let sequence = self.consumer.begin(self.control);
        self.producer = Some(Producer::new(self.control, HEAD, sequence));
        self.read = self.got.len();
        self.leased = vec![HEAD];
        self.cancelled = false;
        self.published.clear();
        self.held.clear();
    }

    fn publish(&mut self, run: Run, kind: Kind) {
        let producer = self.producer.as_mut().expect("a running stream");
        producer.publish(run, self.size, kind);
        for (index, segment) in run.segments().enumerate() {
            let len = (run.len - index as u32 * self.size).min(self.size);
            let is_last = segment + 1 == run.segments().end;
            self.published.push_back(Published { segment, len, kind: if is_last { kind } else { Kind::Data } });
        }
        if kind.ends_stream() {
            self.producer = None;
        }
    }

    fn publish_no_data(&mut self, kind: Kind) {
        self.publish(Run { first: HEAD, count: 1, len: 0 }, kind);
    }

    /// The segments that the model has free.
    fn free(&self) -> Vec<u16> {
        let published = self.published.iter().map(|chunk| chunk.segment);
        let busy: Vec<u16> = published.chain(self.held.iter().flat_map(|run| run.segments())).collect();
        self.leased.iter().copied().filter(|segment| !busy.contains(segment)).collect()
    }

    /// Asks the producer for at most `most` free neighbours: those that the model has. None also where a cancellation
    /// was seen and the stream has ended.
    fn free_run(&mut self, most: u16) -> Option<Run> {
        let free = self.free();
        let producer = self.producer.as_mut()?;
        producer.poll(self.memory.len() as u32).expect("honest words");
        assert_eq!(producer.cancelled(), self.cancelled);
        if self.cancelled {
            self.publish_no_data(Kind::Cancelled);
            return None;
        }
        let first = producer.take_free();
        assert_eq!(first, free.iter().copied().min());
        let first = first?;
        let left = (self.file.len() - self.read) as u32;
        let mut count = 1;
        while count < most && u32::from(count) * self.size < left {
            let next = producer.take_behind(first + count - 1);
            assert_eq!(next.is_some(), free.contains(&(first + count)));
            if next.is_none() {
                break;
            }
            count += 1;
        }
        Some(Run { first, count, len: left.min(u32::from(count) * self.size) })
    }

    fn fill(&mut self, most: u16, parks: bool) {
        let Some(run) = self.free_run(most) else { return };
        let data = &self.file[self.read..self.read + run.len as usize];
        for (segment, data) in run.segments().zip(data.chunks(self.size as usize)) {
            self.memory[usize::from(segment)][..data.len()].copy_from_slice(data);
        }
        self.read += run.len as usize;
        let kind = match self.read == self.file.len() {
            true => Kind::End,
            false if parks => Kind::Paused,
            false => Kind::Data,
        };
        self.publish(run, kind);
    }

    fn poll(&mut self, most: u16) {
        let chunk = self.consumer.poll(self.control, self.size).expect("honest words");
        assert_eq!(chunk, self.published.pop_front());
        let Some(mut last) = chunk else { return };
        let mut run = Run::from(last);
        self.take_in(last);
        while run.count < most {
            let follows = |next: &&Published| {
                !last.kind.ends_stream() && last.len == self.size && next.segment == last.segment + 1 && next.len > 0
            };
            let expected = self.published.front().filter(follows).copied();
            assert_eq!(self.consumer.poll_behind(self.control, self.size, last), Ok(expected));
            let Some(next) = expected else { break };
            self.published.pop_front();
            self.take_in(next);
            last = next;
            run.count += 1;
            run.len += next.len;
        }
        match last.kind {
            Kind::Data => self.held.push_back(run),
            Kind::End if !self.cancelled => {
                assert_eq!(self.got, self.file);
                self.got.clear();
                self.request();
            }
            _ => self.request(),
        }
    }

    fn take_in(&mut self, chunk: Published) {
        let data = &self.memory[usize::from(chunk.segment)][..chunk.len as usize];
        if !self.cancelled {
            self.got.extend_from_slice(data);
            assert!(self.file.starts_with(&self.got), "wrong bytes");
        }
    }

    fn release(&mut self, keep: bool) {
        let Some(run) = self.held.pop_front() else { return };
        let reclaimed = |segment| keep && segment != HEAD;
        self.consumer.release(self.control, run, reclaimed);
        for segment in run.segments().filter(|&segment| reclaimed(segment)) {
            self.leased.retain(|&other| other != segment);
            // Its new owner's data: a producer that wrote here, or told of it, would be seen.
            self.memory[usize::from(segment)].fill(0xee);
        }
    }

    fn grant(&mut self) {
        let idle = (0..self.memory.len() as u16).find(|segment| !self.leased.contains(segment));
        if let Some(segment) = idle
            && !self.cancelled
            && self.consumer.can_grant()
        {
            self.consumer.grant(self.control, segment);
            self.leased.push(segment);
        }
    }

    fn cancel(&mut self) {
        if self.cancelled {
            return;
        }
        self.cancelled = true;
        let ended = self.published.iter().any(|chunk| chunk.kind.ends_stream());
        assert_eq!(self.consumer.cancel(self.control, self.size), Ok(ended));
        self.published.clear();
        self.held.clear();
        if ended {
            self.request();
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Fill { most } => self.fill(most, false),
            Step::Park { with_data: true } => self.fill(2, true),
            Step::Park { with_data: false } => {
                if self.producer.is_some() && !self.cancelled {
                    self.publish_no_data(Kind::Paused);
                }
            }
            Step::Poll { most } => self.poll(most),
            Step::Release { keep } => self.release(keep),
            Step::Lend => self.grant(),
            Step::Cancel => self.cancel(),
        }
    }

    /// Two sides that only do their work come to the end of the file.
    fn finish(&mut self) {
        for _ in 0..ENOUGH {
            self.fill(1, false);
            let last = self.published.front().is_some_and(|chunk| chunk.kind == Kind::End) && !self.cancelled;
            self.poll(1);
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
