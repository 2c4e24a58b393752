//! The scheduler's loop against the real API server in this process.

#[cfg(test)]
mod binding;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod preemption;
#[cfg(test)]
mod profiles;
#[cfg(test)]
mod waiting;
