//! Name/value blocks: SPDY/3's header format under one zlib stream per direction, primed with the protocol's dictionary.

use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::frame::SpdyError;

/// Header name and value, names in lower case.
pub(crate) type HeaderList = Vec<(String, String)>;

/// Bytes a header block may grow to; client-go sends four short headers per stream.
const HEADER_BLOCK_BYTES_MAX: usize = 64 << 10;

/// Words of the dictionary that carry a length prefix, as the SPDY/3 draft lists them.
const PREFIXED: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// The rest of the dictionary, without prefixes.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov \
Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(1423);
    for word in PREFIXED {
        bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
});

/// Compresses the header blocks of one direction.
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Result<Self, SpdyError> {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(&DICTIONARY).map_err(|_| SpdyError::Compression)?;
        Ok(Self(deflate))
    }

    pub(super) fn encode(&mut self, headers: &[(String, String)]) -> Result<Vec<u8>, SpdyError> {
        let mut plain = Vec::new();
        plain.extend_from_slice(&(headers.len() as u32).to_be_bytes());
        for (name, value) in headers {
            for part in [name, value] {
                plain.extend_from_slice(&(part.len() as u32).to_be_bytes());
                plain.extend_from_slice(part.as_bytes());
            }
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let mut consumed = 0;
        loop {
            let before = self.0.total_in();
            self.0
                .compress_vec(&plain[consumed..], &mut out, FlushCompress::Sync)
                .map_err(|_| SpdyError::Compression)?;
            consumed += (self.0.total_in() - before) as usize;
            // A sync flush is complete when output space is left over.
            if consumed == plain.len() && out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(64);
        }
    }
}

/// Decompresses the header blocks of one direction.
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(super) fn decode(&mut self, block: &[u8]) -> Result<HeaderList, SpdyError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut out = Vec::with_capacity(1024);
        let mut consumed = 0;
        loop {
            let before_in = self.0.total_in();
            let before_out = out.len();
            let result = self.0.decompress_vec(&block[consumed..], &mut out, FlushDecompress::Sync);
            consumed += (self.0.total_in() - before_in) as usize;
            match result {
                Ok(Status::StreamEnd) => return Err(SpdyError::Compression),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| SpdyError::Compression)?;
                    continue;
                }
                Err(_) => return Err(SpdyError::Compression),
            }
            if consumed == block.len() && out.len() < out.capacity() {
                return Ok(out);
            }
            if out.len() == before_out && self.0.total_in() == before_in && out.len() < out.capacity() {
                return Err(SpdyError::Compression);
            }
            if out.len() > HEADER_BLOCK_BYTES_MAX {
                return Err(SpdyError::TooLarge(out.len()));
            }
            out.reserve(1024);
        }
    }
}

fn parse(mut plain: &[u8]) -> Result<HeaderList, SpdyError> {
    let count = take_u32(&mut plain)? as usize;
    let mut headers = Vec::with_capacity(count.min(16));
    for _ in 0..count {
        let name = take_string(&mut plain)?.to_ascii_lowercase();
        let value = take_string(&mut plain)?;
        headers.push((name, value));
    }
    Ok(headers)
}

fn take_u32(plain: &mut &[u8]) -> Result<u32, SpdyError> {
    let (head, rest) = plain.split_first_chunk::<4>().ok_or(SpdyError::Truncated)?;
    *plain = rest;
    Ok(u32::from_be_bytes(*head))
}

fn take_string(plain: &mut &[u8]) -> Result<String, SpdyError> {
    let length = take_u32(plain)? as usize;
    if length > plain.len() {
        return Err(SpdyError::Truncated);
    }
    let (head, rest) = plain.split_at(length);
    *plain = rest;
    Ok(String::from_utf8_lossy(head).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adler32(bytes: &[u8]) -> u32 {
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in bytes {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        b << 16 | a
    }

    #[test]
    fn dictionary_has_the_checksum_every_spdy3_header_block_names() {
        assert_eq!((DICTIONARY.len(), adler32(&DICTIONARY)), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn header_blocks_survive_a_round_trip_on_one_running_stream() {
        let (mut deflater, mut inflater) = (Deflater::new().unwrap(), Inflater::new());
        for round in 0..5 {
            let headers: HeaderList = vec![
                ("streamtype".into(), "data".into()),
                ("port".into(), "8080".into()),
                ("requestid".into(), round.to_string()),
                ("big".into(), "x".repeat(5000 * round)),
            ];
            let block = deflater.encode(&headers).unwrap();
            assert_eq!(inflater.decode(&block).unwrap(), headers);
        }
    }

    #[test]
    fn a_block_that_expands_beyond_the_bound_is_refused() {
        let mut deflater = Deflater::new().unwrap();
        let block = deflater.encode(&[("bomb".into(), "0".repeat(4 << 20))]).unwrap();
        assert!(matches!(Inflater::new().decode(&block), Err(SpdyError::TooLarge(_))));
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(Inflater::new().decode(b"not zlib at all").is_err());
        assert!(parse(&[0, 0, 0, 9, 0, 0]).is_err());
    }
}
