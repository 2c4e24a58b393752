//! Resilience as tower layers: what keeps a service usable while the things around it fail.
//!
//! Each mechanism is a module that stands alone: a state machine which is handed the time and the random numbers it decides
//! by and so can be replayed in a test, and a tower layer around it that has a clock. Each module says which failure it
//! contains, and which one it can cause. Nothing here knows Kubernetes, or where its configuration comes from.
//!
//! | when | mechanism |
//! | --- | --- |
//! | an answer is of no more use after a while | [`deadline`] |
//! | a request fails now and then | [`retry`], with a [budget](retry::Budget) |
//! | a request takes unusually long now and then | [`hedge`] |
//! | one endpoint among many is broken | [`outlier`] |
//! | endpoints differ in speed, size or distance | [`balance`] |
//! | a dependency is down, or so slow that it might as well be | [`breaker`] |
//! | one slow dependency takes the resources of all | [`bulkhead`], with a fixed or an adaptive [`limit`] |
//! | a request that changes something comes twice | [`idempotency`] |
//! | a queue does not get short any more | [`codel`], in a bulkhead |
//! | somebody asks too often | [`rate`] |
//! | there is more to do than can be done | [`shed`] |
//!
//! # The order of layers
//!
//! Outermost first, for a client; a server has the upper half:
//!
//! 1. [`shed`], [`rate`]: what is refused costs nothing yet.
//! 2. [`deadline`]: for everything that follows, all tries together.
//! 3. [`idempotency`], at a server or a gateway: what has been answered goes no further.
//! 4. [`retry`], [`hedge`]: each try goes through what follows.
//! 5. [`bulkhead`]: a retry that pauses holds no place.
//! 6. [`breaker`]: sees what the service answers, and nothing of what the layers above refuse.
//! 7. [`deadline`] again, where one try should have less time than all: inside the breaker, which then learns of it.
//!
//! # Errors
//!
//! Every layer keeps the error type of the service it wraps, and asks only that a [`Rejection`] can become one. A service
//! whose errors cannot is wrapped with `map_err(Failure::Service)` once, at the bottom. [`answer`] makes HTTP answers of
//! rejections, at the top of a server's stack.
//!
//! # Costs
//!
//! No layer allocates for a request that goes well, except to keep a copy for a retry, to write a deadline's header, and
//! for what idempotency keys make it keep.
//! What is shared is an atomic number or a lock held for some nanoseconds: `cargo bench -p resilience` prints how many.

pub mod answer;
pub mod balance;
pub mod breaker;
pub mod bulkhead;
pub mod classify;
pub mod codel;
mod config;
pub mod deadline;
pub mod hedge;
pub mod idempotency;
pub mod limit;
mod moment;
pub mod observe;
pub mod outlier;
mod random;
pub mod rate;
pub mod rejection;
pub mod retry;
pub mod shed;
mod window;

pub use classify::{ByError, ByOverload, ByStatus, Classify, Outcome};
pub use config::ConfigError;
pub use moment::{Moment, now};
pub use random::Random;
pub use rejection::{Failure, Fault, Rejection};
