//! Links of proxied pages: an absolute path on a backend's page means the backend, so it is led back through the proxy.

use std::{borrow::Cow, net::SocketAddr};

use http::{HeaderMap, HeaderValue, header};

/// Attributes that hold addresses, by element; the elements and attributes are those upstream's proxy knows.
const ATTRIBUTES: [(&str, &[&str]); 27] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("track", &["src"]),
    ("video", &["poster", "src"]),
    ("use", &["href"]),
];

/// Elements whose content is text, in which nothing that looks like an element is one.
const RAW: [&str; 6] = ["script", "style", "textarea", "title", "iframe", "noscript"];

/// How the links of one backend's pages change.
pub(super) struct Links {
    prefix: String,
    backend: String,
    asked: Option<String>,
}

impl Links {
    /// Links of the pages of `backend`, asked for under the host `asked`.
    pub(super) fn new(prefix: String, backend: SocketAddr, asked: Option<String>) -> Self {
        Self { prefix, backend: backend.to_string(), asked }
    }

    /// Rewrites where a redirect leads to.
    pub(super) fn location(&self, headers: &mut HeaderMap) {
        let Some(location) = headers.get(header::LOCATION).and_then(|value| value.to_str().ok()) else { return };
        if let Cow::Owned(changed) = self.link(location)
            && let Ok(value) = HeaderValue::from_str(&changed)
        {
            headers.insert(header::LOCATION, value);
        }
    }

    /// Whether an answer is a page whose links are to be rewritten. Compressed ones pass as they are.
    pub(super) fn applies(&self, headers: &HeaderMap) -> bool {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_page = kind.split(';').next().is_some_and(|kind| kind.trim() == "text/html");
        is_page && !headers.contains_key(header::CONTENT_ENCODING) && !headers.contains_key(header::LOCATION)
    }

    /// The link as the client has to follow it.
    fn link<'b>(&self, link: &'b str) -> Cow<'b, str> {
        let (host, path) = split(link);
        let same = host.is_none_or(|host| host == self.backend || Some(host) == self.asked.as_deref());
        if !same || !path.starts_with('/') || path.starts_with(&self.prefix) {
            return Cow::Borrowed(link);
        }
        Cow::Owned(format!("{}{path}", self.prefix))
    }

    /// A page with its links changed, and nothing else.
    pub(super) fn page(&self, page: &str) -> String {
        let mut out = String::with_capacity(page.len() + page.len() / 8);
        let mut rest = page;
        while let Some(at) = rest.find('<') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(end) = rest.starts_with("<!--").then(|| rest.find("-->").map_or(rest.len(), |end| end + 3)) {
                out.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            let name: &str =
                &rest[1..1 + rest[1..].find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len() - 1)];
            if name.is_empty() {
                out.push('<');
                rest = &rest[1..];
                continue;
            }
            let element = name.to_ascii_lowercase();
            out.push_str(&rest[..=name.len()]);
            rest = self.attributes(&element, &rest[1 + name.len()..], &mut out);
            if RAW.contains(&element.as_str()) {
                let closing = format!("</{element}");
                let end = rest.to_ascii_lowercase().find(&closing).unwrap_or(rest.len());
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
        }
        out.push_str(rest);
        out
    }

    /// Copies the attributes of an element up to the end of its tag; returns what follows.
    fn attributes<'b>(&self, element: &str, tag: &'b str, out: &mut String) -> &'b str {
        let links = ATTRIBUTES.iter().find(|(name, _)| *name == element).map_or(&[][..], |(_, attributes)| attributes);
        let mut rest = tag;
        loop {
            let blank = rest.find(|c: char| !c.is_whitespace() && c != '/').unwrap_or(rest.len());
            out.push_str(&rest[..blank]);
            rest = &rest[blank..];
            if rest.is_empty() {
                return rest;
            }
            if let Some(after) = rest.strip_prefix('>') {
                out.push('>');
                return after;
            }
            let name = rest.find(|c: char| c.is_whitespace() || matches!(c, '=' | '>' | '/')).unwrap_or(rest.len());
            let name = name.max(usize::from(rest.starts_with('=')));
            let attribute = rest[..name].to_ascii_lowercase();
            out.push_str(&rest[..name]);
            rest = &rest[name..];
            let Some(value) = rest.trim_start().strip_prefix('=') else { continue };
            let value = value.trim_start();
            out.push_str(&rest[..rest.len() - value.len()]);
            let (quote, text, after) = quoted(value);
            out.push_str(quote);
            out.push_str(&if links.contains(&attribute.as_str()) { self.link(text) } else { Cow::Borrowed(text) });
            out.push_str(quote);
            rest = after;
        }
    }
}

/// Quote, text and rest of an attribute's value.
fn quoted(value: &str) -> (&'static str, &str, &str) {
    for quote in ["\"", "'"] {
        if let Some(text) = value.strip_prefix(quote) {
            let end = text.find(quote).unwrap_or(text.len());
            return (quote, &text[..end], text.get(end + 1..).unwrap_or_default());
        }
    }
    let end = value.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(value.len());
    ("", &value[..end], &value[end..])
}

/// Host (with port) and path of a link; the host is `None` in a relative one.
fn split(link: &str) -> (Option<&str>, &str) {
    let after = link.strip_prefix("//").or_else(|| link.split_once("://").map(|(_, after)| after));
    match after {
        None => (None, link),
        Some(after) => {
            let at = after.find(['/', '?', '#']).unwrap_or(after.len());
            (Some(&after[..at]), &after[at..])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/d/services/web/proxy";

    fn links() -> Links {
        Links::new(PREFIX.into(), SocketAddr::from(([10, 0, 0, 7], 80)), Some("api:6443".into()))
    }

    #[test]
    fn absolute_paths_of_the_backend_are_led_through_the_proxy() {
        let links = links();
        assert_eq!(links.link("/a/?b=c#d"), format!("{PREFIX}/a/?b=c#d"));
        assert_eq!(links.link("http://10.0.0.7:80/a"), format!("{PREFIX}/a"));
        assert_eq!(links.link("https://api:6443/a"), format!("{PREFIX}/a"));
        for unchanged in ["a/b", "#top", "", "http://elsewhere/a", "mailto:x@y", &format!("{PREFIX}/a")] {
            assert_eq!(links.link(unchanged), unchanged);
        }
    }

    #[test]
    fn a_page_changes_in_its_links_only() {
        let page = "<!DOCTYPE html><!-- <a href='/x'> --><A class=b href=\"/rewriteme\">t</a> 1 < 2 <img src='/i.png' alt=/no>\
            <script src=/s.js>if (a<b) \"<a href='/raw'>\"</script><a href='other'>";
        let expected = format!(
            "<!DOCTYPE html><!-- <a href='/x'> --><A class=b href=\"{PREFIX}/rewriteme\">t</a> 1 < 2 \
             <img src='{PREFIX}/i.png' alt=/no><script src={PREFIX}/s.js>if (a<b) \"<a href='/raw'>\"</script>\
             <a href='other'>"
        );
        assert_eq!(links().page(page), expected);
    }

    #[test]
    fn a_page_that_stops_in_the_middle_is_kept() {
        for page in ["<", "<a", "<a href", "<a href=", "<a href='/x", "<!-- x", "<script>x", "<a =x>", "<é>"] {
            assert!(!links().page(page).is_empty());
        }
        assert_eq!(links().page("<a href='x"), "<a href='x'");
    }
}
