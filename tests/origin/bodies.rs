//! Well-formed bodies, with and without a length, arrive byte for byte.

use crate::support::{After, fetch, pattern};

#[test]
fn files_of_all_sizes_arrive() {
    for size in [0, 1, 823, 824, 5712, 65_536, 1_048_599, 16 << 20] {
        let file = pattern(size);
        let fetched = fetch({
            let file = file.clone();
            move |x| x.answer("200 OK", &[], &file)
        });
        fetched.assert_whole(&file);
    }
}

#[test]
fn a_chunked_body_gets_its_length() {
    for size in [0_usize, 1, 100_000] {
        let file = pattern(size);
        let fetched = fetch({
            let file = file.clone();
            move |x| {
                x.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: ETag\r\n\r\n");
                for chunk in file.chunks(7_001) {
                    x.send(format!("{:x};ext=1\r\n", chunk.len()));
                    x.send(chunk);
                    x.send("\r\n");
                }
                x.send("0\r\nContent-Length: 3\r\nETag: \"t\"\r\n\r\n");
                After::Keep
            }
        });
        fetched.assert_whole(&file);
    }
}

#[test]
fn a_body_up_to_the_close_gets_its_length() {
    for size in [0, 1, 100_000] {
        let file = pattern(size);
        let fetched = fetch({
            let file = file.clone();
            move |x| {
                x.send("HTTP/1.0 200 OK\r\n\r\n");
                x.send(&file);
                After::Close
            }
        });
        fetched.assert_whole(&file);
    }
}
