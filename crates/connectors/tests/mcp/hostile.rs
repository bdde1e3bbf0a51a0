//! Upstreams that break, lie and flood.
