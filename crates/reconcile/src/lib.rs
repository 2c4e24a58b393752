//! What every controller is built from: shared informers, keyed work queues, a controller loop and an event recorder.
//!
//! It is not a framework: a controller is an ordinary async function that feeds a [`Queue`] from [`Subscription`]s and
//! gives its reconcile function to [`run_controller`]. Everything talks to the API through a [`kube::Client`] only, so the
//! same controller runs inside the process of the API server and against any other cluster.
//!
//! Main types: [`Informers`] (one watch per kind and selector for the whole process) hands out [`Informer`]s (a typed cache
//! with [`Index`]es, [`Facts`] and [`Subscription`]s); [`Queue`] merges equal keys and never runs one key twice at once;
//! [`Recorder`] writes core/v1 Events; [`Election`] lets one of several processes do some work.
//!
//! Invariants:
//! - an object revision is decoded when it arrives, and shared as `Arc<K>` among all who look at it soon; later its bytes
//!   are kept, and decoded again for who asks;
//! - the cache and its indexes show a change before any subscriber hears of it;
//! - a subscriber's backlog holds at most two entries per object, however slow it is;
//! - `metadata.managedFields` is dropped from decoded objects: no controller reads it, and it is nearly half of them.

mod cache;
mod controller;
mod election;
mod events;
mod facts;
mod index;
mod informer;
mod kept;
mod key;
mod metadata;
mod pace;
mod path;
mod queue;
mod recorder;
mod report;
mod subscription;
#[cfg(test)]
mod testing;
mod watch;

pub use controller::{feed, run_controller};
pub use election::{Election, ElectionError};
pub use facts::Facts;
pub use index::Index;
pub use informer::{Informer, Informers, InformersError, Object, Selector};
pub use kept::{Held, Original};
pub use key::Key;
pub use metadata::Metadata;
pub use pace::Pace;
pub use queue::Queue;
pub use recorder::{EventType, Recorder};
pub use report::render_metrics;
pub use subscription::{Change, Subscription};
