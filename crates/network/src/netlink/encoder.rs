//! Writes netlink messages into one buffer.

/// Bytes of `struct nlmsghdr`.
pub(super) const HEADER_LEN: usize = 16;
/// Marks an attribute that holds attributes (`NLA_F_NESTED`).
const NESTED: u16 = 0x8000;

/// A buffer of complete netlink messages. Sequence numbers count from 1 in the order of writing.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    bytes: Vec<u8>,
    messages: u32,
    overflow: bool,
}

impl Encoder {
    /// Writes one message: header, then what `body` writes.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.messages += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.messages.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        body(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Writes bytes as they are, padded to four; for the fixed structs that open a message.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    /// Writes an attribute.
    pub(crate) fn attr(&mut self, kind: u16, payload: &[u8]) {
        let Ok(length) = u16::try_from(payload.len() + 4) else {
            self.overflow = true;
            return;
        };
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(payload);
    }

    /// Writes an attribute that holds a number in host order.
    pub(crate) fn attr_u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    /// Writes an attribute that holds a number in network order.
    pub(crate) fn attr_be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// Writes an attribute that holds a text with the closing zero byte.
    pub(crate) fn attr_str(&mut self, kind: u16, text: &str) {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes);
    }

    /// Writes an attribute that holds the attributes which `body` writes.
    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        body(self);
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.overflow = true,
        }
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The messages, ready to send; nothing when an attribute was too long.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        (!self.overflow).then_some(&self.bytes)
    }

    /// The sequence number of the message written last.
    pub(super) fn last_sequence(&self) -> u32 {
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_patched_and_attributes_are_padded() {
        let mut encoder = Encoder::default();
        encoder.message(7, 1, |message| {
            message.raw(&[9, 0, 0, 0]);
            message.nest(2, |nest| nest.attr_str(1, "ab"));
        });
        let bytes = encoder.bytes().unwrap();
        assert_eq!(bytes.len(), 16 + 4 + 4 + 8);
        assert_eq!(bytes[..4], 32u32.to_ne_bytes());
        assert_eq!(bytes[20..24], [12, 0, 2, 0x80]);
        assert_eq!(bytes[24..], [7, 0, 1, 0, b'a', b'b', 0, 0]);
    }

    #[test]
    fn an_attribute_beyond_16_bits_spoils_the_buffer() {
        let mut encoder = Encoder::default();
        encoder.message(7, 1, |message| message.nest(1, |nest| (0..3).for_each(|_| nest.attr(1, &[0; 30_000]))));
        assert!(encoder.bytes().is_none());
    }
}
