//! The rules of upstream's plug-ins, each as a table of cases.

mod inter_pod_affinity;
mod nodes;
mod resources;
mod spreading;
mod volumes;
