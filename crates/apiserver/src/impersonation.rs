//! Acting as somebody else: the `Impersonate-*` headers, and who may use them.

use http::HeaderMap;
use strategy::user::{GROUP_AUTHENTICATED, GROUP_UNAUTHENTICATED, USER_ANONYMOUS, User};

use crate::{
    authorization::{Attributes, Authorizer, Decision},
    path,
    status::{ApiError, GroupResource},
};

/// Prefix of the headers that carry extra attributes.
const EXTRA: &str = "impersonate-extra-";

/// The user the headers ask to act as.
pub(crate) fn requested(headers: &HeaderMap) -> Result<Option<User>, ApiError> {
    // one look-up decides for nearly every request
    let Some(name) = headers.get("impersonate-user") else {
        let others = ["impersonate-group", "impersonate-uid"].iter().any(|name| headers.contains_key(*name));
        return if others || headers.keys().any(|name| name.as_str().starts_with(EXTRA)) {
            Err(ApiError::bad_request("requested [impersonation] without impersonating a user"))
        } else {
            Ok(None)
        };
    };
    let text = |value: &http::HeaderValue| {
        value.to_str().map(str::to_owned).map_err(|_| ApiError::bad_request("an impersonation header is not text"))
    };
    let mut user = User::new(text(name)?, &[]);
    for group in headers.get_all("impersonate-group") {
        user.groups.push(text(group)?);
    }
    if let Some(uid) = headers.get("impersonate-uid") {
        user.uid = text(uid)?;
    }
    for (key, value) in headers {
        if let Some(key) = key.as_str().strip_prefix(EXTRA) {
            user.extra.entry(path::decode(key).to_lowercase()).or_default().push(text(value)?);
        }
    }
    Ok(Some(user))
}

/// Checks that `user` may act as `wanted`, and completes the groups every user has.
pub(crate) fn impersonate(authorizer: &Authorizer, user: &User, mut wanted: User) -> Result<User, ApiError> {
    match wanted.service_account() {
        Some((namespace, name)) => check(authorizer, user, "", "serviceaccounts", "", namespace, name)?,
        None => check(authorizer, user, "", "users", "", "", &wanted.name)?,
    }
    for group in &wanted.groups {
        check(authorizer, user, "", "groups", "", "", group)?;
    }
    let authentication = "authentication.k8s.io";
    if !wanted.uid.is_empty() {
        check(authorizer, user, authentication, "uids", "", "", &wanted.uid)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            check(authorizer, user, authentication, "userextras", key, "", value)?;
        }
    }
    if wanted.groups.is_empty()
        && let Some((namespace, _)) = wanted.service_account()
    {
        let own = format!("system:serviceaccounts:{namespace}");
        wanted.groups = vec!["system:serviceaccounts".into(), own];
    }
    let common = if wanted.name == USER_ANONYMOUS { GROUP_UNAUTHENTICATED } else { GROUP_AUTHENTICATED };
    // who is to be unauthenticated by his groups is not authenticated besides
    if !wanted.is_in(common) && !wanted.is_in(GROUP_UNAUTHENTICATED) {
        wanted.groups.push(common.into());
    }
    Ok(wanted)
}

fn check(
    authorizer: &Authorizer,
    user: &User,
    group: &str,
    resource: &str,
    subresource: &str,
    namespace: &str,
    name: &str,
) -> Result<(), ApiError> {
    let attributes =
        Attributes { user, verb: "impersonate", group, resource, subresource, namespace, name, path: None };
    match authorizer.authorize(&attributes) {
        Decision::Allow => Ok(()),
        Decision::NoOpinion { .. } => {
            let place = if namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {namespace:?}")
            };
            let what = if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") };
            let why =
                format!("User {:?} cannot impersonate resource {what:?} in API group {group:?} {place}", user.name);
            Err(ApiError::forbidden(GroupResource { group, resource }, name, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_who_is_allowed_acts_as_another() {
        let mut headers = HeaderMap::new();
        assert_eq!(requested(&headers).unwrap(), None);
        headers.insert("impersonate-group", HeaderValue::from_static("dev"));
        assert_eq!(requested(&headers).unwrap_err().code, 400);
        headers.insert("impersonate-user", HeaderValue::from_static("bob"));
        let wanted = requested(&headers).unwrap().unwrap();
        let authorizer = Authorizer::new();
        let admin = User::new("admin", &["system:masters"]);
        let bob = impersonate(&authorizer, &admin, wanted.clone()).unwrap();
        assert_eq!(bob.groups, ["dev", "system:authenticated"]);
        let refused = impersonate(&authorizer, &User::new("eve", &[]), wanted).unwrap_err();
        assert_eq!(
            refused.message,
            "users \"bob\" is forbidden: User \"eve\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
        );
    }

    #[test]
    fn the_group_of_everybody_is_added_unless_the_other_one_is_asked_for() {
        let authorizer = Authorizer::new();
        let admin = User::new("admin", &["system:masters"]);
        let groups =
            |name: &str, groups: &[&str]| impersonate(&authorizer, &admin, User::new(name, groups)).unwrap().groups;
        assert_eq!(groups("bob", &[]), ["system:authenticated"]);
        assert_eq!(groups("bob", &["system:unauthenticated"]), ["system:unauthenticated"]);
        assert_eq!(groups("system:anonymous", &["a"]), ["a", "system:unauthenticated"]);
    }

    #[test]
    fn uid_and_extras_need_a_permission_each() {
        let mut headers = HeaderMap::new();
        headers.insert("impersonate-extra-Example.com%2fScopes", HeaderValue::from_static("view"));
        assert_eq!(requested(&headers).unwrap_err().code, 400);
        headers.insert("impersonate-user", HeaderValue::from_static("system:serviceaccount:n:robot"));
        headers.insert("impersonate-uid", HeaderValue::from_static("u"));
        let wanted = requested(&headers).unwrap().unwrap();
        assert_eq!(wanted.extra["example.com/scopes"], ["view"]);
        let authorizer = Authorizer::new();
        let mut rules =
            vec![serde_json::json!({"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"]})];
        let missing = [
            (
                "uids",
                serde_json::json!({"apiGroups": ["authentication.k8s.io"], "resources": ["uids"], "verbs": ["impersonate"], "resourceNames": ["u"]}),
            ),
            (
                "userextras/example.com/scopes",
                serde_json::json!({"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/example.com/scopes"], "verbs": ["impersonate"], "resourceNames": ["view"]}),
            ),
        ];
        let binding = serde_json::json!({"roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [{"kind": "User", "name": "eve"}]});
        authorizer.apply("rbac.authorization.k8s.io/clusterrolebindings", "b", Some(&binding));
        for (resource, rule) in missing {
            let role = serde_json::json!({"rules": rules});
            authorizer.apply("rbac.authorization.k8s.io/clusterroles", "r", Some(&role));
            let refused = impersonate(&authorizer, &User::new("eve", &[]), wanted.clone()).unwrap_err().message;
            assert!(refused.contains(&format!("cannot impersonate resource {resource:?}")), "{refused}");
            rules.push(rule);
        }
        let role = serde_json::json!({"rules": rules});
        authorizer.apply("rbac.authorization.k8s.io/clusterroles", "r", Some(&role));
        let robot = impersonate(&authorizer, &User::new("eve", &[]), wanted).unwrap();
        assert_eq!(robot.groups, ["system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"]);
    }
}
