//! MCP servers and clients made with the official SDK, for tests to talk to.
