//! The server that offers everything, over stdio or at an address: what the official conformance
//! suite is run against.
//!
//!     everything [--revision 2025-11-25|2026-07-28|both] [--http 127.0.0.1:8001]
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail loudly")]

use std::net::SocketAddr;

use mcpkit::Revisions;
use mcpkit::everything::Everything;

#[tokio::main]
async fn main() {
    let mut revisions = Revisions::default();
    let mut http: Option<SocketAddr> = None;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--revision" => revisions = words.next().unwrap().parse().unwrap(),
            "--http" => http = Some(words.next().unwrap().parse().unwrap()),
            _ => panic!("unknown option `{word}`: use --revision or --http"),
        }
    }
    let server = Everything::new(revisions);
    match http {
        None => server.stdio(tokio::io::stdin(), tokio::io::stdout()).await,
        Some(address) => {
            let running = server.http_at(address).await;
            eprintln!("{}", running.url);
            running.forever().await;
        }
    }
}
