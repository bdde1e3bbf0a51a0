//! Server-sent events: a stream of bytes cut into events.

use crate::limits;

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its data; empty where it only carries an id or a wait.
    pub(crate) data: Vec<u8>,
    /// Where to take the stream up again.
    pub(super) id: Option<String>,
    /// How long to wait before that, in milliseconds.
    pub(super) retry: Option<u64>,
    /// Whether it is a message, and not of some other type.
    pub(super) message: bool,
}

/// The stream broke a limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Reads events out of the bytes that are put in.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Bytes of one event.
    max: usize,
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    returned: bool,
    data: Vec<u8>,
    lines: usize,
    kind: Vec<u8>,
    id: Option<String>,
    retry: Option<u64>,
    started: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self::bounded(limits::MCP_MESSAGE_BYTES_MAX)
    }
}

impl Reader {
    /// One that takes events of so many bytes.
    pub(crate) fn bounded(max: usize) -> Self {
        Self {
            max,
            line: Vec::new(),
            returned: false,
            data: Vec::new(),
            lines: 0,
            kind: Vec::new(),
            id: None,
            retry: None,
            started: false,
        }
    }

    /// Takes `bytes` and gives the events that they complete.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            if std::mem::take(&mut self.returned) {
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            if self.line.len() + self.data.len() + part.len() > self.max {
                return Err(TooLong);
            }
            self.line.extend_from_slice(part);
            let Some((stop, rest)) = rest.split_first() else { break };
            self.returned = *stop == b'\r';
            bytes = rest;
            let line = std::mem::take(&mut self.line);
            if let Some(event) = self.take(&line) {
                events.push(event);
            }
        }
        Ok(events)
    }

    /// One line; an empty one completes an event.
    fn take(&mut self, line: &[u8]) -> Option<Event> {
        let line = match std::mem::replace(&mut self.started, true) {
            true => line,
            false => line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line),
        };
        if line.is_empty() {
            return self.complete();
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.lines > 0 {
                    self.data.push(b'\n');
                }
                self.lines += 1;
                self.data.extend_from_slice(value);
            }
            b"event" => self.kind = value.to_vec(),
            b"id" if value.len() <= limits::MCP_TOKEN_BYTES_MAX && !value.contains(&0) => {
                self.id = String::from_utf8(value.to_vec()).ok();
            }
            b"retry" => self.retry = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()),
            // A comment, or a field that means nothing here.
            _ => {}
        }
        None
    }

    fn complete(&mut self) -> Option<Event> {
        self.lines = 0;
        let kind = std::mem::take(&mut self.kind);
        let event = Event {
            data: std::mem::take(&mut self.data),
            id: self.id.take(),
            retry: self.retry.take(),
            message: kind.is_empty() || kind == b"message",
        };
        (!event.data.is_empty() || event.id.is_some() || event.retry.is_some()).then_some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of the events in `text`, whatever the pieces it comes in.
    fn data(text: &str) -> Vec<String> {
        let read = |size: usize| {
            let mut reader = Reader::default();
            let pieces = text.as_bytes().chunks(size);
            let events = pieces.flat_map(|piece| reader.feed(piece).unwrap());
            events.map(|e| String::from_utf8(e.data).unwrap()).collect::<Vec<_>>()
        };
        let whole = read(text.len().max(1));
        for size in 1..=3 {
            assert_eq!(read(size), whole, "{text:?} in pieces of {size}");
        }
        whole
    }

    #[test]
    fn events_are_cut_at_empty_lines() {
        assert_eq!(data("data: a\n\ndata:b\r\n\r\ndata: c\r\r"), ["a", "b", "c"]);
        assert_eq!(data("\u{feff}data: a\ndata:  b\n\n"), ["a\n b"]);
        assert_eq!(data(": alive\n\nevent: x\n\n"), Vec::<String>::new());
        assert_eq!(data("data: half"), Vec::<String>::new());
        assert_eq!(data("data\n\ndata: a\n\n"), ["a"]);
    }

    #[test]
    fn ids_and_waits_come_without_data_too() {
        let mut reader = Reader::default();
        let events = reader.feed(b"id: 7\nretry: 20\ndata:\n\nevent: ping\ndata: x\n\n").unwrap();
        let primed =
            Event { id: Some("7".to_owned()), retry: Some(20), message: true, ..Event::default() };
        assert_eq!(events.first(), Some(&primed));
        assert!(!events.get(1).unwrap().message);
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut reader = Reader::default();
        let piece = [b'a'; 1 << 20];
        let fed = (0..8).find_map(|_| reader.feed(&piece).err());
        assert_eq!(fed, Some(TooLong));
    }
}
