//! What one record looks like, for people or for machines.

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::process;

use jiff::Timestamp;
use log::Record;
use log::kv::{Error, Key, Value, VisitSource, VisitValue};

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `2026-01-31T12:00:00.123Z INFO [4711] message`.
    Text,
    /// One JSON object a line, with the record's fields.
    Json,
}

impl Format {
    /// The line of a record, with its newline and no other control character.
    pub(super) fn line(self, record: &Record<'_>, now: Timestamp) -> Vec<u8> {
        let mut message = String::new();
        // Fails only where the Display of an argument does.
        let _ = write!(message, "{}", record.args());
        let message = escape_controls(&message);
        let mut line = Vec::with_capacity(message.len() + 128);
        let _ = match self {
            Self::Text => writeln!(line, "{now:.3} {} [{}] {message}", record.level(), process::id()),
            Self::Json => write_json(&mut line, record, now, &message),
        };
        line
    }
}

fn write_json(line: &mut Vec<u8>, record: &Record<'_>, now: Timestamp, message: &str) -> std::io::Result<()> {
    let level = record.level().as_str().to_ascii_lowercase();
    write!(line, r#"{{"time":"{now:.3}","level":"{level}","pid":{},"target":"#, process::id())?;
    serde_json::to_writer(&mut *line, record.target())?;
    line.extend_from_slice(br#","message":"#);
    serde_json::to_writer(&mut *line, message)?;
    // The visitor below does not fail.
    let _ = record.key_values().visit(&mut Fields(line));
    line.extend_from_slice(b"}\n");
    Ok(())
}

/// Writes `,"key":value` for each field of a record.
struct Fields<'l>(&'l mut Vec<u8>);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.0.push(b',');
        self.text(key.as_str())?;
        self.0.push(b':');
        value.visit(self)
    }
}

impl Fields<'_> {
    fn text(&mut self, text: &str) -> Result<(), Error> {
        // A string into a Vec cannot fail.
        let _ = serde_json::to_writer(&mut *self.0, &escape_controls(text));
        Ok(())
    }

    /// Numbers, true and false are written as Rust does.
    fn plain(&mut self, value: impl Display) -> Result<(), Error> {
        let _ = write!(self.0, "{value}");
        Ok(())
    }
}

impl<'v> VisitValue<'v> for Fields<'_> {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), Error> {
        self.text(&value.to_string())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), Error> {
        self.text(value)
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), Error> {
        self.plain(value)
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), Error> {
        self.plain(value)
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), Error> {
        if value.is_finite() { self.plain(value) } else { self.plain("null") }
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), Error> {
        self.plain(value)
    }
}

/// Writes characters that would end the line, or that a terminal would obey, as escapes. A message may quote what a
/// client, an origin or a locals file says.
fn escape_controls(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let turns_the_line_around =
            matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns_the_line_around || matches!(c, '\u{2028}' | '\u{2029}') {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use log::Level;
    use log::kv::Source;
    use serde_json::{Value as Json, json};

    use super::*;

    const HOSTILE: &str = "a\"b\\c\n2026-01-01T00:00:00.000Z INFO [1] forged\r\u{1b}[31m\u{9b}\u{202e}\u{2028}\0ü";

    fn line(format: Format, fields: &dyn Source) -> String {
        let args = format_args!("{HOSTILE}");
        let record =
            Record::builder().level(Level::Warn).target("gfproxy::request").args(args).key_values(&fields).build();
        String::from_utf8(format.line(&record, Timestamp::UNIX_EPOCH)).expect("UTF-8")
    }

    #[test]
    fn a_text_line_is_one_line_without_control_characters() {
        let pid = process::id();
        let expected = format!(
            r#"1970-01-01T00:00:00.000Z WARN [{pid}] a"b\c\n2026-01-01T00:00:00.000Z INFO [1] forged\r\u{{1b}}[31m\u{{9b}}\u{{202e}}\u{{2028}}\u{{0}}ü"#
        );
        assert_eq!(line(Format::Text, &[] as &[(&str, u64); 0]), expected + "\n");
    }

    #[test]
    fn a_json_line_is_one_object_with_the_records_fields() {
        let fields = [
            ("path", Value::from_display(&HOSTILE)),
            ("status", Value::from("OK")),
            ("bytes", Value::from(u64::MAX)),
            ("offset", Value::from(-1_i64)),
            ("ms", Value::from(0.25)),
            ("resumed", Value::from(true)),
        ];
        let line = line(Format::Json, &fields);
        assert_eq!(line.find('\n'), Some(line.len() - 1));
        assert!(!line.trim_end().chars().any(char::is_control), "{line:?}");
        let mut object: Json = serde_json::from_str(&line).expect("JSON");
        let message = object.as_object_mut().and_then(|object| object.remove("message")).expect("a message");
        assert_eq!(message, object["path"]);
        assert!(message.as_str().is_some_and(|message| message.starts_with("a\"b\\c\\n2026")), "{message}");
        let expected = json!({
            "time": "1970-01-01T00:00:00.000Z", "level": "warn", "pid": process::id(), "target": "gfproxy::request",
            "path": message, "status": "OK", "bytes": u64::MAX, "offset": -1, "ms": 0.25, "resumed": true,
        });
        assert_eq!(object, expected);
    }
}
