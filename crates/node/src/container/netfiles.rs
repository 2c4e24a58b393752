//! `/etc/resolv.conf`, `/etc/hosts` and the host name of a pod.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// Search domains a resolver takes (glibc's and upstream's limit).
const SEARCH_DOMAINS_MAX: usize = 32;
/// Name servers a resolver takes.
const NAMESERVERS_MAX: usize = 3;
/// The kernel's limit of a host name.
const HOSTNAME_BYTES_MAX: usize = 63;

/// The three settings of a resolver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
                Some("search") => resolver.searches = words.map(str::to_owned).collect(),
                Some("options") => resolver.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        resolver
    }

    fn render(mut self) -> String {
        self.nameservers.truncate(NAMESERVERS_MAX);
        self.searches.truncate(SEARCH_DOMAINS_MAX);
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.nameservers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }

    /// Adds what `dnsConfig` asks for; an option replaces one of the same name.
    fn extend(&mut self, spec: &PodSpec) {
        let Some(config) = &spec.dns_config else { return };
        let add = |list: &mut Vec<String>, more: &Option<Vec<String>>| {
            for item in more.iter().flatten() {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        };
        add(&mut self.nameservers, &config.nameservers);
        add(&mut self.searches, &config.searches);
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            self.options.retain(|own| own.split(':').next() != Some(&name));
            self.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
    }
}

/// The pod's `/etc/resolv.conf`; `host` is the node's own.
pub(crate) fn resolv_conf(spec: &PodSpec, namespace: &str, dns_ip: &str, domain: &str, host: &str) -> String {
    let host_network = spec.host_network == Some(true);
    let mut resolver = match spec.dns_policy.as_deref() {
        Some("None") => Resolver::default(),
        Some("Default") => Resolver::parse(host),
        Some("ClusterFirstWithHostNet") => cluster(namespace, dns_ip, domain, host),
        _ if host_network => Resolver::parse(host),
        _ => cluster(namespace, dns_ip, domain, host),
    };
    resolver.extend(spec);
    resolver.render()
}

fn cluster(namespace: &str, dns_ip: &str, domain: &str, host: &str) -> Resolver {
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    searches.extend(Resolver::parse(host).searches.into_iter().filter(|search| search != "."));
    Resolver { nameservers: vec![dns_ip.to_owned()], searches, options: vec!["ndots:5".to_owned()] }
}

/// The pod's host name.
pub(crate) fn hostname(pod: &Pod) -> String {
    let own = pod.spec.as_ref().and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let mut name = own.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    name.truncate(HOSTNAME_BYTES_MAX);
    name.trim_end_matches(['-', '.']).to_owned()
}

/// The pod's `/etc/hosts`; with the host's network the host's own file and the aliases.
pub(crate) fn hosts(pod: &Pod, ips: &[String], domain: &str, host_file: &str) -> String {
    let Some(spec) = &pod.spec else { return String::new() };
    let mut text = if spec.host_network == Some(true) {
        let mut text = host_file.to_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text
    } else {
        let mut text =
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
                .to_owned();
        let name = hostname(pod);
        for ip in ips {
            match (&spec.subdomain, &pod.metadata.namespace) {
                (Some(subdomain), Some(namespace)) if !subdomain.is_empty() => {
                    text.push_str(&format!("{ip}\t{name}.{subdomain}.{namespace}.svc.{domain}\t{name}\n"));
                }
                _ => text.push_str(&format!("{ip}\t{name}\n")),
            }
        }
        text
    };
    let aliases: Vec<_> = spec.host_aliases.iter().flatten().collect();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!(
                "{}\t{}\n",
                alias.ip,
                alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t")
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOST: &str = "# comment\nnameserver 9.9.9.9\nsearch corp.example\noptions timeout:1\n";

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    #[test]
    fn dns_policies() {
        let cluster =
            "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.0.0.10\n";
        let cases = [
            (json!({}), format!("{cluster}options ndots:5\n")),
            (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), HOST_RENDERED.to_owned()),
            (
                json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
                format!("{cluster}options ndots:5\n"),
            ),
            (json!({"dnsPolicy": "Default"}), HOST_RENDERED.to_owned()),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "edns0"}]}}),
                "nameserver 1.1.1.1\noptions edns0\n".to_owned(),
            ),
            (
                json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}),
                format!("{cluster}options ndots:1\n"),
            ),
        ];
        for (spec, expected) in cases {
            let rendered = resolv_conf(&pod(spec.clone()).spec.unwrap(), "ns", "10.0.0.10", "cluster.local", HOST);
            assert_eq!(rendered, expected, "{spec}");
        }
    }

    const HOST_RENDERED: &str = "search corp.example\nnameserver 9.9.9.9\noptions timeout:1\n";

    #[test]
    fn hosts_files() {
        let ips = ["10.0.0.2".to_owned()];
        let plain = hosts(&pod(json!({})), &ips, "cluster.local", "");
        assert!(plain.ends_with("10.0.0.2\tp\n"));
        let named = pod(
            json!({"hostname": "web-0", "subdomain": "web", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}),
        );
        let text = hosts(&named, &ips, "cluster.local", "");
        assert!(text.contains("10.0.0.2\tweb-0.web.ns.svc.cluster.local\tweb-0\n"));
        assert!(text.ends_with("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
        assert_eq!(
            hosts(&pod(json!({"hostNetwork": true})), &ips, "cluster.local", "127.0.0.1 host"),
            "127.0.0.1 host\n"
        );
    }
}
