//! The MCP gateway in tests: a real server with real MCP servers behind it.

pub(crate) mod door;
pub(crate) mod gateway;
pub(crate) mod raw;

use mcpkit::program::Program;

/// Not a test: the process that [`upstream`] starts.
#[test]
#[ignore = "a program that other tests start"]
fn program() {
    mcpkit::program::run();
}

/// The words of the command of a fixture over stdio.
pub(crate) fn upstream(program: Program) -> Vec<String> {
    mcpkit::program::command("mcp::program", program)
}
