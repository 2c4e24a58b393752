//! Where a Redis is: `redis://[user[:password]@]host[:port][/database]`, and `rediss://` with TLS.

/// Where a Redis is, and who we are there.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The user; the default one when absent.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The number of the database.
    pub database: u16,
}

/// A URL that leads to no Redis. The text is not repeated, for there may be a password in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The scheme is another.
    #[error("must begin with redis:// or rediss://")]
    Scheme,
    /// There is no host, or no port where one should be.
    #[error("must have a host, and a port from 1 to 65535 if any")]
    Host,
    /// The database is no number.
    #[error("must end with the number of a database, if anything")]
    Database,
    /// A percent sign is not followed by two hexadecimal digits.
    #[error("must have user and password percent-encoded")]
    Encoding,
}

impl RedisUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (tls, rest) = match (text.strip_prefix("redis://"), text.strip_prefix("rediss://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            (None, None) => return Err(UrlError::Scheme),
        };
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = if database.is_empty() { 0 } else { database.parse().map_err(|_| UrlError::Database)? };
        let (credentials, address) = authority.rsplit_once('@').map_or((None, authority), |(who, at)| (Some(who), at));
        let (user, password) = credentials.map_or((None, None), |who| match who.split_once(':') {
            Some((user, password)) => (Some(user), Some(password)),
            None => (Some(who), None),
        });
        let decoded = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(decode).transpose();
        let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or(UrlError::Host)?)),
            None => address.rsplit_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(6379), |port| port.parse().ok().filter(|port| *port > 0).ok_or(UrlError::Host))?;
        let named =
            |host: &str| host.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'?' | b'#' | b'@'));
        if host.is_empty() || !named(host) {
            return Err(UrlError::Host);
        }
        let (user, password) = (decoded(user)?, decoded(password)?);
        Ok(RedisUrl { tls, host: host.to_owned(), port, user, password, database })
    }
}

impl std::fmt::Debug for RedisUrl {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "redis{}://{}:{}/{}", if self.tls { "s" } else { "" }, self.host, self.port, self.database)
    }
}

fn decode(text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or(UrlError::Encoding)?;
        let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()));
        bytes.push(digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or(UrlError::Encoding)?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| UrlError::Encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_where_and_who() {
        let url = |text| RedisUrl::parse(text);
        let plain = RedisUrl { tls: false, host: "r".into(), port: 6379, user: None, password: None, database: 0 };
        assert_eq!(url("redis://r"), Ok(plain.clone()));
        assert_eq!(url("redis://r:7000/3"), Ok(RedisUrl { port: 7000, database: 3, ..plain.clone() }));
        let password = Some("p@:/".to_owned());
        assert_eq!(
            url("rediss://u:p%40%3A%2F@r/"),
            Ok(RedisUrl { tls: true, user: Some("u".into()), password: password.clone(), ..plain.clone() })
        );
        assert_eq!(url("redis://:p%40%3A%2F@[::1]:1"), Ok(RedisUrl { host: "::1".into(), port: 1, password, ..plain }));
        for (text, error) in [
            ("http://r", UrlError::Scheme),
            ("redis://", UrlError::Host),
            ("redis://r:0", UrlError::Host),
            ("redis://r:x", UrlError::Host),
            ("redis://[::1]x", UrlError::Host),
            ("redis://r/x", UrlError::Database),
            ("redis://u:%x@r", UrlError::Encoding),
            ("redis://u:%+1@r", UrlError::Encoding),
        ] {
            assert_eq!(url(text), Err(error), "{text}");
        }
        let debug = format!("{:?}", url("redis://u:secret@r").unwrap());
        assert_eq!(debug, "redis://r:6379/0", "a password is not written to logs");
    }
}
