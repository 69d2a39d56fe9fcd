//! The decisions `AgentAPI` makes on every request, as pure policy.
//!
//! Nothing in this crate reads a clock, touches the network or knows Python:
//! time comes in as `now`, keys and rules come in as values.

#![forbid(unsafe_code)]
