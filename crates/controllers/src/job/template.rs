//! The pods of a Job, made from its template.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kube::ResourceExt;

use super::pod::{FAILURES, FINALIZER, IGNORED_FAILURES, INDEX};
use super::scale::NewPod;
use crate::pods;

/// Tells a container its completion index.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// The longest prefix that generated names keep.
const GENERATE_NAME_MAX: usize = 58;

/// The pod that all new pods of the Job are like.
pub(super) fn common(job: &Job, spec: &JobSpec) -> Pod {
    let mut pod = pods::from_template(spec.template.clone(), job);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    if spec.completion_mode.as_deref() == Some("Indexed")
        && let Some(spec) = &mut pod.spec
    {
        let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
        containers.for_each(tell_index);
    }
    pod
}

/// The new pod.
pub(super) fn pod(common: &Pod, job: &Job, new: &NewPod) -> Pod {
    let mut pod = common.clone();
    let Some(index) = new.index else { return pod };
    let name = job.name_any();
    let suffix = format!("-{index}-");
    let mut prefix = name.clone();
    prefix.truncate(GENERATE_NAME_MAX.saturating_sub(suffix.len()));
    pod.metadata.generate_name = Some(prefix + &suffix);
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if let Some((counted, ignored)) = new.failures {
        annotations.insert(FAILURES.to_owned(), counted.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED_FAILURES.to_owned(), ignored.to_string());
        }
    }
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{name}-{index}"));
    }
    pod
}

fn tell_index(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), ..Default::default() };
    variables.push(EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        ..EnvVar::default()
    });
}
