//! The upstream client of Tally as the official conformance suite drives it:
//!
//!     conformance client --command conformance-client --scenario NAME

fn main() {
    mcpkit::conformance::main();
}
