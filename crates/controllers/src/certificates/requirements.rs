//! What the built-in signers demand of a request, in upstream's words.

use std::collections::BTreeSet;

use identity::CertificateRequest;

pub(super) const KUBE_API_SERVER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(super) const KUBE_API_SERVER_CLIENT_KUBELET: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(super) const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

/// Whether a signer is built in, and what of its demands a request does not meet.
pub(super) fn check(signer: &str, request: &CertificateRequest, usages: &[&str]) -> Option<Result<(), String>> {
    Some(match signer {
        KUBE_API_SERVER_CLIENT => client(usages),
        KUBE_API_SERVER_CLIENT_KUBELET => kubelet_client(request, usages).map_err(str::to_owned),
        KUBELET_SERVING => kubelet_serving(request, usages).map_err(str::to_owned),
        LEGACY_UNKNOWN => Ok(()),
        _ => return None,
    })
}

fn client(usages: &[&str]) -> Result<(), String> {
    let known = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !known.contains(usage)) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if !usages.contains(&"client auth") {
        return Err("missing required usage for client certificate: client auth".into());
    }
    Ok(())
}

/// The demands on a kubelet's client certificate.
pub(super) fn kubelet_client(request: &CertificateRequest, usages: &[&str]) -> Result<(), &'static str> {
    if request.organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes");
    }
    if !request.dns_names.is_empty() {
        return Err("DNS subjectAltNames are not allowed");
    }
    if !request.email_addresses.is_empty() {
        return Err("Email subjectAltNames are not allowed");
    }
    if !request.ip_addresses.is_empty() {
        return Err("IP subjectAltNames are not allowed");
    }
    if !request.uris.is_empty() {
        return Err("URI subjectAltNames are not allowed");
    }
    if !request.common_name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node:");
    }
    if !has_usages(usages, "client auth") {
        return Err("usages did not match [client auth digital signature]");
    }
    Ok(())
}

fn kubelet_serving(request: &CertificateRequest, usages: &[&str]) -> Result<(), &'static str> {
    if request.organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes");
    }
    if request.dns_names.is_empty() && request.ip_addresses.is_empty() {
        return Err("DNS or IP subjectAltName is required");
    }
    if !request.email_addresses.is_empty() {
        return Err("Email subjectAltNames are not allowed");
    }
    if !request.uris.is_empty() {
        return Err("URI subjectAltNames are not allowed");
    }
    if !has_usages(usages, "server auth") {
        return Err("usages did not match [digital signature server auth]");
    }
    if !request.common_name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node:");
    }
    Ok(())
}

/// Exactly a digital signature and `purpose`, with or without key encipherment, which keys other than RSA have no use for.
fn has_usages(usages: &[&str], purpose: &str) -> bool {
    let mut usages: BTreeSet<&str> = usages.iter().copied().collect();
    usages.remove("key encipherment");
    usages == BTreeSet::from(["digital signature", purpose])
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: [&str; 2] = ["digital signature", "client auth"];

    /// A request for `system:node:a` of `system:nodes` without further names, and one with a DNS name, both made once
    /// with a real key.
    fn request(dns: &[&str]) -> CertificateRequest {
        let mut request = CertificateRequest::parse(include_bytes!("requirements/node.csr")).unwrap();
        request.dns_names = dns.iter().map(|name| (*name).to_owned()).collect();
        request
    }

    #[test]
    fn each_signer_has_its_demands() {
        let plain = request(&[]);
        let kubelet = |request: &CertificateRequest, usages: &[&str]| {
            check(KUBE_API_SERVER_CLIENT_KUBELET, request, usages).unwrap()
        };
        assert_eq!(kubelet(&plain, &CLIENT), Ok(()));
        assert_eq!(kubelet(&plain, &["digital signature", "key encipherment", "client auth"]), Ok(()));
        assert!(kubelet(&plain, &["client auth"]).unwrap_err().starts_with("usages did not match"));
        assert_eq!(kubelet(&request(&["a"]), &CLIENT), Err("DNS subjectAltNames are not allowed".into()));
        let mut other = plain.clone();
        other.organizations.push("system:masters".into());
        assert_eq!(kubelet(&other, &CLIENT), Err("subject organization is not system:nodes".into()));
        let serving = |request: &CertificateRequest| {
            check(KUBELET_SERVING, request, &["digital signature", "server auth"]).unwrap()
        };
        assert_eq!(serving(&plain), Err("DNS or IP subjectAltName is required".into()));
        assert_eq!(serving(&request(&["a"])), Ok(()));
        let client = |usages: &[&str]| check(KUBE_API_SERVER_CLIENT, &plain, usages).unwrap();
        assert_eq!(client(&["client auth"]), Ok(()));
        assert_eq!(client(&["server auth"]), Err("invalid usage for client certificate: server auth".into()));
        assert_eq!(client(&[]), Err("missing required usage for client certificate: client auth".into()));
        assert_eq!(check(LEGACY_UNKNOWN, &plain, &[]), Some(Ok(())));
        assert_eq!(check("example.com/own", &plain, &[]), None);
    }
}
