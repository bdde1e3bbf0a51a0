//! Server-sent events, read as they come.

use std::time::Duration;

use crate::commands::mcp::limits;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Where to read on after it.
    pub(crate) id: Option<String>,
    /// How long to wait before that.
    pub(crate) retry: Option<Duration>,
    /// Its message; empty where it has none.
    pub(crate) data: Vec<u8>,
}

/// An event that is longer than any that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// What was read of a stream.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    line: Vec<u8>,
    /// Whether the line before ended in `\r`, so that a `\n` now belongs to it.
    after_return: bool,
    event: Event,
    lines: bool,
}

impl Reader {
    /// Takes the next bytes and hands out the events that end in them.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for part in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let (text, end) = match part.split_last() {
                Some((end @ (b'\n' | b'\r'), text)) => (text, Some(*end)),
                _ => (part, None),
            };
            if self.line.len() + text.len() + self.event.data.len() > limits::ANSWER_BYTES_MAX {
                return Err(TooLong);
            }
            let second_half = end == Some(b'\n') && self.after_return && text.is_empty();
            self.after_return = end == Some(b'\r');
            if second_half {
                continue;
            }
            self.line.extend_from_slice(text);
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                events.extend(self.take(&line));
            }
        }
        Ok(events)
    }

    /// One line; an empty one ends the event.
    fn take(&mut self, line: &[u8]) -> Option<Event> {
        if line.is_empty() {
            let had_lines = std::mem::take(&mut self.lines);
            let event = std::mem::take(&mut self.event);
            return had_lines.then_some(event);
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (field, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let text = || String::from_utf8(value.to_vec()).ok();
        match field {
            b"data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push(b'\n');
                }
                self.event.data.extend_from_slice(value);
            }
            b"id" => self.event.id = text().filter(|id| !id.contains('\0')),
            b"retry" => {
                let millis = text().and_then(|text| text.parse().ok());
                self.event.retry = millis.map(Duration::from_millis);
            }
            // Comments, event names, and what may come later.
            _ => return None,
        }
        self.lines = true;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parts: &[&str]) -> Vec<Event> {
        let mut reader = Reader::default();
        parts.iter().flat_map(|part| reader.push(part.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn events_however_they_are_cut() {
        let data = |data: &str| Event { data: data.into(), ..Event::default() };
        let first =
            Event { id: Some("7".into()), retry: Some(Duration::from_millis(50)), data: vec![] };
        let text = "id: 7\nretry: 50\n\n: alive\n\nevent: message\ndata: {\"a\":\ndata: 1}\n\n\
                    data:x\r\n\r\n";
        let expected = vec![first, data("{\"a\":\n1}"), data("x")];
        assert_eq!(read(&[text]), expected);
        for at in 1..text.len() {
            let (left, right) = text.split_at(at);
            assert_eq!(read(&[left, right]), expected, "cut at {at}");
        }
        assert_eq!(read(&["data: unfinished\n"]), []);
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut reader = Reader::default();
        let megabyte = [b'x'; 1 << 20];
        let pushed = (0..=limits::ANSWER_BYTES_MAX >> 20).map(|_| reader.push(&megabyte));
        assert_eq!(pushed.last().unwrap(), Err(TooLong));
    }
}
