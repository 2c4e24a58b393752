//! The wire format of protocol buffers, as far as etcd's messages need it.

/// Wire types of the format.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// A message being written.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn tag(&mut self, field: u32, wire_type: u64) {
        self.varint(u64::from(field) << 3 | wire_type);
    }

    /// A number, also when it is zero.
    pub(super) fn number(&mut self, field: u32, value: u64) {
        self.tag(field, VARINT);
        self.varint(value);
    }

    /// A flag, absent when it is off.
    pub(super) fn flag(&mut self, field: u32, on: bool) {
        if on {
            self.number(field, 1);
        }
    }

    /// Bytes or text.
    pub(super) fn bytes(&mut self, field: u32, value: &[u8]) {
        self.tag(field, LENGTH);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// A message within this one.
    pub(super) fn message(&mut self, field: u32, write: impl FnOnce(&mut Writer)) {
        let mut inner = Writer::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }
}

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    pub(super) fn number(self) -> Result<u64, Malformed> {
        match self {
            Field::Number(value) => Ok(value),
            Field::Bytes(_) => Err(Malformed),
        }
    }

    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Field::Bytes(value) => Ok(value),
            Field::Number(_) => Err(Malformed),
        }
    }
}

/// The bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub(super) struct Malformed;

/// Calls `each` with every field of a message, in order. Fields of wire types that no message here uses are passed over.
pub(super) fn fields<'a>(
    mut bytes: &'a [u8],
    mut each: impl FnMut(u32, Field<'a>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let field = u32::try_from(tag >> 3).map_err(|_| Malformed)?;
        match tag & 7 {
            VARINT => each(field, Field::Number(varint(&mut bytes)?))?,
            LENGTH => {
                let len = usize::try_from(varint(&mut bytes)?).map_err(|_| Malformed)?;
                each(field, Field::Bytes(take(&mut bytes, len)?))?;
            }
            FIXED64 => drop(take(&mut bytes, 8)?),
            FIXED32 => drop(take(&mut bytes, 4)?),
            _ => return Err(Malformed),
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = take(bytes, 1)? else { return Err(Malformed) };
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = bytes.split_at_checked(len).ok_or(Malformed)?;
    *bytes = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_come_back_in_order_and_unknown_wire_types_are_passed_over() {
        let mut writer = Writer::default();
        writer.number(1, 300);
        writer.tag(2, FIXED64);
        writer.0.extend_from_slice(&[1; 8]);
        writer.message(3, |inner| inner.bytes(1, b"x"));
        writer.flag(4, false);
        writer.number(5, u64::MAX);
        let mut found = Vec::new();
        fields(&writer.0, |field, value| {
            found.push((field, value));
            Ok(())
        })
        .unwrap();
        assert_eq!(found, [(1, Field::Number(300)), (3, Field::Bytes(b"\x0a\x01x")), (5, Field::Number(u64::MAX))]);
        for len in 0..writer.0.len() {
            let _ = fields(&writer.0[..len], |_, _| Ok(()));
        }
        assert_eq!(fields(&[0xff; 11], |_, _| Ok(())), Err(Malformed));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = fields(&bytes, |_, _| Ok(()));
        }
    }
}
