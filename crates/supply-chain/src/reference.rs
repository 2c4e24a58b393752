//! Image references: `[host/]repository[:tag][@digest]`.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// The longest repository name that is taken.
pub(crate) const NAME_MAX: usize = 255;
/// The longest tag.
const TAG_MAX: usize = 128;
/// The tag of a reference that gives none.
const DEFAULT_TAG: &str = "latest";

/// The name of an image in the embedded registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// The repository.
    pub repository: String,
    /// The tag; none when a digest says it all.
    pub tag: Option<String>,
    /// The digest, where one is given.
    pub digest: Option<Digest>,
}

/// A text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image reference {text:?}: {rule}")]
pub struct ReferenceError {
    /// The text.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl Reference {
    /// What names the manifest within its repository: the digest, else the tag.
    pub fn manifest(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// Reads a reference as the node does when it looks an image up in the embedded registry: a loopback host and
    /// `docker.io` (with its `library`) do not belong to the repository's name; any other host does.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let broken = |rule| ReferenceError { text: text.to_owned(), rule };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                (name, Some(digest.parse().map_err(|_| broken("the digest must be sha256:<64 hexadecimal digits>"))?))
            }
            None => (text, None),
        };
        // A colon after the last slash starts the tag; an earlier one is the host's port.
        let path_start = name.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match name[path_start..].split_once(':') {
            Some((_, tag)) => (&name[..name.len() - tag.len() - 1], Some(tag)),
            None => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(broken(
                "a tag is up to 128 letters, digits, '_', '.' and '-', and starts with none of the last two",
            ));
        }
        let repository = match name.split_once('/') {
            Some((host, path)) if is_loopback(host) => path,
            Some(("docker.io" | "index.docker.io", path)) => path.strip_prefix("library/").unwrap_or(path),
            _ => name,
        };
        if !is_repository(repository) {
            return Err(broken(
                "a repository is lower-case words of letters and digits, joined by '.', '_', '-' and '/'",
            ));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self { repository: repository.to_owned(), tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

fn is_loopback(host: &str) -> bool {
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name == "127.0.0.1"
}

/// The text is a tag.
pub(crate) fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG_MAX
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// The text is a repository name.
pub(crate) fn is_repository(text: &str) -> bool {
    text.len() <= NAME_MAX && text.split('/').all(is_component)
}

/// Words of lower-case letters and digits between separators: one '.', one or two '_', or any number of '-'.
fn is_component(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = text;
    loop {
        let length = rest.bytes().take_while(|byte| word(*byte)).count();
        if length == 0 {
            return false;
        }
        rest = &rest[length..];
        let separator: &str = &rest[..rest.bytes().take_while(|byte| b"._-".contains(byte)).count()];
        match separator {
            "" => return rest.is_empty(),
            "." | "_" | "__" => {}
            dashes if dashes.bytes().all(|byte| byte == b'-') => {}
            _ => return false,
        }
        rest = &rest[separator.len()..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_read_writes_itself_and_stays_inside_the_folder(text in "[a-zA-Z0-9._:/@%-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert!(reference.repository.split('/').all(|part| !part.starts_with(['.', '_']) && !part.is_empty()));
                let again: Reference = reference.to_string().parse().unwrap();
                prop_assert_eq!(again.tag, reference.tag);
            }
        }
    }

    #[test]
    fn references_are_read_as_the_node_reads_them() {
        for (text, wanted) in [
            ("web", "web:latest"),
            ("settlement/web:1", "settlement/web:1"),
            ("localhost:5000/settlement/web:1.2", "settlement/web:1.2"),
            ("127.0.0.1:41234/x", "x:latest"),
            ("docker.io/library/nginx:1", "nginx:1"),
            ("ghcr.io/a/b__c:v1", "ghcr.io/a/b__c:v1"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), wanted);
        }
        let digest = Digest::of(b"x");
        let pinned: Reference = format!("web@{digest}").parse().unwrap();
        assert_eq!((pinned.tag.clone(), pinned.manifest()), (None, digest.to_string()));
    }

    #[test]
    fn what_is_no_reference_is_refused_with_the_rule() {
        for bad in [
            "",
            "Web",
            "a//b",
            "a/",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "web:",
            "web:-1",
            "web@sha256:1",
            "x:5000/y:1",
            "../a",
        ] {
            let error = bad.parse::<Reference>().unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
    }
}
