//! Resources that somebody has told a node to have by writing them into its capacity, as upstream documents for what no
//! device plug-in manages: the node lets pods use all of it.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::NodeStatus, apimachinery::pkg::api::resource::Quantity};

/// What has to change in the allocatable amounts of a node as the API knows it: the new amount of a resource, or that it is
/// gone with its capacity. `own` are the resources that the node itself finds.
pub fn corrections(own: &BTreeMap<String, Quantity>, known: &NodeStatus) -> BTreeMap<String, Option<Quantity>> {
    let nothing = BTreeMap::new();
    let capacity = known.capacity.as_ref().unwrap_or(&nothing);
    let allocatable = known.allocatable.as_ref().unwrap_or(&nothing);
    let foreign = |name: &&String| !own.contains_key(*name);
    let names = capacity.keys().chain(allocatable.keys()).filter(foreign);
    let wrong = names.filter(|name| capacity.get(*name) != allocatable.get(*name));
    wrong.map(|name| (name.clone(), capacity.get(name).cloned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(list: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
        list.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect()
    }

    #[test]
    fn capacity_that_others_wrote_is_for_pods() {
        let own = amounts(&[("cpu", "4"), ("memory", "8Gi")]);
        let known = |capacity, allocatable| NodeStatus {
            capacity: Some(amounts(capacity)),
            allocatable: Some(amounts(allocatable)),
            ..NodeStatus::default()
        };
        let one = |name: &str, amount: Option<&str>| {
            BTreeMap::from([(name.to_owned(), amount.map(|amount| Quantity(amount.to_owned())))])
        };
        let told = [("cpu", "4"), ("example.com/dongle", "3")];
        assert_eq!(corrections(&own, &known(&told, &[("cpu", "3")])), one("example.com/dongle", Some("3")));
        assert_eq!(
            corrections(&own, &known(&told, &[("example.com/dongle", "2")])),
            one("example.com/dongle", Some("3"))
        );
        assert_eq!(corrections(&own, &known(&told, &[("example.com/dongle", "3")])), BTreeMap::new());
        assert_eq!(
            corrections(&own, &known(&[("cpu", "4")], &[("example.com/dongle", "3")])),
            one("example.com/dongle", None)
        );
        assert_eq!(corrections(&own, &NodeStatus::default()), BTreeMap::new());
    }
}
