//! Reads netlink messages and attributes. Every length is checked: what does not fit ends the iteration.

use super::encoder::HEADER_LEN;

/// One message of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    /// The message type.
    pub(crate) kind: u16,
    /// The flags.
    pub(crate) flags: u16,
    /// The sequence number of the request that it answers.
    pub(crate) sequence: u32,
    /// What follows the header.
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Splits the first message off a datagram.
    pub(crate) fn split(datagram: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let length = u32_at(datagram, 0)? as usize;
        let whole = datagram.get(..length).filter(|whole| whole.len() >= HEADER_LEN)?;
        let message = Self {
            kind: u16_at(whole, 4)?,
            flags: u16_at(whole, 6)?,
            sequence: u32_at(whole, 8)?,
            body: &whole[HEADER_LEN..],
        };
        Some((message, datagram.get(length.next_multiple_of(4)..).unwrap_or_default()))
    }

    /// The attributes that follow a fixed struct of the given length.
    pub(crate) fn attributes(&self, fixed: usize) -> Attributes<'a> {
        Attributes(self.body.get(fixed..).unwrap_or_default())
    }
}

/// The attributes in a stretch of bytes, as (type, payload).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The payload of the first attribute of a type.
    pub(crate) fn find(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find_map(|(found, payload)| (found == kind).then_some(payload))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = u16_at(self.0, 0)? as usize;
        let kind = u16_at(self.0, 2)? & 0x3fff;
        let payload = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    }
}

/// A number in host order at an offset.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

/// A number in host order at an offset.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end_within_them(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let mut rest = &bytes[..];
            while let Some((message, tail)) = Message::split(rest) {
                prop_assert!(tail.len() < rest.len());
                let payloads: usize = message.attributes(4).map(|(_, payload)| payload.len()).sum();
                prop_assert!(payloads <= message.body.len());
                rest = tail;
            }
        }
    }

    #[test]
    fn lengths_that_lie_end_the_iteration() {
        assert!(Message::split(&[200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_none());
        assert!(Message::split(&[1, 0]).is_none());
        assert_eq!(Attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(Attributes(&[9, 0, 1, 0, 1]).count(), 0);
        assert_eq!(Attributes(&[5, 0, 1, 0, 7]).find(1), Some(&[7u8][..]));
    }
}
