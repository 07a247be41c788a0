use super::super::config::Config;
use super::super::spool::Budgets;
use super::*;

static CHUNK: [u8; 256 << 10] = [7; 256 << 10];

fn flight(length: u64, ceiling: u64) -> Arc<Flight> {
    flight_on_disk(length, ceiling, u64::MAX)
}

fn flight_on_disk(length: u64, ceiling: u64, spool_disk_total: u64) -> Arc<Flight> {
    let disk = Budgets::new(&Config { spool_disk_total, ..Config::default() }).disk();
    let flight = Arc::new(Flight { state: Mutex::new(State::new(ceiling, disk)), changed: Condvar::new() });
    flight.state.lock().length = Some(length);
    flight
}

fn in_memory(state: &State) -> Option<usize> {
    match &state.kept {
        Kept::Memory(memory) => Some(memory.len()),
        Kept::File(_) => None,
    }
}

#[test]
fn a_lone_reader_needs_no_file_and_little_memory() {
    let flight = flight(1 << 40, u64::MAX);
    let reader = Reader::join(&flight).expect("open");
    for _ in 0..100 {
        while !flight.state.lock().is_ahead() {
            flight.state.lock().append(&CHUNK).expect("room");
        }
        let memory = in_memory(&flight.state.lock()).expect("no file");
        assert!(memory <= WINDOW + CHUNK.len(), "{memory}");
        let end = flight.state.lock().end;
        reader.advance(end - 1000);
    }
    assert!(Reader::join(&flight).is_none(), "the beginning is gone");
}

#[test]
fn a_slow_reader_makes_it_a_file_and_reads_it_all() {
    let flight = flight(1 << 40, u64::MAX);
    let [slow, fast] = [(); 2].map(|()| Reader::join(&flight).expect("open"));
    for _ in 0..20 {
        let mut state = flight.state.lock();
        assert!(!state.is_ahead(), "the fast one sets the pace");
        state.append(&CHUNK).expect("room");
        let end = state.end;
        drop(state);
        fast.advance(end);
    }
    assert_eq!(in_memory(&flight.state.lock()), None);
    assert!(Reader::join(&flight).is_some(), "all of it is there");
    let (mut offset, mut piece) = (0, vec![0; 100_000]);
    while offset < 20 * CHUNK.len() as u64 {
        let read = slow.read(offset, &mut piece).expect("kept");
        assert!(read > 0 && piece[..read].iter().all(|&b| b == 7));
        offset += read as u64;
    }
}

#[test]
fn beyond_the_ceiling_or_the_disk_the_slow_reader_sets_the_pace() {
    for flight in [flight(1 << 40, 1 << 30), flight_on_disk(1 << 40, u64::MAX, 1 << 39)] {
        let [_slow, fast] = [(); 2].map(|()| Reader::join(&flight).expect("open"));
        while !flight.state.lock().is_ahead() {
            flight.state.lock().append(&CHUNK).expect("room");
            let end = flight.state.lock().end;
            fast.advance(end);
        }
        assert!(in_memory(&flight.state.lock()).is_some_and(|memory| memory <= WINDOW + CHUNK.len()));
    }
}

#[test]
fn nobody_joins_once_the_file_is_whole() {
    let flight = flight(CHUNK.len() as u64, u64::MAX);
    let _first = Reader::join(&flight).expect("open");
    flight.state.lock().append(&CHUNK).expect("room");
    assert!(Reader::join(&flight).is_none(), "the fetch has still to end, but whoever has the file may ask again");
}
