//! Which endpoint a request goes to.
//!
//! Small structures and pure functions that a balancer is put together from; none of them knows what an endpoint is beyond
//! its index. A request costs a few loads, and no lock.
//!
//! | for | use |
//! | --- | --- |
//! | endpoints that differ, or change, in speed | [`PeakEwma`] with [`two_choices`] |
//! | requests that differ in cost | [`Active`] with [`two_choices`] or [`least_request`] |
//! | even shares by weight | [`Turns`] |
//! | the same endpoint for the same key | [`Maglev`] (faster), [`Ring`] (fewer keys move, and can bound the load) |
//! | endpoints that have just started | [`SlowStart`] |
//! | endpoints nearby first | [`ZoneShares`] |
//!
//! **Contains:** what an average hides: one endpoint among ten that is slow, or busy with something large, gets as much as
//! the others from a round robin, and determines the tail of all.
//!
//! **Can cause:** a herd. Every balancer that sends everything to the one best endpoint overloads it, the more of them the
//! worse: so the best of two at random. Consistent hashing gives hot keys a hot endpoint ([`Ring::pick_bounded`] spills
//! over). And an endpoint that fails at once looks fast and idle: eject it ([`outlier`](crate::outlier)).

mod choices;
mod ewma;
mod hash;
mod maglev;
mod ring;
mod slow_start;
mod turns;
mod zone;

pub use choices::{Active, Counted, least_request, two_choices};
pub use ewma::PeakEwma;
pub use hash::hash;
pub use maglev::Maglev;
pub use ring::Ring;
pub use slow_start::SlowStart;
pub use turns::Turns;
pub use zone::ZoneShares;

/// No service has more endpoints, nor a larger weight.
pub const ENDPOINTS_MAX: usize = 100_000;
