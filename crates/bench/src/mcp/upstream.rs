//! A server of MCP that costs next to nothing: what a call without Tally is measured on. It looks
//! at the id and the method of a message and at nothing else, in both revisions.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Its one tool: it answers a text.
pub(crate) const TOOL: &str = "echo";
/// Headers of a request that are looked at.
const HEADERS_MAX: usize = 32;

const TOOLS: &str = concat!(
    r#"{"resultType":"complete","ttlMs":300000,"cacheScope":"public","tools":[{"name":"echo","#,
    r#""description":"Answers a text","inputSchema":{"type":"object","properties":"#,
    r#"{"text":{"type":"string"}}},"annotations":{"readOnlyHint":true,"openWorldHint":false}}]}"#,
);
const ANSWER: &str =
    r#"{"resultType":"complete","content":[{"type":"text","text":"done"}],"isError":false}"#;
const DISCOVERED: &str = concat!(
    r#"{"resultType":"complete","ttlMs":300000,"cacheScope":"public","#,
    r#""supportedVersions":["2025-11-25","2026-07-28"],"capabilities":{"tools":{}},"#,
    r#""_meta":{"io.modelcontextprotocol/serverInfo":{"name":"fast","version":"1"}}}"#,
);
const INITIALIZED: &str = concat!(
    r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"#,
    r#""serverInfo":{"name":"fast","version":"1"}}"#,
);

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
}

/// Serves on a thread of its own for as long as this process lives.
pub(crate) fn serve() -> anyhow::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serving = move || runtime.block_on(accept(listener));
    std::thread::Builder::new().name("upstream".to_owned()).spawn(serving)?;
    Ok(address)
}

async fn accept(listener: std::net::TcpListener) -> anyhow::Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        // How it ends is for the client to tell.
        tokio::spawn(connection(stream));
    }
}

async fn connection(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    loop {
        let length = loop {
            if let Some((head, length)) = head(&request)?
                && request.len() >= length
            {
                answer.clear();
                let body = request.get(head.body_at..length).context("a body")?;
                respond(head.post, body, &mut answer)?;
                break length;
            }
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        };
        stream.write_all(&answer).await?;
        request.drain(..length);
    }
}

struct Head {
    post: bool,
    body_at: usize,
}

/// The head of a request, and how long the whole is.
fn head(request: &[u8]) -> anyhow::Result<Option<(Head, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(body_at) = head.parse(request)? else { return Ok(None) };
    let length = head.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let length: usize = match length {
        Some(length) => std::str::from_utf8(length.value)?.parse()?,
        None => 0,
    };
    Ok(Some((Head { post: head.method == Some("POST"), body_at }, body_at + length)))
}

fn respond(post: bool, body: &[u8], out: &mut Vec<u8>) -> anyhow::Result<()> {
    if !post {
        out.extend_from_slice(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n");
        return Ok(());
    }
    let message: Message<'_> = serde_json::from_slice(body)?;
    let (Some(id), Some(method)) = (message.id, message.method) else {
        out.extend_from_slice(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n");
        return Ok(());
    };
    let (name, value) = match method.get() {
        r#""tools/call""# => ("result", ANSWER),
        r#""tools/list""# => ("result", TOOLS),
        r#""server/discover""# => ("result", DISCOVERED),
        r#""initialize""# => ("result", INITIALIZED),
        _ => ("error", r#"{"code":-32601,"message":"there is no such method"}"#),
    };
    let session = match method.get() {
        r#""initialize""# => "mcp-session-id: fast\r\n",
        _ => "",
    };
    let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"{name}":{value}}}"#);
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{session}content-length: {}\r\n\r\n",
        text.len()
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(())
}
