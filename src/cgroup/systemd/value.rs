//! The types of D-Bus, and how they are laid out in a message (D-Bus Specification, "Marshaling").

/// A value of any type that the manager's methods take or answer with.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Byte(u8),
    Bool(bool),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    Text(String),
    Path(String),
    Signature(String),
    /// The signature of its elements, since there may be none.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

/// How deep containers may be nested; the specification allows 64.
const MAX_DEPTH: usize = 32;

impl Value {
    /// A string.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Its type, as a signature.
    pub fn signature(&self) -> String {
        match self {
            Self::Byte(_) => "y".into(),
            Self::Bool(_) => "b".into(),
            Self::I32(_) => "i".into(),
            Self::U32(_) => "u".into(),
            Self::I64(_) => "x".into(),
            Self::U64(_) => "t".into(),
            Self::Double(_) => "d".into(),
            Self::Text(_) => "s".into(),
            Self::Path(_) => "o".into(),
            Self::Signature(_) => "g".into(),
            Self::Array(element, _) => format!("a{element}"),
            Self::Struct(fields) => format!("({})", signature(fields)),
            Self::Variant(_) => "v".into(),
        }
    }

    /// Appends it to `out`, which begins at a multiple of eight.
    pub fn write(&self, out: &mut Vec<u8>) {
        pad(out, alignment(self.signature().as_bytes()[0]));
        match self {
            Self::Byte(value) => out.push(*value),
            Self::Bool(value) => out.extend(u32::from(*value).to_ne_bytes()),
            Self::I32(value) => out.extend(value.to_ne_bytes()),
            Self::U32(value) => out.extend(value.to_ne_bytes()),
            Self::I64(value) => out.extend(value.to_ne_bytes()),
            Self::U64(value) => out.extend(value.to_ne_bytes()),
            Self::Double(value) => out.extend(value.to_ne_bytes()),
            Self::Text(text) | Self::Path(text) => {
                out.extend((text.len() as u32).to_ne_bytes());
                out.extend(text.bytes().chain([0]));
            }
            Self::Signature(text) => {
                out.push(text.len() as u8);
                out.extend(text.bytes().chain([0]));
            }
            Self::Array(element, values) => write_array(element, values, out),
            Self::Struct(fields) => fields.iter().for_each(|field| field.write(out)),
            Self::Variant(value) => {
                Self::Signature(value.signature()).write(out);
                value.write(out);
            }
        }
    }
}

fn write_array(element: &str, values: &[Value], out: &mut Vec<u8>) {
    let length_at = out.len();
    out.extend([0; 4]);
    pad(out, alignment(element.as_bytes()[0]));
    // The padding before the first element does not count.
    let begin = out.len();
    values.iter().for_each(|value| value.write(out));
    let length = (out.len() - begin) as u32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_ne_bytes());
}

/// The signature of several values in a row.
pub fn signature(values: &[Value]) -> String {
    values.iter().map(Value::signature).collect()
}

/// Fills with zeros up to a multiple of `alignment`.
pub fn pad(out: &mut Vec<u8>, alignment: usize) {
    out.resize(out.len().next_multiple_of(alignment), 0);
}

fn alignment(kind: u8) -> usize {
    match kind {
        b'y' | b'g' | b'v' => 1,
        b'n' | b'q' => 2,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 4,
    }
}

/// Reads values from bytes that begin at a multiple of eight. What does not fit is no value.
pub struct Reader<'a> {
    bytes: &'a [u8],
    place: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, place: 0 }
    }

    /// Reads one value for each type in `signature`.
    pub fn all(&mut self, signature: &str) -> Option<Vec<Value>> {
        self.values(signature, 0)
    }

    fn values(&mut self, signature: &str, depth: usize) -> Option<Vec<Value>> {
        types(signature)?.into_iter().map(|kind| self.value(kind, depth)).collect()
    }

    fn value(&mut self, kind: &str, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        let letter = *kind.as_bytes().first()?;
        self.place = self.place.next_multiple_of(alignment(letter));
        Some(match letter {
            b'y' => Value::Byte(self.number::<1>()?[0]),
            b'b' => Value::Bool(u32::from_ne_bytes(self.number()?) != 0),
            b'i' => Value::I32(i32::from_ne_bytes(self.number()?)),
            b'u' => Value::U32(u32::from_ne_bytes(self.number()?)),
            b'x' => Value::I64(i64::from_ne_bytes(self.number()?)),
            b't' => Value::U64(u64::from_ne_bytes(self.number()?)),
            b'd' => Value::Double(f64::from_ne_bytes(self.number()?)),
            b's' => Value::Text(self.long_text()?),
            b'o' => Value::Path(self.long_text()?),
            b'g' => Value::Signature(self.short_text()?),
            b'v' => {
                let kind = self.short_text()?;
                let mut values = self.values(&kind, depth + 1)?;
                if values.len() != 1 {
                    return None;
                }
                Value::Variant(Box::new(values.remove(0)))
            }
            b'a' => self.array(&kind[1..], depth)?,
            b'(' | b'{' => Value::Struct(self.values(&kind[1..kind.len() - 1], depth + 1)?),
            _ => return None,
        })
    }

    fn array(&mut self, element: &str, depth: usize) -> Option<Value> {
        let length = u32::from_ne_bytes(self.number()?) as usize;
        self.place = self.place.next_multiple_of(alignment(*element.as_bytes().first()?));
        let end = self.place.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        let mut values = Vec::new();
        while self.place < end {
            let before = self.place;
            values.push(self.value(element, depth + 1)?);
            if self.place == before {
                return None;
            }
        }
        Some(Value::Array(element.to_owned(), values))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.place.checked_add(length)?;
        let taken = self.bytes.get(self.place..end)?;
        self.place = end;
        Some(taken)
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn long_text(&mut self) -> Option<String> {
        let length = u32::from_ne_bytes(self.number()?) as usize;
        self.ended_text(length)
    }

    fn short_text(&mut self) -> Option<String> {
        let length = self.number::<1>()?[0].into();
        self.ended_text(length)
    }

    fn ended_text(&mut self, length: usize) -> Option<String> {
        let bytes = self.take(length.checked_add(1)?)?;
        String::from_utf8(bytes[..length].to_vec()).ok()
    }
}

/// The longest signature that a message can hold.
pub const MAX_SIGNATURE: usize = 255;

/// The complete types that a signature consists of; nothing where it is none.
pub fn types(mut signature: &str) -> Option<Vec<&str>> {
    if signature.len() > MAX_SIGNATURE {
        return None;
    }
    let mut found = Vec::new();
    while !signature.is_empty() {
        let (first, rest) = signature.split_at_checked(length_of_first(signature.as_bytes(), 0)?)?;
        found.push(first);
        signature = rest;
    }
    Some(found)
}

/// How long the first complete type of a signature is.
fn length_of_first(signature: &[u8], depth: usize) -> Option<usize> {
    if depth > MAX_DEPTH {
        return None;
    }
    let close = match signature.first()? {
        b'a' => return Some(1 + length_of_first(&signature[1..], depth + 1)?),
        b'(' => b')',
        b'{' => b'}',
        letter => return b"ybnqiuxtdsogvh".contains(letter).then_some(1),
    };
    let mut end = 1;
    while *signature.get(end)? != close {
        end += length_of_first(&signature[end..], depth + 1)?;
    }
    (end > 1).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        value.write(&mut out);
        out
    }

    #[test]
    fn values_are_aligned_as_the_specification_says() {
        let pair = Value::Struct(vec![Value::Byte(7), Value::U64(1)]);
        let mut wanted = vec![7, 0, 0, 0, 0, 0, 0, 0];
        wanted.extend(1_u64.to_ne_bytes());
        assert_eq!((pair.signature().as_str(), written(&pair)), ("(yt)", wanted));

        let text = [&2_u32.to_ne_bytes()[..], b"ab\0"].concat();
        assert_eq!(written(&Value::text("ab")), text);
        assert_eq!(written(&Value::Variant(Box::new(Value::Byte(9)))), [1, b'y', 0, 9]);
        // The padding up to the first element is there even without one, and does not count.
        let array = Value::Array("t".into(), vec![]);
        assert_eq!((array.signature().as_str(), written(&array)), ("at", vec![0; 8]));
    }

    #[test]
    fn what_is_written_can_be_read() {
        let property = |name: &str, value| Value::Struct(vec![Value::text(name), Value::Variant(Box::new(value))]);
        let values = vec![
            Value::text("x.scope"),
            Value::Bool(true),
            Value::Array(
                "(sv)".into(),
                vec![
                    property("PIDs", Value::Array("u".into(), vec![Value::U32(42)])),
                    property("After", Value::Array("s".into(), vec![Value::text("a.service"), Value::text("")])),
                    property("Number", Value::Double(-1.5)),
                    property("Numbers", Value::Struct(vec![Value::I32(-2), Value::I64(-3), Value::U64(u64::MAX)])),
                ],
            ),
            Value::Path("/a".into()),
            Value::Signature("a(sv)".into()),
        ];
        let mut out = Vec::new();
        values.iter().for_each(|value| value.write(&mut out));
        assert_eq!(signature(&values), "sba(sv)og");
        assert_eq!(Reader::new(&out).all("sba(sv)og").as_deref(), Some(&values[..]));
        for length in 0..out.len() {
            assert_eq!(Reader::new(&out[..length]).all("sba(sv)og"), None, "cut at {length}");
        }
    }

    #[test]
    fn nonsense_is_no_value() {
        let huge = u32::MAX.to_ne_bytes();
        for (signature, bytes) in [
            ("s", &huge[..]),
            ("ay", &huge[..]),
            ("a()", &[8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..]),
            ("v", &[0, 0][..]),
            ("v", &[2, b'y', b'y', 0, 1, 1][..]),
            ("(y", &[1][..]),
            (")", &[1][..]),
            ("a", &[0; 4][..]),
            ("?", &[0; 4][..]),
            ("a(?)", &[0; 8][..]),
            ("a(s}", &[0; 8][..]),
            ("a()", &[0; 8][..]),
            (&"i".repeat(256), &[0; 2048][..]),
            (&format!("{}i", "a".repeat(100)), &[0; 4][..]),
        ] {
            assert_eq!(Reader::new(bytes).all(signature), None, "{signature}");
        }
        let nested = [b"\x01v\0".repeat(100), b"\x01y\0\0".to_vec()].concat();
        assert_eq!(Reader::new(&nested).all("v"), None);
    }
}
