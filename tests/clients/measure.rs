//! `gfclient_measure`: the metrics file, row by row, and its special options.

use std::fs;
use std::path::Path;

use crate::getfile_client::{MEASURE, directory, names, run};
use crate::getfile_server::{GetfileServer, Step, file};

const TITLE: &str = "#Elapsed Time (secs),Bytes Received,Requests Serviced, Requests Failed, Comment\n";

#[derive(Debug, PartialEq)]
struct Row {
    elapsed: f64,
    counters: [u64; 3],
    comment: String,
}

/// Reads rows of `%10.5f, %10llu, %10llu, %10llu, %s`, to the column.
fn rows(text: &str) -> Vec<Row> {
    text.lines().map(row).collect()
}

fn row(line: &str) -> Row {
    let mut columns = line.splitn(5, ", ");
    let mut column = || columns.next().unwrap_or_else(|| panic!("five columns in {line:?}"));
    let wide = |text: &str| {
        assert!(text.len() == 10, "ten characters wide: {line:?}");
        text.trim_start().to_owned()
    };
    let elapsed = wide(column());
    assert_eq!(elapsed.split_once('.').map(|(_, decimals)| decimals.len()), Some(5), "{line:?}");
    let counters = [(); 3].map(|()| wide(column()).parse().expect(line));
    Row { elapsed: elapsed.parse().expect(line), counters, comment: column().to_owned() }
}

fn metrics(file: &Path) -> Vec<Row> {
    let text = fs::read_to_string(file).unwrap();
    rows(text.strip_prefix(TITLE).unwrap_or_else(|| panic!("the title: {text}")))
}

fn outcome(row: &Row) -> ([u64; 3], &str) {
    (row.counters, &row.comment)
}

#[test]
fn every_chunk_and_every_request_has_its_row() {
    let server = GetfileServer::start([
        ("/a", vec![Step::Send(b"GETFILE OK 5 he".to_vec()), Step::Drained, Step::Send(b"llo".to_vec()), Step::Hold]),
        ("/empty", file(b"")),
        ("/missing", vec![Step::Send(b"GETFILE FILE_NOT_FOUND 0\n".to_vec()), Step::Hold]),
        ("/short", vec![Step::Send(b"GETFILE OK 9 abc".to_vec())]),
    ]);
    let place = directory(&[b"/short", b"/a", b"/empty", b"/missing"]);
    let ended = run(MEASURE, place.path(), &["-p", &server.port(), "-r", "4"]);
    assert_eq!(ended.status, 1);
    let stderr = "gfclient_measure: /missing: FILE_NOT_FOUND\n\
                  gfclient_measure: /short: short file: got 3 of 9 bytes: the server closed the connection\n";
    assert_eq!(ended.stderr, stderr);
    let rows = metrics(&place.path().join("metrics.txt"));
    let expected = [
        ([2, 0, 0], "(null)"),
        ([5, 0, 0], "(null)"),
        ([5, 1, 0], "/a"),
        ([5, 2, 0], "/empty"),
        ([5, 2, 1], "/missing"),
        ([8, 2, 1], "(null)"),
        ([8, 2, 2], "/short"),
    ];
    assert_eq!(rows.iter().map(outcome).collect::<Vec<_>>(), expected);
    assert!(rows.windows(2).all(|pair| pair[0].elapsed <= pair[1].elapsed), "{rows:?}");
    assert_eq!(names(place.path()), ["metrics.txt"], "nothing is downloaded");
}

#[test]
fn threads_write_whole_rows_that_add_up() {
    let server = GetfileServer::start([("/a", file(&[b'a'; 100_000])), ("/b", file(b"b"))]);
    let place = directory(&[b"/a", b"/b"]);
    let ended = run(MEASURE, place.path(), &["-p", &server.port(), "-t", "16", "-r", "200", "-m", "other.csv"]);
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
    let rows = metrics(&place.path().join("other.csv"));
    assert_eq!(rows.last().unwrap().counters, [10_000_100, 200, 0]);
    assert!(rows.windows(2).all(|pair| pair[0].elapsed <= pair[1].elapsed));
    assert_eq!(rows.iter().filter(|row| row.comment == "/a").count(), 100);
}

#[test]
fn special_options_timestamp_the_file_and_report_at_an_interval() {
    let server = GetfileServer::start([("/slow", vec![Step::Hold])]);
    let place = directory(&[b"/slow"]);
    let options = ["-p", &server.port(), "-r", "1", "--read-timeout", "0.5", "-x", "-i", "0.01", "-q", "3"];
    let ended = run(MEASURE, place.path(), &options);
    assert_eq!(ended.status, 1);
    let reports: Vec<_> = ended.stdout.lines().filter(|line| line.ends_with(", report")).map(row).collect();
    assert!(!reports.is_empty(), "{}", ended.stdout);
    assert_eq!(reports[0].counters, [0, 0, 0]);
    let names = names(place.path());
    let stamp = names[0].strip_prefix("metrics-").and_then(|rest| rest.strip_suffix("Z.txt")).expect(&names[0]);
    let digits = stamp.split_once('T').expect(stamp);
    assert!(digits.0.len() == 8 && digits.1.len() == 6 && (digits.0.to_owned() + digits.1).parse::<u64>().is_ok());
    assert_eq!(names.len(), 1);
}

#[test]
fn a_metrics_file_that_cannot_be_written_is_named() {
    let place = directory(&[b"/a"]);
    let ended = run(MEASURE, place.path(), &["-m", "no/such/metrics.txt"]);
    assert_eq!(ended.status, 1);
    let line =
        "gfclient_measure: cannot write metrics file no/such/metrics.txt: No such file or directory (os error 2)";
    assert_eq!(ended.one_line(), line);

    let server = GetfileServer::start([("/a", file(b"x"))]);
    let ended = run(MEASURE, place.path(), &["-p", &server.port(), "-r", "1", "-m", "/dev/full"]);
    assert_eq!(ended.status, 1);
    let line = "gfclient_measure: cannot write metrics file /dev/full: No space left on device (os error 28)";
    assert_eq!(ended.one_line(), line);
}
