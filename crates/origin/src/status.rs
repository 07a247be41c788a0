//! What an HTTP status means to a GETFILE client. docs/reference/origin.md has the same table.

/// How the answer to a request goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The body is the file.
    File,
    /// The file is empty.
    Empty,
    /// There is no such file, or none for us; the two must look the same.
    NotFound,
    /// The origin has no answer that a client could use.
    Error,
}

/// The meaning of the status of a final response to a request for a whole file.
pub(super) fn meaning(status: u16) -> Meaning {
    match status {
        200 | 203 => Meaning::File,
        204 => Meaning::Empty,
        401 | 403 | 404 | 410 | 451 => Meaning::NotFound,
        _ => Meaning::Error,
    }
}

/// Whether a status says that another request may fare better: that the server, or what stands before it, is not ready.
pub(super) fn is_transient(status: u16) -> bool {
    // 522 and 524 are a content network's words for an origin that it could not reach.
    matches!(status, 408 | 425 | 429 | 502 | 503 | 504 | 522 | 524)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_files_are_files() {
        let files: Vec<u16> = (0..=999).filter(|&s| meaning(s) == Meaning::File).collect();
        assert_eq!(files, [200, 203]);
    }

    #[test]
    fn no_access_looks_like_no_file() {
        let not_found: Vec<u16> = (0..=999).filter(|&s| meaning(s) == Meaning::NotFound).collect();
        assert_eq!(not_found, [401, 403, 404, 410, 451]);
    }
}
