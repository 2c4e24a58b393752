//! Configuration: flags > environment > file > default, one table of settings, one typed tree.
//!
//! A setting is one row of [`SETTINGS`]. Every source is reduced to text per key, the winner is parsed once, and all
//! errors are reported together before anything starts. `keelson config explain` prints the table with each value and
//! where it came from.

mod file;
mod oidc;
mod pod_security;
mod request_header;
mod settings;

use std::{
    fmt::{self, Display},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use apiserver::{admission::PodSecurity, allocation::Block};
pub(crate) use oidc::Oidc;
use proxy::mesh::WhenDown;
pub(crate) use request_header::RequestHeader;
pub(crate) use settings::{SETTINGS, Setting};

/// Variables with our prefix that are not settings.
const OTHER_VARIABLES: &[&str] = &["KEELSON_CONFIG"];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A flag of the command line, by its name.
    Flag(&'static str),
    /// An environment variable.
    Environment(&'static str),
    /// The configuration file.
    File(PathBuf),
    /// The table's default.
    Default,
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag --{name}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Default => write!(f, "default"),
        }
    }
}

/// The typed tree.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Folder of the instance.
    pub data_dir: PathBuf,
    /// Address of the API.
    pub listen: SocketAddr,
    /// Whether containers run here.
    pub node_enabled: bool,
    /// Name of the Node object.
    pub node_name: String,
    /// Where gateways listen.
    pub gateway_addresses: Vec<IpAddr>,
    /// What becomes of connections of pods in the mesh while Keelson is stopped.
    pub mesh_when_down: WhenDown,
    /// Where the registry must listen; `None` picks.
    pub registry_listen: Option<SocketAddr>,
    /// What pods have to keep to.
    pub pod_security: PodSecurity,
    /// What is audited, and where to.
    pub audit: Audit,
    /// The etcd that keeps the objects; `None` is the embedded store.
    pub store: Option<Vec<store::Endpoint>>,
    /// Authorities of etcd's certificates.
    pub store_ca_file: Option<PathBuf>,
    /// Certificate and key shown to etcd.
    pub store_pair: Option<(PathBuf, PathBuf)>,
    /// How long Events live.
    pub event_ttl: std::time::Duration,
    /// Requests served at once.
    pub seats: u32,
    /// Log lines as JSON.
    pub log_json: bool,
    /// The identity provider that is believed, and the file of its authorities.
    pub oidc: Option<Oidc>,
    /// Front proxies that are believed.
    pub request_header: RequestHeader,
    /// Where addresses of Services come from without a node.
    pub service_block: Option<Block>,
    /// Configuration of encryption at rest; `None` takes the one in the data directory.
    pub encryption_config: Option<PathBuf>,
    /// How pods are scheduled.
    pub scheduler: scheduler::Configuration,
    /// Filter of the log.
    pub log_level: String,
    /// How long a leader's Lease is good for.
    pub lease: std::time::Duration,
    /// Budget of a graceful shutdown.
    pub shutdown_budget: std::time::Duration,
}

/// What is audited, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Audit {
    /// The policy file; `None` takes the built-in policy.
    pub policy: Option<PathBuf>,
    /// Where events go.
    pub log: AuditLog,
    /// The kubeconfig of a webhook that they go to as well.
    pub webhook: Option<PathBuf>,
    /// Size of a log in bytes.
    pub bytes_max: u64,
    /// Logs kept besides the one being written.
    pub backups_max: usize,
    /// Their age.
    pub age_max: Option<std::time::Duration>,
}

/// Where audit events go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AuditLog {
    /// Nowhere.
    Off,
    /// Into the data folder.
    DataDir,
    /// Into this file.
    File(PathBuf),
}

/// A value with its origin, for `config explain`.
pub(crate) struct Explained {
    /// The row.
    pub setting: &'static Setting,
    /// The winning text.
    pub value: String,
    /// Who set it.
    pub origin: Origin,
}

/// All that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(crate) struct ConfigError(pub Vec<String>);

/// A flag that was given.
pub(crate) struct Flag {
    /// The setting's key.
    pub key: &'static str,
    /// The flag's name.
    pub name: &'static str,
    /// What was given.
    pub value: String,
}

/// What the command line and the environment say, handed in so that tests can too.
#[derive(Default)]
pub(crate) struct Sources<'a> {
    /// Values from flags.
    pub flags: Vec<Flag>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// The file named by `--config` or `KEELSON_CONFIG`.
    pub file: Option<&'a Path>,
    /// This machine's host name.
    pub host_name: String,
}

/// Resolves every setting.
///
/// # Errors
/// Lists everything that is unknown, malformed or out of range, in any source.
pub(crate) fn resolve(sources: &Sources<'_>) -> Result<(Config, Vec<Explained>), ConfigError> {
    let mut errors = Vec::new();
    let from_file = match sources.file.map(file::read).transpose() {
        Ok(values) => values.unwrap_or_default(),
        Err(error) => return Err(ConfigError(vec![error])),
    };
    for (key, _) in &from_file {
        if !SETTINGS.iter().any(|s| s.key == key) {
            let path = sources.file.unwrap_or(Path::new("")).display();
            errors.push(format!("{path}: unknown key {key:?} (known: {})", known_keys()));
        }
    }
    for (name, _) in &sources.environment {
        let ours = name.starts_with("KEELSON_") && !OTHER_VARIABLES.contains(&name.as_str());
        if ours && !SETTINGS.iter().any(|s| s.environment == name) {
            errors.push(format!("environment: unknown variable {name}; `keelson config explain` lists the known ones"));
        }
    }
    let explained: Vec<Explained> = SETTINGS.iter().map(|setting| winner(setting, sources, &from_file)).collect();
    let mut values = Values { explained: &explained, errors };
    let config = parse(&mut values, &sources.host_name);
    if values.errors.is_empty() { Ok((config, explained)) } else { Err(ConfigError(values.errors)) }
}

fn known_keys() -> String {
    SETTINGS.iter().map(|s| s.key).collect::<Vec<_>>().join(", ")
}

fn winner(setting: &'static Setting, sources: &Sources<'_>, from_file: &[(String, String)]) -> Explained {
    let flag = sources.flags.iter().find(|flag| flag.key == setting.key);
    let flag = flag.map(|flag| (flag.value.clone(), Origin::Flag(flag.name)));
    let environment = || {
        let found = sources.environment.iter().find(|(name, _)| name == setting.environment);
        found.map(|(_, v)| (v.clone(), Origin::Environment(setting.environment)))
    };
    let file = || {
        let found = from_file.iter().find(|(key, _)| key == setting.key);
        found.map(|(_, v)| (v.clone(), Origin::File(sources.file.unwrap_or(Path::new("")).to_owned())))
    };
    let (value, origin) =
        flag.or_else(environment).or_else(file).unwrap_or_else(|| (setting.default.to_owned(), Origin::Default));
    Explained { setting, value, origin }
}

struct Values<'a> {
    explained: &'a [Explained],
    errors: Vec<String>,
}

impl Values<'_> {
    fn text(&self, key: &str) -> &str {
        self.explained.iter().find(|e| e.setting.key == key).map_or("", |e| e.value.as_str())
    }

    fn parsed<T>(&mut self, key: &str, fallback: T, parse: impl FnOnce(&str) -> Option<T>) -> T {
        if let Some(value) = parse(self.text(key)) {
            return value;
        }
        if let Some(e) = self.explained.iter().find(|e| e.setting.key == key) {
            self.errors.push(format!("{}: {key}: invalid value {:?}: {}", e.origin, e.value, e.setting.about));
        }
        fallback
    }

    fn by_type<T: FromStr>(&mut self, key: &str, fallback: T) -> T {
        self.parsed(key, fallback, |text| text.parse().ok())
    }
}

/// An optional path.
fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

/// How pods are scheduled, by the file that says so.
fn scheduler(values: &mut Values<'_>) -> scheduler::Configuration {
    let Some(file) = path(values.text("scheduler.config")) else { return scheduler::Configuration::default() };
    let read = file::tree(&file).and_then(|document| {
        let read = scheduler::Configuration::read(&document);
        read.map_err(|error| format!("scheduler.config: {}: {error}", file.display()))
    });
    read.unwrap_or_else(|error| {
        values.errors.push(error);
        scheduler::Configuration::default()
    })
}

fn parse(values: &mut Values<'_>, host_name: &str) -> Config {
    let store = values.parsed("store.url", None, |t| match t {
        "embedded" => Some(None),
        url => url.parse::<store::Endpoints>().ok().map(|endpoints| Some(endpoints.0)),
    });
    let ca_file = path(values.text("store.caFile"));
    if store.as_ref().is_some_and(|s| s.iter().any(|endpoint| endpoint.tls)) && ca_file.is_none() {
        values.errors.push("store.caFile: must be set where store.url says https".to_owned());
    }
    let store_pair = match (path(values.text("store.certFile")), path(values.text("store.keyFile"))) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            values.errors.push("store.certFile and store.keyFile must be set together".to_owned());
            None
        }
    };
    let unset = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Config {
        data_dir: values.parsed("dataDir", PathBuf::new(), |t| (!t.is_empty()).then(|| PathBuf::from(t))),
        listen: values.by_type("listen", unset),
        node_enabled: values.by_type("node.enabled", false),
        node_name: values.parsed("node.name", String::new(), |t| {
            let name = if t.is_empty() { host_name.to_lowercase() } else { t.to_owned() };
            is_node_name(&name).then_some(name)
        }),
        gateway_addresses: values.parsed("gateway.addresses", Vec::new(), |t| {
            t.split(',').map(str::trim).filter(|t| !t.is_empty()).map(|t| t.parse().ok()).collect()
        }),
        registry_listen: values.parsed("registry.listen", None, |t| match t {
            "" => Some(None),
            text => text.parse().ok().map(Some),
        }),
        pod_security: pod_security::parse(values),
        audit: audit(values),
        store,
        store_ca_file: ca_file,
        store_pair,
        event_ttl: values.parsed("events.ttlSeconds", std::time::Duration::ZERO, |t| {
            t.parse().ok().filter(|s| (1..=31_536_000).contains(s)).map(std::time::Duration::from_secs)
        }),
        seats: values.parsed("limits.requests", 0, |t| t.parse().ok().filter(|n| (1..=1_000_000).contains(n))),
        oidc: oidc::parse(values),
        request_header: request_header::parse(values),
        service_block: service_block(values),
        encryption_config: path(values.text("encryption.config")),
        scheduler: scheduler(values),
        mesh_when_down: values.parsed("mesh.whenDown", WhenDown::default(), |t| match t {
            "refuse" => Some(WhenDown::Refuse),
            "letThrough" => Some(WhenDown::LetThrough),
            _ => None,
        }),
        log_json: values.parsed("log.format", false, |t| match t {
            "text" => Some(false),
            "json" => Some(true),
            _ => None,
        }),
        log_level: values.parsed("log.level", String::new(), |t| {
            tracing_subscriber::EnvFilter::try_new(t).is_ok().then(|| t.to_owned())
        }),
        lease: values.parsed("leaderElection.leaseSeconds", std::time::Duration::ZERO, |t| {
            t.parse().ok().filter(|s| (3..=3600).contains(s)).map(std::time::Duration::from_secs)
        }),
        shutdown_budget: values.parsed("shutdown.budgetSeconds", std::time::Duration::ZERO, |t| {
            t.parse().ok().filter(|s| (1..=300).contains(s)).map(std::time::Duration::from_secs)
        }),
    }
}

/// The range of Services; a node's is given by its place on the machine.
fn service_block(values: &mut Values<'_>) -> Option<Block> {
    let block = values.parsed("services.clusterIpRange", None, |t| {
        if t.is_empty() {
            return Some(None);
        }
        let (network, prefix) = t.split_once('/')?;
        let (network, prefix): (Ipv4Addr, u8) = (network.parse().ok()?, prefix.parse().ok()?);
        // upstream's bounds: neither a handful of addresses nor more than can be counted
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or_default();
        ((12..=28).contains(&prefix) && u32::from(network) & !mask == 0).then_some(Some(Block { network, prefix }))
    });
    if block.is_some() && values.text("node.enabled") == "true" {
        values.errors.push("services.clusterIpRange: must not be set where node.enabled is true".to_owned());
    }
    block
}

fn audit(values: &mut Values<'_>) -> Audit {
    const DAY: u64 = 24 * 60 * 60;
    let number = |text: &str, range: std::ops::RangeInclusive<u64>| text.parse().ok().filter(|n| range.contains(n));
    Audit {
        policy: values.parsed("audit.policy", None, |t| Some((!t.is_empty()).then(|| PathBuf::from(t)))),
        log: values.parsed("audit.log.path", AuditLog::Off, |t| match t {
            "" => Some(AuditLog::DataDir),
            "off" => Some(AuditLog::Off),
            path => Some(AuditLog::File(PathBuf::from(path))),
        }),
        webhook: values.parsed("audit.webhook.config", None, |t| Some((!t.is_empty()).then(|| PathBuf::from(t)))),
        bytes_max: values.parsed("audit.log.maxSizeMiB", 0, |t| number(t, 1..=1_000_000)) << 20,
        backups_max: values.parsed("audit.log.maxBackups", 0, |t| number(t, 0..=10_000)) as usize,
        age_max: values
            .parsed("audit.log.maxAgeDays", None, |t| Some(Some(number(t, 0..=36_500)?)))
            .filter(|days| *days > 0)
            .map(|days| std::time::Duration::from_secs(days * DAY)),
    }
}

/// Node names are DNS-1123 subdomains.
fn is_node_name(name: &str) -> bool {
    let label = |l: &str| {
        let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        l.starts_with(alphanumeric) && l.ends_with(alphanumeric) && l.chars().all(|c| alphanumeric(c) || c == '-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests;
