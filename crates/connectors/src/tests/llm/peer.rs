//! A provider that does what it is told, one request after the other.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// What it does with a request.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Sends this and closes.
    Send(String),
    /// Sends this and says no more.
    SendAndHang(String),
    /// Takes the request and says nothing.
    Hang,
    /// Takes the request and closes.
    Close,
    /// The beginning and the end of a stream.
    Stream(String, String),
}

impl Act {
    /// The beginning of a stream.
    pub(super) fn begun(self) -> Self {
        match self {
            Self::Stream(begun, _) => Self::Stream(begun, String::new()),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn then_hangs(self) -> Self {
        match self {
            Self::Stream(begun, _) => Self::SendAndHang(format!("{}{begun}", head(None))),
            other => panic!("{other:?}"),
        }
    }

    /// Breaks off: fewer bytes come than were announced.
    pub(super) fn then_closes(self) -> Self {
        match self {
            Self::Stream(begun, _) => Self::Send(format!("{}{begun}", head(Some(1 << 20)))),
            other => panic!("{other:?}"),
        }
    }

    /// Ends as HTTP does, though not as its form does.
    pub(super) fn then_ends(self) -> Self {
        match self {
            Self::Stream(begun, _) => Self::Send(format!("{}{begun}", head(Some(begun.len())))),
            other => panic!("{other:?}"),
        }
    }
}

fn head(length: Option<usize>) -> String {
    let length = length.map(|bytes| format!("content-length: {bytes}\r\n")).unwrap_or_default();
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{length}\r\n")
}

/// An answer with this status.
pub(super) fn status(status: u16, headers: &str, body: &str) -> Act {
    let length = body.len();
    Act::Send(format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n{body}"))
}

/// A whole answer in one of the forms.
pub(super) fn answer(form: &str, model: &str, text: &str, (read, written): (u64, u64)) -> Act {
    let usage = json!({"input_tokens": read, "output_tokens": written});
    let body = match form {
        "openai" | "azure_openai" => {
            json!({"model": model, "choices": [{"index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": text, "refusal": null}}],
            "usage": {"prompt_tokens": read, "completion_tokens": written}})
        }
        "anthropic" => json!({"type": "message", "model": model, "stop_reason": "end_turn",
            "content": [{"type": "text", "text": text}], "usage": usage}),
        _ => json!({"model": model, "status": "completed", "usage": usage, "output": [
            {"type": "reasoning", "summary": []},
            {"type": "message", "content": [{"type": "output_text", "text": text}]}]}),
    };
    status(200, "", &body.to_string())
}

/// What comes before the pieces of a stream, how one is written down, and what comes after.
type Story = (Vec<Value>, fn(&str) -> Value, Vec<Value>);

/// A stream in one of the forms.
pub(super) fn events(form: &str, model: &str, pieces: &[&str], (read, written): (u64, u64)) -> Act {
    let usage = json!({"input_tokens": read, "output_tokens": written});
    let event = |value: Value| {
        format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap_or("x"))
    };
    let (before, piece, after): Story = match form {
        "openai" | "azure_openai" => {
            let choice = |delta: Value, finish: Value| {
                json!({"model": "", "choices": [
                    {"index": 0, "delta": delta, "finish_reason": finish}]})
            };
            let usage = json!({"prompt_tokens": read, "completion_tokens": written});
            let begun = json!({"model": model, "choices": []});
            (
                vec![begun],
                |text| json!({"choices": [{"index": 0, "delta": {"content": text}}]}),
                vec![
                    choice(json!({}), json!("stop")),
                    json!({"model": model, "choices": [], "usage": usage}),
                ],
            )
        }
        "anthropic" => (
            vec![
                json!({"type": "message_start", "message": {"model": model,
                "usage": {"input_tokens": read, "output_tokens": 1}}}),
                json!({"type": "ping"}),
            ],
            |text| {
                json!({"type": "content_block_delta", "index": 0,
                    "delta": {"type": "text_delta", "text": text}})
            },
            vec![
                json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"},
                    "usage": {"output_tokens": written}}),
                json!({"type": "message_stop"}),
            ],
        ),
        _ => (
            vec![json!({"type": "response.created", "response": {"model": model}})],
            |text| json!({"type": "response.output_text.delta", "delta": text}),
            vec![json!({"type": "response.completed", "response":
                {"model": model, "status": "completed", "usage": usage}})],
        ),
    };
    let begun = before.into_iter().chain(pieces.iter().map(|text| piece(text)));
    let mut end: String = after.into_iter().map(event).collect();
    if matches!(form, "openai" | "azure_openai") {
        end.push_str("data: [DONE]\n\n");
    }
    Act::Stream(begun.map(event).collect(), end)
}

type Seen = Arc<Mutex<Vec<(String, Value)>>>;

/// The provider.
pub(super) struct Peer {
    pub(super) url: String,
    seen: Seen,
    serving: AbortHandle,
}

impl Peer {
    pub(super) async fn start(acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Seen::default();
        let serving = tokio::spawn(serve(listener, acts, seen.clone())).abort_handle();
        Self { url, seen, serving }
    }

    /// The heads and bodies of all requests so far.
    pub(super) fn seen(&self) -> Vec<(String, Value)> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, acts: Vec<Act>, seen: Seen) {
    let mut open = Vec::new();
    for act in acts {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read(&mut stream).await;
        seen.lock().unwrap().push(request);
        let (text, hangs) = match act {
            Act::Send(text) => (text, false),
            Act::SendAndHang(text) => (text, true),
            Act::Hang => (String::new(), true),
            Act::Close => (String::new(), false),
            Act::Stream(begun, end) => (format!("{}{begun}{end}", head(None)), false),
        };
        // Whoever reads may have had enough.
        let _written = stream.write_all(text.as_bytes()).await;
        if hangs {
            open.push(stream);
        }
    }
    std::future::pending::<()>().await;
}

async fn read(stream: &mut TcpStream) -> (String, Value) {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.unwrap();
        assert!(count > 0, "a whole request");
        bytes.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let length: usize = length.unwrap();
        if let Some(body) = bytes.get(head.len() + 4..).filter(|body| body.len() == length) {
            return (head.to_owned(), serde_json::from_slice(body).unwrap());
        }
    }
}
