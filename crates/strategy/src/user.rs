//! Who makes a request.

use std::collections::BTreeMap;

/// The authenticated user of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User name, for example `system:serviceaccount:default:web`.
    pub name: String,
    /// Unique identifier, empty when the authenticator knows none.
    pub uid: String,
    /// Groups, for example `system:authenticated`.
    pub groups: Vec<String>,
    /// Further attributes of the authenticator.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The group whose members may do everything, without any rule.
pub const GROUP_MASTERS: &str = "system:masters";
/// The group of every authenticated user.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
/// The group of requests without credentials.
pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group of all nodes.
pub const GROUP_NODES: &str = "system:nodes";
/// The name of the user of requests without credentials.
pub const USER_ANONYMOUS: &str = "system:anonymous";

impl User {
    /// A user of `name` in `groups` with no uid.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        Self { name: name.into(), groups: groups.iter().map(|group| (*group).to_owned()).collect(), ..Self::default() }
    }

    /// The service account of a namespace, in the groups that all of them are in.
    pub fn service_account_of(namespace: &str, name: &str) -> Self {
        let own = format!("system:serviceaccounts:{namespace}");
        let groups = ["system:serviceaccounts", &own, GROUP_AUTHENTICATED];
        Self::new(format!("system:serviceaccount:{namespace}:{name}"), &groups)
    }

    /// The user of a request without credentials.
    pub fn anonymous() -> Self {
        Self::new(USER_ANONYMOUS, &[GROUP_UNAUTHENTICATED])
    }

    /// Whether the user is a member of `group`.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// Name of the node, when the user is one.
    pub fn node_name(&self) -> Option<&str> {
        let node = self.name.strip_prefix("system:node:");
        node.filter(|_| self.is_in(GROUP_NODES))
    }

    /// Namespace and name, when the user is a service account.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix("system:serviceaccount:")?.split_once(':')
    }
}
