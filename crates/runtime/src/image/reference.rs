//! Image references in their canonical form.

use std::fmt;

/// Longest name of a repository, with its registry.
const NAME_LENGTH_MAX: usize = 255;
/// Longest tag.
const TAG_LENGTH_MAX: usize = 128;
/// The registry of a name that names none.
const DEFAULT_REGISTRY: &str = "docker.io";

/// What an image is called, completed the way Docker does it: `nginx` is `docker.io/library/nginx:latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reference {
    /// Host and perhaps port of the registry.
    pub(crate) registry: String,
    /// Repository in that registry.
    pub(crate) repository: String,
    /// The tag; ignored for fetching when there is a digest.
    pub(crate) tag: Option<String>,
    /// `sha256:…`.
    pub(crate) digest: Option<String>,
}

impl Reference {
    /// Reads a reference; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let invalid = |why: &str| format!("couldn't parse image name {text:?}: invalid reference format: {why}");
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if let Some(digest) = digest
            && !is_digest(digest)
        {
            return Err(invalid("the digest is not sha256 in hexadecimal"));
        }
        let slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[slash..].find(':') {
            Some(at) => (&rest[..slash + at], Some(&rest[slash + at + 1..])),
            None => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(invalid("the tag has a character that is not allowed"));
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (first, path.to_owned()),
            _ => (DEFAULT_REGISTRY, name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let repository =
            if registry == DEFAULT_REGISTRY && !path.contains('/') { format!("library/{path}") } else { path };
        if !is_registry(registry) {
            return Err(invalid("the registry is not a host name"));
        }
        if registry.len() + repository.len() >= NAME_LENGTH_MAX {
            return Err(invalid("the name is longer than 255 characters"));
        }
        if !repository.split('/').all(is_path_component) {
            return Err(invalid("the repository name must be lower case letters, digits and separators"));
        }
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest: digest.map(str::to_owned) })
    }

    /// Registry and repository.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// What to ask a registry for.
    pub(crate) fn tag_or_digest(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// The repository under which the embedded registry, listening at `port`, has this image. The flag says whether the
    /// reference names that registry itself.
    pub(crate) fn in_mirror(&self, port: u16) -> (String, bool) {
        let own = [format!("localhost:{port}"), format!("127.0.0.1:{port}")];
        if own.contains(&self.registry) {
            return (self.repository.clone(), true);
        }
        if self.registry == DEFAULT_REGISTRY {
            let short = self.repository.strip_prefix("library/").unwrap_or(&self.repository);
            return (short.to_owned(), false);
        }
        (self.name(), false)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether this is `sha256:` and 64 lower-case hexadecimal digits, so that it may become part of a path.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

fn is_tag(tag: &str) -> bool {
    !tag.is_empty()
        && tag.len() <= TAG_LENGTH_MAX
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (registry, None),
    };
    let host_ok = !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        });
    host_ok && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Letters and digits, between them one of `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let plain = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'z');
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    plain(*first)
        && plain(*last)
        && component
            .split(|c: char| plain(u8::try_from(c).unwrap_or(0)))
            .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_completed() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, canonical) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.27", "docker.io/library/nginx:1.27".to_owned()),
            ("settlement/web:1", "docker.io/settlement/web:1".to_owned()),
            ("localhost:5000/x", "localhost:5000/x:latest".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("ghcr.io/a/b__c-d.e:T_1", "ghcr.io/a/b__c-d.e:T_1".to_owned()),
            ("index.docker.io/a", "docker.io/library/a:latest".to_owned()),
            (&format!("a@{digest}"), format!("docker.io/library/a@{digest}")),
            (&format!("a:t@{digest}"), format!("docker.io/library/a:t@{digest}")),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "UPPER", "a:", "a:b:c", "a//b", "a@sha256:12", "../a", "a/..", "-a", "a..b", "a.io:x/b", "a b", "a/-b"]
        {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
        assert!(Reference::parse(&"a".repeat(300)).is_err());
    }

    #[test]
    fn mirror_knows_images_by_their_short_names() {
        for (text, repository, own) in [
            ("nginx", "nginx", false),
            ("settlement/web:1", "settlement/web", false),
            ("localhost:5000/x", "x", true),
            ("127.0.0.1:5000/a/b", "a/b", true),
            ("localhost:5001/x", "localhost:5001/x", false),
            ("ghcr.io/a/b", "ghcr.io/a/b", false),
        ] {
            assert_eq!(Reference::parse(text).unwrap().in_mirror(5000), (repository.to_owned(), own), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_accepted_reads_the_same_again(text in "[a-z0-9A-Z.:/@_-]{0,40}|\\PC{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                let canonical = reference.to_string();
                proptest::prop_assert_eq!(Reference::parse(&canonical).unwrap(), reference, "{}", canonical);
            }
        }
    }
}
