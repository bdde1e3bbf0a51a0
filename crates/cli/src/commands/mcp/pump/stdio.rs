//! Standard input and output, a message a line, each on a thread of its own: what waits for a pipe
//! holds up nothing else, not even the end of the process.

use std::io::{self, BufRead, Write};
use std::thread;

use tokio::sync::{mpsc, oneshot};

use crate::commands::mcp::limits;

/// A line of the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Its text, without the line's end.
    Text(Vec<u8>),
    /// It was longer than any that is taken, and was passed over.
    TooLong,
}

/// The lines of standard input. The channel closes at its end.
pub(crate) fn input() -> mpsc::Receiver<Line> {
    let (send, lines) = mpsc::channel(limits::LINES_WAITING_MAX);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        // An error of standard input is its end.
        while let Ok(Some(line)) = read(&mut input) {
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Writes lines to standard output. The second channel says when it was closed by the other side,
/// or when all has been written after the last sender is gone.
pub(crate) fn output() -> (mpsc::Sender<Vec<u8>>, oneshot::Receiver<()>) {
    let (send, mut lines) = mpsc::channel::<Vec<u8>>(limits::LINES_WAITING_MAX);
    let (ended, end) = oneshot::channel::<()>();
    thread::spawn(move || {
        let mut output = io::stdout().lock();
        while let Some(line) = lines.blocking_recv() {
            if output.write_all(&line).and_then(|()| output.flush()).is_err() {
                break;
            }
        }
        // Nobody may listen any more.
        let _told = ended.send(());
    });
    (send, end)
}

/// The next line, or none at the end.
fn read(input: &mut impl BufRead) -> io::Result<Option<Line>> {
    let mut text = Vec::new();
    let mut too_long = false;
    loop {
        let chunk = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            chunk => chunk?,
        };
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let (part, _) = chunk.split_at(end.unwrap_or(chunk.len()));
        too_long |= text.len() + part.len() > limits::LINE_BYTES_MAX;
        if !too_long {
            text.extend_from_slice(part);
        }
        let (nothing, read) = (chunk.is_empty(), part.len() + usize::from(end.is_some()));
        input.consume(read);
        if end.is_some() || nothing {
            let unfinished = nothing && text.is_empty() && !too_long;
            let line = if too_long { Line::TooLong } else { Line::Text(text) };
            return Ok((!unfinished).then_some(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_their_limit() {
        let long = "x".repeat(limits::LINE_BYTES_MAX + 1);
        let text = format!("one\n\n{long}\nlast");
        let mut input = text.as_bytes();
        let own = |text: &str| Some(Line::Text(text.into()));
        for expected in [own("one"), own(""), Some(Line::TooLong), own("last"), None] {
            assert_eq!(read(&mut input).unwrap(), expected);
        }
    }
}
