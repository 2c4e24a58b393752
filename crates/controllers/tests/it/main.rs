//! The controllers and the scheduler against the real API server in this process, with nodes whose kubelet is played by
//! the test: it reports bound pods as running and lets deleted pods go.

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod collection;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod cronjobs;
#[cfg(test)]
mod daemonsets;
#[cfg(test)]
mod deployments;
#[cfg(test)]
mod disruption;
#[cfg(test)]
mod endpoints;
#[cfg(test)]
mod jobs;
#[cfg(test)]
mod nodes;
#[cfg(test)]
mod owners;
mod quotas;
#[cfg(test)]
mod replicasets;
#[cfg(test)]
mod security;
#[cfg(test)]
mod statefulsets;
#[cfg(test)]
mod volumes;
#[cfg(test)]
mod workloads;
