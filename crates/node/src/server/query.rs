//! Query parameters of the kubelet's paths.

use jiff::{SignedDuration, Timestamp};

use super::remote::Wanted;
use crate::logs::{LogOptions, StreamChoice};

/// Decoded parameters in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.first(name), Some("1" | "true" | "True" | "t"))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        let parse = |text: &str| text.parse().map_err(|_| format!("invalid {name} {text:?}: must be a number"));
        self.first(name).map(parse).transpose()
    }

    /// Ports to forward; comma-separated or repeated.
    pub(crate) fn ports(&self) -> Result<Vec<u16>, String> {
        let values = self.0.iter().filter(|(key, _)| key == "port" || key == "ports");
        values
            .flat_map(|(_, value)| value.split(','))
            .map(|text| text.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("invalid port {text:?}")))
            .collect()
    }

    /// Streams of exec and attach, by the kubelet's names or the API's.
    pub(crate) fn wanted(&self) -> Result<Wanted, String> {
        let wanted = Wanted {
            stdin: self.flag("input") || self.flag("stdin"),
            stdout: self.flag("output") || self.flag("stdout"),
            stderr: self.flag("error") || self.flag("stderr"),
            tty: self.flag("tty"),
            ends_with_input: false,
        };
        if !wanted.stdin && !wanted.stdout && !wanted.stderr {
            return Err("you must specify at least 1 of stdin, stdout, stderr".to_owned());
        }
        Ok(wanted)
    }

    pub(crate) fn log_options(&self, now: Timestamp) -> Result<LogOptions, String> {
        let since = match (self.number::<i64>("sinceSeconds")?, self.first("sinceTime")) {
            (Some(seconds), _) => now.checked_sub(SignedDuration::from_secs(seconds)).ok(),
            (None, Some(text)) => Some(
                text.parse::<Timestamp>()
                    .map_err(|_| format!("invalid sinceTime {text:?}: must be an RFC 3339 time"))?,
            ),
            (None, None) => None,
        };
        let stream = match self.first("stream") {
            None | Some("All") => StreamChoice::All,
            Some("Stdout") => StreamChoice::Stdout,
            Some("Stderr") => StreamChoice::Stderr,
            Some(other) => return Err(format!("invalid stream {other:?}: must be All, Stdout or Stderr")),
        };
        Ok(LogOptions {
            follow: self.flag("follow"),
            // Upstream reads a negative tail as all lines.
            tail_lines: self.number::<i64>("tailLines")?.and_then(|lines| u64::try_from(lines).ok()),
            since,
            limit_bytes: self.number("limitBytes")?,
            timestamps: self.flag("timestamps"),
            stream,
        })
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (bytes[index], hex(index + 1), hex(index + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                index += 3;
                continue;
            }
            (b'+', ..) => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        index += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_decode_and_keep_their_order() {
        let query =
            Query::parse("command=sh&command=-c&command=echo+%22a%20b%22&stdin=true&output=1&tty=0&ports=80,443");
        assert_eq!(query.all("command"), ["sh", "-c", "echo \"a b\""]);
        assert_eq!(
            query.wanted(),
            Ok(Wanted { stdin: true, stdout: true, stderr: false, tty: false, ends_with_input: false })
        );
        assert_eq!(query.ports(), Ok(vec![80, 443]));
        assert!(Query::parse("port=0").ports().is_err());
        assert!(Query::parse("").wanted().is_err());
    }

    #[test]
    fn log_options_name_the_wrong_value() {
        let now = Timestamp::from_second(100).unwrap();
        let options = Query::parse("follow=true&tailLines=5&sinceSeconds=10").log_options(now).unwrap();
        assert_eq!(options.since, Some(Timestamp::from_second(90).unwrap()));
        assert!(options.follow && options.tail_lines == Some(5));
        assert_eq!(Query::parse("tailLines=-1").log_options(now).unwrap().tail_lines, None);
        assert!(Query::parse("tailLines=x").log_options(now).unwrap_err().contains("\"x\""));
        assert!(Query::parse("sinceTime=yesterday").log_options(now).is_err());
    }
}
