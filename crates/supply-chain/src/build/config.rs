//! How a container of an image runs: the builder's configuration file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The user that containers run as when nothing else is said: nobody special, and not root.
const DEFAULT_USER: &str = "65532:65532";

/// The configuration of an image; every field may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ImageConfig {
    /// The command; of a binary, the binary itself by default.
    pub entrypoint: Option<Vec<String>>,
    /// Arguments to the command.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// The user, as `uid`, `uid:gid` or a name that the root filesystem knows.
    pub user: String,
    /// Ports listened on, as `8080`, `8080/tcp` or `53/udp`.
    pub ports: Vec<Port>,
    /// Remarks.
    pub labels: BTreeMap<String, String>,
    /// The working directory.
    pub working_dir: String,
}

impl Default for ImageConfig {
    fn default() -> Self {
        Self {
            entrypoint: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            user: DEFAULT_USER.to_owned(),
            ports: Vec::new(),
            labels: BTreeMap::new(),
            working_dir: "/".to_owned(),
        }
    }
}

/// A port and its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "PortText")]
pub struct Port {
    number: u16,
    protocol: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PortText {
    Number(u16),
    Text(String),
}

impl TryFrom<PortText> for Port {
    type Error = String;

    fn try_from(text: PortText) -> Result<Self, String> {
        match text {
            PortText::Number(0) => Err("0 is not a port".to_owned()),
            PortText::Number(number) => Ok(Self { number, protocol: Protocol::Tcp }),
            PortText::Text(text) => text.parse(),
        }
    }
}

impl std::str::FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol =
            [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|known| known.name() == protocol);
        match (number.parse::<u16>(), protocol) {
            (Ok(number), Some(protocol)) if number > 0 => Ok(Self { number, protocol }),
            _ => Err(format!("{text:?} is not a port of the form 8080, 8080/tcp or 53/udp")),
        }
    }
}

/// The configuration file could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("cannot read {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The failure.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("image configuration {path}: {message}", path = .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
}

impl ImageConfig {
    /// Reads a configuration file in YAML.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|message| ConfigError::Invalid { path: path.to_owned(), message })
    }

    fn parse(text: &str) -> Result<Self, String> {
        // A file with nothing but comments asks for the defaults.
        // An error is one line, so it shows no excerpt of the file.
        let options = serde_saphyr::options! { with_snippet: false };
        let config = serde_saphyr::from_str_with_options::<Option<Self>>(text, options);
        let config = config.map_err(|error| error.to_string().replace('\n', " "))?;
        let config = config.unwrap_or_default();
        if let Some(name) = config.env.keys().find(|name| name.is_empty() || name.contains('=')) {
            return Err(format!("env: {name:?} is not a variable's name"));
        }
        if !config.working_dir.starts_with('/') {
            return Err(format!("workingDir: {:?} is not an absolute path", config.working_dir));
        }
        if config.entrypoint.as_ref().is_some_and(Vec::is_empty) {
            return Err("entrypoint: must not be empty".to_owned());
        }
        Ok(config)
    }

    /// The ports as image configurations write them.
    pub(super) fn exposed_ports(&self) -> impl Iterator<Item = String> {
        self.ports.iter().map(|port| format!("{}/{}", port.number, port.protocol.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_told_in_one_line_without_an_excerpt() {
        let message = ImageConfig::parse("user: \"1:1\"\nentrypont: [a]\n").unwrap_err();
        assert!(message.contains("unknown field `entrypont`") && message.contains("line 2"), "{message}");
        assert!(!message.contains('\n') && !message.contains(" | "), "{message}");
    }

    #[test]
    fn a_file_is_read_and_what_it_leaves_out_is_safe() {
        let text = "entrypoint: [/web, --listen]\nenv: {PORT: \"8080\"}\nports: [8080, 53/udp]\nlabels: {a: b}\n";
        let config = ImageConfig::parse(text).unwrap();
        assert_eq!(config.entrypoint.as_deref(), Some(&["/web".to_owned(), "--listen".to_owned()][..]));
        assert_eq!(config.exposed_ports().collect::<Vec<_>>(), ["8080/tcp", "53/udp"]);
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("65532:65532", "/"));
        assert_eq!(ImageConfig::parse("# nothing\n").unwrap(), ImageConfig::default());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, wanted) in [
            ("entrypont: [a]", "entrypont"),
            ("ports: [70000]", "ort"),
            ("ports: [x/tcp]", "ort"),
            ("env: {\"A=B\": c}", "A=B"),
            ("workingDir: app", "app"),
            ("entrypoint: []", "entrypoint"),
        ] {
            let error = ImageConfig::parse(text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
