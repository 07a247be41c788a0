//! What each answer of an origin is to the client, and where redirects may lead.

use getfile::{Outcome, Status};
use origin::{Config, Origin};

use crate::support::{After, Collector, ScriptedOrigin, config, fetch, fetch_with};

#[test]
fn statuses_map_as_documented() {
    let file = b"a page or a file";
    for (status, expected) in [
        (200, Outcome::Sent(16)),
        (201, Outcome::Failed("the origin answered 201".to_owned())),
        (202, Outcome::Failed("the origin answered 202".to_owned())),
        (203, Outcome::Sent(16)),
        (205, Outcome::Failed("the origin answered 205".to_owned())),
        (206, Outcome::Failed("the origin answered 206".to_owned())),
        (300, Outcome::Failed("the origin answered 300".to_owned())),
        (302, Outcome::Failed("the origin answered 302".to_owned())),
        (400, Outcome::Failed("the origin answered 400".to_owned())),
        (401, Outcome::NotFound),
        (403, Outcome::NotFound),
        (404, Outcome::NotFound),
        (407, Outcome::Failed("the origin answered 407".to_owned())),
        (410, Outcome::NotFound),
        (416, Outcome::Failed("the origin answered 416".to_owned())),
        (418, Outcome::Failed("the origin answered 418".to_owned())),
        (429, Outcome::Failed("the origin answered 429".to_owned())),
        (451, Outcome::NotFound),
        (500, Outcome::Failed("the origin answered 500".to_owned())),
        (502, Outcome::Failed("the origin answered 502".to_owned())),
        (503, Outcome::Failed("the origin answered 503".to_owned())),
        (599, Outcome::Failed("the origin answered 599".to_owned())),
        (999, Outcome::Failed("the origin answered 999".to_owned())),
    ] {
        for chunked in [false, true] {
            let fetched = fetch(move |x| {
                if chunked {
                    x.send(format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n"));
                    x.send(file);
                    x.send("\r\n0\r\n\r\n");
                    After::Keep
                } else {
                    x.answer(&format!("{status} X"), &[], file)
                }
            });
            assert_eq!(fetched.outcome, expected, "{status}");
            assert_eq!(fetched.server.requests().len(), 1, "{status}: an answer is not asked for again");
            if let Outcome::Sent(_) = expected {
                assert_eq!(fetched.client.body, file);
            } else {
                assert_eq!(fetched.client.header, None);
            }
        }
    }
}

#[test]
fn no_content_is_an_empty_file() {
    let fetched = fetch(|x| {
        x.send("HTTP/1.1 204 No Content\r\n\r\n");
        After::Keep
    });
    fetched.assert_whole(b"");
    assert_eq!(fetched.client.header, Some((Status::Ok, 0)));
}

#[test]
fn an_unasked_for_304_is_an_error() {
    let fetched = fetch(|x| {
        x.send("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n");
        After::Keep
    });
    fetched.assert_failed("304");
}

/// The page of an error is read, so that the connection can go on; one that does not end is not.
#[test]
fn error_pages_keep_their_connection_up_to_a_size() {
    for (size, connections) in [(1_000, 1), (60_000, 1), (10 << 20, 3)] {
        let server = ScriptedOrigin::start(move |x| x.answer("404 Not Found", &[], &vec![b'x'; size]));
        let origin = Origin::new(&server.url(), config()).expect("an origin");
        for _ in 0..3 {
            assert_eq!(origin.serve(b"/file", &mut Collector::default()), Outcome::NotFound);
        }
        assert_eq!(server.connections(), connections, "{size}");
    }
}

#[test]
fn redirects_are_followed_to_another_host() {
    let other = ScriptedOrigin::start(|x| x.answer("200 OK", &[], x.request.target.clone().as_bytes()));
    let location = format!("Location: {}/there?q=1", other.url());
    // libcurl follows any 3xx that says where to.
    for status in ["300 Choices", "301 Moved", "302 Found", "303 See Other", "304 X", "305 X", "307 Temporary", "308 X"]
    {
        let location = location.clone();
        // The redirect's own length and page are not the file's.
        let fetched = fetch(move |x| x.answer(status, &[&location, "ETag: \"redirect\""], b"moved away"));
        fetched.assert_whole(b"/there?q=1");
    }
}

#[test]
fn credentials_stay_with_their_host() {
    let other = ScriptedOrigin::start(|x| x.answer("200 OK", &[], b"hi"));
    let location = format!("Location: http://localhost:{}/", other.address().port());
    let server = ScriptedOrigin::start(move |x| x.answer("302 Found", &[&location], b""));
    let base = server.url().replace("http://", "http://user:p%40ss@");
    let outcome = Origin::new(&base, config()).expect("an origin").serve(b"/file", &mut Collector::default());
    assert_eq!(outcome, Outcome::Sent(2));
    // user:p@ss
    assert_eq!(server.requests()[0].field("Authorization"), Some("Basic dXNlcjpwQHNz"));
    assert_eq!(other.requests()[0].field("Authorization"), None);
}

#[test]
fn redirects_are_counted() {
    for (redirects, asked) in [(5, 6), (0, 1)] {
        let fetched = fetch_with(Config { redirects, ..config() }, |x| {
            let location = format!("Location: /{}", x.request.number + 1);
            if x.request.number == 5 {
                x.answer("200 OK", &[], b"there")
            } else {
                x.answer("302 Found", &[&location], b"")
            }
        });
        if redirects == 5 {
            fetched.assert_whole(b"there");
        } else {
            fetched.assert_failed("redirect");
        }
        assert_eq!(fetched.server.requests().len(), asked);
    }
    let fetched = fetch(|x| x.answer("302 Found", &["Location: /file"], b""));
    fetched.assert_failed("redirect");
    assert_eq!(fetched.server.requests().len(), 6, "a loop ends at the limit");
}

#[test]
fn redirects_lead_to_http_only() {
    for target in [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://127.0.0.1:1/x",
        "dict://127.0.0.1:1/x",
        "scp://127.0.0.1/x",
        "data:,x",
        "http://",
    ] {
        let location = format!("Location: {target}");
        let fetched = fetch(move |x| x.answer("302 Found", &[&location], b"moved"));
        assert!(matches!(fetched.outcome, Outcome::Failed(_)), "{target}: {:?}", fetched.outcome);
        assert_eq!(fetched.server.requests().len(), 1, "{target}");
    }
}

#[test]
fn paths_reach_the_origin_encoded_and_below_the_base() {
    let server = ScriptedOrigin::start(|x| x.answer("200 OK", &[], b""));
    let origin = Origin::new(&format!("{}/base/", server.url()), config()).expect("an origin");
    let mut expected = Vec::new();
    for (path, target) in [
        (&b"/a%20b"[..], Some("/base/a%20b")),
        (b"/a b?c#d", Some("/base/a%20b%3Fc%23d")),
        (b"/gr\xc3\xbcn/\xff", Some("/base/gr%C3%BCn/%FF")),
        (b"/x/%2e%2e/y", Some("/base/y")),
        (b"//elsewhere/x", Some("/base//elsewhere/x")),
        (b"/@elsewhere/x", Some("/base/@elsewhere/x")),
        (b"/http://elsewhere/x", Some("/base/http://elsewhere/x")),
        (b"/../x", None),
        (b"/%2e%2e/x", None),
        (b"/..%2fx", None),
    ] {
        let outcome = origin.serve(path, &mut Collector::default());
        assert_eq!(outcome, if target.is_some() { Outcome::Sent(0) } else { Outcome::NotFound });
        expected.extend(target.map(str::to_owned));
    }
    let targets: Vec<_> = server.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, expected);
}
