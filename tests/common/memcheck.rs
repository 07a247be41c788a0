//! What valgrind's memcheck says of a program.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::fs;
use std::path::Path;
use std::process::Command;

/// What memcheck tells of, beside the program's own output.
pub struct Report {
    log: tempfile::TempPath,
}

impl Report {
    pub fn new() -> Self {
        Self { log: tempfile::NamedTempFile::new().expect("a file").into_temp_path() }
    }

    /// Runs `program`, to which arguments may be added.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("valgrind");
        command.args(["--leak-check=full", "--show-leak-kinds=all", "--errors-for-leak-kinds=all", "--num-callers=40"]);
        command.arg("--child-silent-after-fork=yes").arg(format!("--log-file={}", self.log.display())).arg(program);
        command
    }

    /// Asserts that the program, which has ended, made no error and lost nothing. Memory that a pointer to its
    /// beginning leads to is not lost. A provided gfserver's threads live on to the end, each with a block that counts
    /// as possibly lost: they are one finding, which the kit's own handler leaves, too.
    pub fn assert_clean(&self, has_provided_gfserver: bool) {
        let log = fs::read_to_string(&self.log).expect("valgrind's log");
        assert!(log.contains("ERROR SUMMARY"), "valgrind did not come to its end:\n{log}");
        let (known, found): (Vec<_>, Vec<_>) = findings(&log).into_iter().partition(|found| is_provided(found));
        assert!(found.is_empty(), "{}", found.join("\n\n"));
        let (of_main, of_gfserver): (Vec<_>, Vec<_>) = known.iter().partition(|found| is_signal_thread(found));
        let most = usize::from(has_provided_gfserver);
        assert!(of_main.len() <= most && of_gfserver.len() <= most, "{}", known.join("\n\n"));
    }
}

/// Errors, and blocks that are lost in whatever sense, each with its stack.
fn findings(log: &str) -> Vec<String> {
    let without_pids: Vec<&str> =
        log.lines().map(|line| line.splitn(3, "==").nth(2).unwrap_or(line).trim_start_matches(' ')).collect();
    let paragraphs = without_pids.split(|line| line.is_empty()).map(|lines| lines.join("\n"));
    paragraphs
        .filter(|text| text.contains("\nat 0x") && !text.contains(" are still reachable in loss record"))
        .collect()
}

fn is_provided(found: &str) -> bool {
    let has = |words: &str| found.contains(words);
    has(" are possibly lost in ") && has("pthread_create") && has("gfserver_") && !has("gfproxy")
        || is_signal_thread(found)
}

/// A provided `gfserver_serve` never returns, so the thread that takes our main's signals calls exit(3) itself.
fn is_signal_thread(found: &str) -> bool {
    let has = |words: &str| found.contains(words);
    has(" are possibly lost in ") && has("pthread_create") && has("main (webproxy.c:") && !has("gfserver_")
}

#[test]
fn what_is_lost_is_found_and_what_is_reachable_is_not() {
    let log = "==1== 8 bytes in 1 blocks are still reachable in loss record 1 of 3\n==1==    at 0x1: malloc\n==1== \n\
               ==1== 8 bytes in 1 blocks are possibly lost in loss record 2 of 3\n==1==    at 0x1: calloc\n\
               ==1==    by 0x2: pthread_create\n==1==    by 0x3: gfserver_init\n==1== \n\
               ==1== 8 (4 direct, 4 indirect) bytes in 1 blocks are definitely lost in loss record 3 of 3\n\
               ==1==    at 0x1: malloc\n==1== \n==1== Invalid read of size 4\n==1==    at 0x1: f\n==1== \n";
    let found = findings(log);
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found.iter().map(|found| is_provided(found)).collect::<Vec<_>>(), [true, false, false]);
}
