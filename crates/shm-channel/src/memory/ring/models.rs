//! Loom models of the hand-off: every order of the two sides' steps, and every value that the memory model lets a load
//! see, up to a bound on forced switches. `make test` runs them.
//!
//! A sleep has no timeout here, so a lost wake is a deadlock, which loom reports. Payload is a relaxed word for each
//! segment: what one side reads too early, or the other overwrites too early, is a wrong value in some execution. The
//! models named `without_` break one rule each and must fail: they show that loom would tell.

use std::sync::Arc;

use loom::thread;

use super::*;

const SEGMENTS: u32 = 2;
const SIZE: u32 = 1000;
const FIRST: u32 = u32::MAX - 1;
const HEAD: u16 = 0;
const GRANT: u16 = 1;
const FOREVER: Duration = Duration::MAX;

struct Area {
    control: Control,
    data: [AtomicU32; SEGMENTS as usize],
}

/// Runs a model with a fresh area.
fn model(body: impl Fn(Arc<Area>) + Send + Sync + 'static) {
    bounded_model(3, body);
}

/// The same with another bound on forced switches: models of grants have many more orders.
fn bounded_model(switches: usize, body: impl Fn(Arc<Area>) + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(move || {
        futex::set_up();
        let data = std::array::from_fn(|_| AtomicU32::new(u32::MAX));
        body(Arc::new(Area { control: Control::new(FIRST), data }));
    });
}

impl Area {
    fn put(&self, segment: u16, value: u32) {
        self.data[usize::from(segment)].store(value, Ordering::Relaxed);
    }

    fn get(&self, segment: u16) -> u32 {
        self.data[usize::from(segment)].load(Ordering::Relaxed)
    }
}

/// A worker's stream of `chunks` chunks, numbered from `from`; the last is of the kind `end`. Says how many it
/// published before it was cancelled.
fn produce(area: &Area, sequence: u32, from: u32, chunks: u32, end: Kind) -> u32 {
    let mut producer = Producer::new(&area.control, HEAD, sequence);
    for i in 0..chunks {
        let segment = loop {
            producer.poll(SEGMENTS).unwrap();
            if producer.cancelled() {
                producer.publish(run(HEAD, 0), SIZE, Kind::Cancelled);
                return i;
            }
            match producer.take_free() {
                Some(segment) => break segment,
                None => producer.wait(false, FOREVER),
            }
        };
        area.put(segment, from + i);
        producer.publish(run(segment, 1), SIZE, if i + 1 == chunks { end } else { Kind::Data });
    }
    chunks
}

fn run(first: u16, len: u32) -> Run {
    Run { first, count: 1, len }
}

fn next(area: &Area, consumer: &mut Consumer) -> Published {
    loop {
        match consumer.poll(&area.control, SIZE).unwrap() {
            Some(chunk) => return chunk,
            None => consumer.wait(&area.control, false, FOREVER),
        }
    }
}

/// Takes chunks in order until the stream ends.
fn consume(area: &Area, consumer: &mut Consumer, from: u32) -> (u32, Kind) {
    let mut number = from;
    loop {
        let chunk = next(area, consumer);
        if chunk.len > 0 {
            assert_eq!(area.get(chunk.segment), number);
            number += 1;
        }
        if chunk.kind.ends_stream() {
            return (number, chunk.kind);
        }
        assert_eq!(area.get(chunk.segment), number - 1, "overwritten before its release");
        consumer.release(&area.control, chunk.into(), |_| false);
    }
}

#[test]
fn one_segment_hands_over_every_chunk_once() {
    model(|area| {
        let mut consumer = Consumer::new(HEAD, FIRST);
        let sequence = consumer.begin(&area.control);
        let worker = thread::spawn({
            let area = Arc::clone(&area);
            move || produce(&area, sequence, 0, 3, Kind::End)
        });
        assert_eq!(consume(&area, &mut consumer, 0), (3, Kind::End));
        worker.join().unwrap();
    });
}

#[test]
fn a_lent_segment_joins_the_ring() {
    bounded_model(2, |area| {
        let mut consumer = Consumer::new(HEAD, FIRST);
        let sequence = consumer.begin(&area.control);
        let worker = thread::spawn({
            let area = Arc::clone(&area);
            move || produce(&area, sequence, 0, 3, Kind::End)
        });
        consumer.grant(&area.control, GRANT);
        assert_eq!(consume(&area, &mut consumer, 0), (3, Kind::End));
        worker.join().unwrap();
    });
}

#[test]
fn a_segment_can_be_taken_back_used_and_lent_again() {
    bounded_model(2, |area| {
        let mut consumer = Consumer::new(HEAD, FIRST);
        let sequence = consumer.begin(&area.control);
        consumer.grant(&area.control, GRANT);
        let worker = thread::spawn({
            let area = Arc::clone(&area);
            move || produce(&area, sequence, 0, 4, Kind::End)
        });
        let mut taken_back = false;
        for number in 0.. {
            let chunk = next(&area, &mut consumer);
            assert_eq!(area.get(chunk.segment), number);
            if chunk.kind.ends_stream() {
                break;
            }
            let keep = chunk.segment == GRANT && !taken_back;
            consumer.release(&area.control, chunk.into(), |_| keep);
            if keep {
                taken_back = true;
                area.put(GRANT, 77);
                assert_eq!(area.get(GRANT), 77, "the producer wrote to a segment that was taken back");
                consumer.grant(&area.control, GRANT);
            }
        }
        worker.join().unwrap();
    });
}

/// As `produce`, but the head and the grant in one run where both are free.
fn produce_runs(area: &Area, sequence: u32, chunks: u32) {
    let mut producer = Producer::new(&area.control, HEAD, sequence);
    let mut number = 0;
    while number < chunks {
        let first = loop {
            producer.poll(SEGMENTS).unwrap();
            match producer.take_free() {
                Some(segment) => break segment,
                None => producer.wait(false, FOREVER),
            }
        };
        let behind = if number + 1 < chunks { producer.take_behind(first) } else { None };
        let count = 1 + u16::from(behind.is_some());
        let run = Run { first, count, len: SIZE * u32::from(count) };
        for segment in run.segments() {
            area.put(segment, number);
            number += 1;
        }
        producer.publish(run, SIZE, if number == chunks { Kind::End } else { Kind::Data });
    }
}

#[test]
fn a_run_is_released_at_once_and_its_second_segment_taken_back() {
    bounded_model(2, |area| {
        let mut consumer = Consumer::new(HEAD, FIRST);
        let sequence = consumer.begin(&area.control);
        consumer.grant(&area.control, GRANT);
        let worker = thread::spawn({
            let area = Arc::clone(&area);
            move || produce_runs(&area, sequence, 4)
        });
        let (mut number, mut taken_back) = (0, false);
        loop {
            let mut last = next(&area, &mut consumer);
            let mut taken = Run::from(last);
            while let Some(behind) = consumer.poll_behind(&area.control, SIZE, last).unwrap() {
                (taken.count, taken.len, last) = (taken.count + 1, taken.len + behind.len, behind);
            }
            for segment in taken.segments() {
                assert_eq!(area.get(segment), number);
                number += 1;
            }
            if last.kind.ends_stream() {
                break;
            }
            let keep = !taken_back && taken.segments().contains(&GRANT);
            consumer.release(&area.control, taken, |segment| keep && segment == GRANT);
            if keep {
                taken_back = true;
                area.put(GRANT, 77);
                assert_eq!(area.get(GRANT), 77, "the producer wrote to a segment that was taken back");
                consumer.grant(&area.control, GRANT);
            }
        }
        assert_eq!(number, 4);
        worker.join().unwrap();
    });
}

/// Cancels after the first chunk, with a second segment granted or not.
fn cancel(grant: bool) {
    model(move |area| {
        let mut consumer = Consumer::new(HEAD, FIRST);
        let sequence = consumer.begin(&area.control);
        if grant {
            consumer.grant(&area.control, GRANT);
        }
        let worker = thread::spawn({
            let area = Arc::clone(&area);
            move || produce(&area, sequence, 0, u32::MAX, Kind::End)
        });
        let chunk = next(&area, &mut consumer);
        assert_eq!(area.get(chunk.segment), 0);
        let mut ended = consumer.cancel(&area.control, SIZE).unwrap();
        worker.join().unwrap();
        ended = ended || consumer.drain(&area.control, SIZE).unwrap();
        assert!(ended, "a producer that has gone has published the stream's end");

        let sequence = consumer.begin(&area.control);
        assert_eq!(produce(&area, sequence, 10, 1, Kind::End), 1);
        assert_eq!(consume(&area, &mut consumer, 10), (11, Kind::End));
    });
}

#[test]
fn a_cancelled_stream_ends_and_the_next_begins() {
    cancel(false);
}

#[test]
fn a_cancelled_stream_with_a_loan_ends_and_the_next_begins() {
    cancel(true);
}

#[test]
fn a_cancellation_may_meet_a_producer_that_only_sleeps() {
    model(|area| {
        let mut consumer = Consumer::new(HEAD, FIRST);
        let sequence = consumer.begin(&area.control);
        let worker = thread::spawn({
            let area = Arc::clone(&area);
            move || produce(&area, sequence, 0, u32::MAX, Kind::End)
        });
        let ended = consumer.cancel(&area.control, SIZE).unwrap();
        worker.join().unwrap();
        assert!(ended || consumer.drain(&area.control, SIZE).unwrap());
    });
}

#[test]
fn a_parked_transfer_goes_on_in_another_stream() {
    model(|area| {
        let mut consumer = Consumer::new(HEAD, FIRST);
        let mut number = 0;
        // The second request may overtake the first worker's last steps: nobody is joined before the end.
        let workers = [(2, Kind::Paused), (1, Kind::End)].map(|(chunks, end)| {
            let sequence = consumer.begin(&area.control);
            let worker = thread::spawn({
                let area = Arc::clone(&area);
                move || produce(&area, sequence, number, chunks, end)
            });
            let (reached, kind) = consume(&area, &mut consumer, number);
            assert_eq!((reached, kind), (number + chunks, end));
            number = reached;
            worker
        });
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

#[test]
fn the_end_of_a_session_wakes_its_consumers() {
    model(|area| {
        let other = Arc::clone(&area);
        let mut consumer = Consumer::new(HEAD, FIRST);
        consumer.begin(&area.control);
        let watcher = thread::spawn(move || dismiss_consumer(&other.control));
        while consumer.poll(&area.control, SIZE) == Ok(None) {
            consumer.wait(&area.control, false, FOREVER);
        }
        watcher.join().unwrap();
    });
}

/// Publishes `chunks` chunks by other rules than [`Producer::publish`]'s, one for each release, with `wake` for its
/// end.
fn produce_wrongly(area: &Area, sequence: u32, chunks: u32, wake: impl Fn(&Control)) {
    let mut producer = Producer::new(&area.control, HEAD, sequence);
    for i in 0..chunks {
        let segment = loop {
            producer.poll(SEGMENTS).unwrap();
            match producer.take_free() {
                Some(segment) => break segment,
                None => producer.wait(false, FOREVER),
            }
        };
        area.put(segment, i);
        let at = slot(producer.produced);
        producer.in_flight[at] = segment;
        let kind = if i + 1 == chunks { Kind::End } else { Kind::Data };
        let bits = Descriptor { len: 1, segment, kind }.to_bits();
        area.control.descriptors.chunk[at].store(bits, Ordering::Relaxed);
        producer.produced = producer.produced.wrapping_add(1);
        area.control.producer.produced.store(producer.produced, Ordering::Release);
        wake(&area.control);
    }
}

/// One segment, two chunks, and a producer that breaks a rule.
fn wrong_model(wake: impl Fn(&Control) + Copy + Send + Sync + 'static) {
    model(move |area| {
        let mut consumer = Consumer::new(HEAD, FIRST);
        let sequence = consumer.begin(&area.control);
        let worker = thread::spawn({
            let area = Arc::clone(&area);
            move || produce_wrongly(&area, sequence, 2, wake)
        });
        consume(&area, &mut consumer, 0);
        worker.join().unwrap();
    });
}

#[test]
fn a_producer_written_out_works_like_the_real_one() {
    wrong_model(|control| {
        fence(Ordering::SeqCst);
        if control.consumer.sleeping.load(Ordering::Relaxed) != 0 {
            futex::wake(&control.producer.produced);
        }
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fence_a_wake_is_lost() {
    wrong_model(|control| {
        if control.consumer.sleeping.load(Ordering::Relaxed) != 0 {
            futex::wake(&control.producer.produced);
        }
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_leaving_parked_to_the_sleeper_a_wake_is_lost() {
    wrong_model(|control| {
        fence(Ordering::SeqCst);
        if control.consumer.sleeping.swap(0, Ordering::AcqRel) != 0 {
            futex::wake(&control.producer.produced);
        }
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_moving_the_word_the_end_of_a_session_is_missed() {
    model(|area| {
        let other = Arc::clone(&area);
        let lost = Arc::new(AtomicU32::new(0));
        let told = Arc::clone(&lost);
        let mut consumer = Consumer::new(HEAD, FIRST);
        consumer.begin(&area.control);
        let watcher = thread::spawn(move || {
            told.store(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            futex::wake(&other.control.producer.produced);
        });
        while lost.load(Ordering::SeqCst) == 0 {
            consumer.wait(&area.control, false, FOREVER);
        }
        watcher.join().unwrap();
    });
}
