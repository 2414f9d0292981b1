//! Messages as criu's service reads and writes them: Protocol Buffers, a number and a value for each field.
//! The fields are those of criu's `rpc.proto`.

/// Kinds of values on the wire, by the low bits of a field's tag.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED_32: u64 = 5;

/// A message that is being written. Field by field: the order does not matter, and one that is written again is one
/// more of a list.
#[derive(Clone, Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// Adds a number, or one of an enumeration.
    pub fn number(mut self, field: u32, value: u64) -> Self {
        self.varint(u64::from(field) << 3 | VARINT);
        self.varint(value);
        self
    }

    /// Adds a switch that is on; one that is off is the default.
    pub fn flag(self, field: u32, value: bool) -> Self {
        if value { self.number(field, 1) } else { self }
    }

    /// Adds a string of bytes.
    pub fn text(mut self, field: u32, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.varint(u64::from(field) << 3 | LENGTH);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// Adds a string of bytes if there is one.
    pub fn optional(self, field: u32, value: Option<impl AsRef<[u8]>>) -> Self {
        match value {
            Some(value) => self.text(field, value),
            None => self,
        }
    }

    /// Adds a message within this one.
    pub fn message(self, field: u32, inner: &Self) -> Self {
        self.text(field, &inner.0)
    }

    /// What goes over the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// The value of a field that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The number; 0 for anything else.
    pub fn number(self) -> u64 {
        if let Self::Number(value) = self { value } else { 0 }
    }

    /// The bytes, none for anything else.
    pub fn bytes(self) -> &'a [u8] {
        if let Self::Bytes(value) = self { value } else { &[] }
    }
}

/// The last value of `field` in a message, which is the one that counts; nothing after what cannot be read.
pub fn field(message: &[u8], field: u32) -> Option<Value<'_>> {
    let mut rest = message;
    let mut found = None;
    while let Some((number, value)) = next(&mut rest) {
        if number == u64::from(field) {
            found = Some(value);
        }
    }
    found
}

fn next<'a>(rest: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = take_varint(rest)?;
    let value = match tag & 7 {
        VARINT => Value::Number(take_varint(rest)?),
        FIXED_64 => Value::Bytes(take(rest, 8)?),
        FIXED_32 => Value::Bytes(take(rest, 4)?),
        LENGTH => {
            let length = take_varint(rest)?;
            Value::Bytes(take(rest, usize::try_from(length).ok()?)?)
        }
        _ => return None,
    };
    Some((tag >> 3, value))
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_written_as_the_format_has_them() {
        // The examples of the format's own documentation.
        assert_eq!(Message::default().number(1, 150).as_bytes(), b"\x08\x96\x01");
        assert_eq!(Message::default().text(2, "testing").as_bytes(), b"\x12\x07testing");
        let inner = Message::default().number(1, 150);
        assert_eq!(Message::default().message(3, &inner).as_bytes(), b"\x1a\x03\x08\x96\x01");
        assert_eq!(Message::default().flag(1, false).as_bytes(), b"");
    }

    #[test]
    fn what_is_written_is_read() {
        let message = Message::default().number(1, u64::MAX).text(300, b"\xff\0").flag(7, true).number(1, 2);
        assert_eq!(field(message.as_bytes(), 1), Some(Value::Number(2)));
        assert_eq!(field(message.as_bytes(), 300), Some(Value::Bytes(b"\xff\0")));
        assert_eq!(field(message.as_bytes(), 7), Some(Value::Number(1)));
        assert_eq!(field(message.as_bytes(), 8), None);
    }

    #[test]
    fn a_message_that_ends_early_gives_what_came_before() {
        let whole = Message::default().number(1, 5).text(2, "four");
        for length in 0..whole.as_bytes().len() {
            assert_eq!(field(&whole.as_bytes()[..length], 2), None);
        }
        assert_eq!(field(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 1), None);
        assert_eq!(field(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7fx", 2), None);
    }
}
