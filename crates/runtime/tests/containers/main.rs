//! Real containers, as root, each test in an instance of its own.

#[expect(clippy::unwrap_used, reason = "a test harness fails by panicking")]
mod images;
#[expect(clippy::unwrap_used, reason = "a test harness fails by panicking")]
mod instance;
mod lifecycle;
#[expect(clippy::unwrap_used, reason = "a test harness fails by panicking")]
mod registry;
mod security;
#[expect(clippy::unwrap_used, reason = "a test harness fails by panicking")]
mod streams;
