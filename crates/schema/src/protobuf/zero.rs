//! Which zeros mean something.
//!
//! Go writes a field that is no pointer also when it is zero, and leaves it out of JSON. A pointer field is written only
//! when it was set, so that its zero is a value. Neither the protobuf definitions nor the published types tell the two
//! apart; these are the pointer fields of the served types.

use super::table::Form;

const STRINGS: [&str; 4] = ["storageClassName", "volumeAttributesClassName", "gmsaCredentialSpec", "runAsUserName"];

const INTEGERS: [&str; 40] = [
    "activeDeadlineSeconds",
    "averageUtilization",
    "backoffLimit",
    "backoffLimitPerIndex",
    "completedIndexes",
    "completions",
    "concurrencyLimit",
    "currentAverageUtilization",
    "currentCPUUtilizationPercentage",
    "defaultMode",
    "deletionGracePeriodSeconds",
    "expirationSeconds",
    "failedJobsHistoryLimit",
    "fsGroup",
    "gracePeriodSeconds",
    "handSize",
    "iSCSILun",
    "leaseDurationSeconds",
    "leaseTransitions",
    "lun",
    "maxFailedIndexes",
    "maxSkew",
    "minReplicas",
    "mode",
    "nodeExpansionTimeoutSeconds",
    "observedGeneration",
    "parallelism",
    "partition",
    "port",
    "priority",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsUser",
    "stabilizationWindowSeconds",
    "startingDeadlineSeconds",
    "successfulJobsHistoryLimit",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
];

const BOOLEANS: [&str; 32] = [
    "allocateLoadBalancerNodePorts",
    "allowPrivilegeEscalation",
    "allowVolumeExpansion",
    "attachRequired",
    "automountServiceAccountToken",
    "blockOwnerDeletion",
    "controller",
    "enableServiceLinks",
    "exact",
    "hostUsers",
    "immutable",
    "manualSelector",
    "optional",
    "orphanDependents",
    "podInfoOnMount",
    "privileged",
    "procMount",
    "readOnlyRootFilesystem",
    "ready",
    "requiresRepublish",
    "runAsNonRoot",
    "seLinuxMount",
    "serving",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "started",
    "storageCapacity",
    "suspend",
    "terminating",
    "tolerateUnready",
    "unsatisfiable",
    "windowsHostProcess",
];

/// Whether a zero of this field stands in JSON. Fields that the type requires stand in any case.
pub(super) fn is_value(form: Form, name: &str) -> bool {
    match form {
        Form::String => STRINGS.contains(&name),
        Form::Bool => BOOLEANS.binary_search(&name).is_ok(),
        Form::Int32 | Form::Int64 => INTEGERS.binary_search(&name).is_ok(),
        Form::Bytes | Form::Double | Form::Message(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_for_the_search() {
        assert!(INTEGERS.is_sorted() && BOOLEANS.is_sorted());
    }
}
