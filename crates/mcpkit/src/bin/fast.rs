//! The server that costs next to nothing, at an address: for measuring what is in front of it.
//!
//!     fast 127.0.0.1:0
#![expect(clippy::unwrap_used, reason = "helpers of tests fail loudly")]

#[tokio::main]
async fn main() {
    let address = std::env::args().nth(1).unwrap();
    let running = mcpkit::fast::serve_at(address.parse().unwrap()).await;
    println!("{}", running.url);
    running.forever().await;
}
