//! The messages of D-Bus: calls that go out, and what of the answers and signals is looked at.

use super::value::{Reader, Value, pad, signature};

const VERSION: u8 = 1;
const METHOD_CALL: u8 = 1;
/// A message is at most 128 MiB; from a manager of units nothing comes near this.
const MAX_LENGTH: usize = 16 << 20;
/// The fixed part of a header, up to and with the length of the fields.
const FIXED: usize = 16;

/// The codes of the header's fields.
mod field {
    pub const PATH: u8 = 1;
    pub const INTERFACE: u8 = 2;
    pub const MEMBER: u8 = 3;
    pub const ERROR_NAME: u8 = 4;
    pub const REPLY_SERIAL: u8 = 5;
    pub const DESTINATION: u8 = 6;
    pub const SIGNATURE: u8 = 8;
}

/// What is called.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub destination: &'static str,
    pub path: &'static str,
    pub interface: &'static str,
}

/// Writes a call. `serial` is what the answer refers to.
pub fn call(target: &Target, member: &str, body: &[Value], serial: u32) -> Vec<u8> {
    let mut content = Vec::new();
    body.iter().for_each(|value| value.write(&mut content));
    let mut fields = vec![
        (field::PATH, Value::Path(target.path.into())),
        (field::INTERFACE, Value::text(target.interface)),
        (field::MEMBER, Value::text(member)),
        (field::DESTINATION, Value::text(target.destination)),
    ];
    if !body.is_empty() {
        fields.push((field::SIGNATURE, Value::Signature(signature(body))));
    }
    let fields = fields.into_iter().map(|(code, value)| Value::Struct(vec![Value::Byte(code), variant(value)]));
    let header = [
        Value::Byte(if cfg!(target_endian = "little") { b'l' } else { b'B' }),
        Value::Byte(METHOD_CALL),
        Value::Byte(0),
        Value::Byte(VERSION),
        Value::U32(content.len() as u32),
        Value::U32(serial),
        Value::Array("(yv)".into(), fields.collect()),
    ];
    let mut out = Vec::new();
    header.iter().for_each(|value| value.write(&mut out));
    pad(&mut out, 8);
    out.extend(content);
    out
}

fn variant(value: Value) -> Value {
    Value::Variant(Box::new(value))
}

/// A message that came in.
#[derive(Debug, PartialEq)]
pub enum Message {
    Return { serial: u32, body: Vec<Value> },
    Error { serial: u32, name: String, text: String },
    Signal { member: String, body: Vec<Value> },
    Other,
}

/// What a stream's bytes begin with.
#[derive(Debug, PartialEq)]
pub enum Parsed {
    Incomplete,
    /// The message, and its length.
    Message(Message, usize),
    /// Nothing that can be read, now or later.
    Nonsense,
}

/// Reads the first message. The bodies of signals other than `wanted` are not looked at.
pub fn parse(bytes: &[u8], wanted: &str) -> Parsed {
    let Some(fixed) = bytes.get(..FIXED) else { return Parsed::Incomplete };
    let number =
        |place: usize| u32::from_ne_bytes([fixed[place], fixed[place + 1], fixed[place + 2], fixed[place + 3]]);
    let begin = (FIXED.saturating_add(number(12) as usize)).saturating_add(7) & !7;
    let length = begin.saturating_add(number(4) as usize);
    let own_order = if cfg!(target_endian = "little") { b'l' } else { b'B' };
    if fixed[0] != own_order || fixed[3] != VERSION || length > MAX_LENGTH {
        return Parsed::Nonsense;
    }
    let Some(whole) = bytes.get(..length) else { return Parsed::Incomplete };
    match interpret(whole, begin, wanted) {
        Some(message) => Parsed::Message(message, length),
        None => Parsed::Nonsense,
    }
}

fn interpret(bytes: &[u8], begin: usize, wanted: &str) -> Option<Message> {
    let header = Reader::new(&bytes[..begin]).all("yyyyuua(yv)")?;
    let Some(Value::Array(_, fields)) = header.last() else { return None };
    let (mut serial, mut member, mut name, mut kind) = (0, String::new(), String::new(), String::new());
    for each in fields {
        let Value::Struct(pair) = each else { return None };
        let [Value::Byte(code), Value::Variant(value)] = &pair[..] else { return None };
        match (*code, &**value) {
            (field::REPLY_SERIAL, Value::U32(number)) => serial = *number,
            (field::MEMBER, Value::Text(text)) => member.clone_from(text),
            (field::ERROR_NAME, Value::Text(text)) => name.clone_from(text),
            (field::SIGNATURE, Value::Signature(text)) => kind.clone_from(text),
            _ => {}
        }
    }
    let body = || Reader::new(&bytes[begin..]).all(&kind);
    Some(match bytes[1] {
        2 => Message::Return { serial, body: body()? },
        3 => {
            let text = match body().and_then(|body| body.into_iter().next()) {
                Some(Value::Text(text)) => text,
                _ => String::new(),
            };
            Message::Error { serial, name, text }
        }
        4 if member == wanted => Message::Signal { body: body()?, member },
        _ => Message::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANAGER: Target = Target { destination: "a.b", path: "/a/b", interface: "a.b.C" };

    /// An incoming message: a call's bytes with another type and other fields.
    fn incoming(kind: u8, fields: Vec<(u8, Value)>, body: &[Value]) -> Vec<u8> {
        let mut content = Vec::new();
        body.iter().for_each(|value| value.write(&mut content));
        let mut fields = fields;
        fields.push((field::SIGNATURE, Value::Signature(signature(body))));
        let fields = fields.into_iter().map(|(code, value)| Value::Struct(vec![Value::Byte(code), variant(value)]));
        let mut out = call(&MANAGER, "x", &[], 1)[..4].to_vec();
        out[1] = kind;
        out.extend((content.len() as u32).to_ne_bytes());
        out.extend(9_u32.to_ne_bytes());
        Value::Array("(yv)".into(), fields.collect()).write(&mut out);
        pad(&mut out, 8);
        out.extend(content);
        out
    }

    #[test]
    fn a_call_has_the_bytes_of_the_specification() {
        let bytes = call(&MANAGER, "Do", &[Value::text("x")], 3);
        let mut wanted = b"l\x01\0\x01\x06\0\0\0\x03\0\0\0".to_vec();
        wanted.extend(b"\x47\0\0\0\x01\x01o\0\x04\0\0\0/a/b\0\0\0\0".iter());
        wanted.extend(b"\x02\x01s\0\x05\0\0\0a.b.C\0\0\0\x03\x01s\0\x02\0\0\0Do\0\0\0\0\0\0".iter());
        wanted.extend(b"\x06\x01s\0\x03\0\0\0a.b\0\0\0\0\0\x08\x01g\0\x01s\0\0".iter());
        wanted.extend(b"\x01\0\0\0x\0");
        let at = bytes.iter().zip(&wanted).position(|(one, other)| one != other);
        assert_eq!((at, bytes.len()), (None, wanted.len()), "{bytes:x?}");
    }

    #[test]
    fn answers_and_signals_are_told_apart() {
        let answer = incoming(2, vec![(field::REPLY_SERIAL, Value::U32(3))], &[Value::Path("/job/1".into())]);
        let wanted = Message::Return { serial: 3, body: vec![Value::Path("/job/1".into())] };
        assert_eq!(parse(&answer, ""), Parsed::Message(wanted, answer.len()));
        for length in 0..answer.len() {
            assert_eq!(parse(&answer[..length], ""), Parsed::Incomplete, "cut at {length}");
        }
        let fields = vec![(field::REPLY_SERIAL, Value::U32(4)), (field::ERROR_NAME, Value::text("a.Exists"))];
        let error = incoming(3, fields, &[Value::text("it does")]);
        let wanted = Message::Error { serial: 4, name: "a.Exists".into(), text: "it does".into() };
        assert_eq!(parse(&error, ""), Parsed::Message(wanted, error.len()));
        let signal = incoming(4, vec![(field::MEMBER, Value::text("Gone"))], &[Value::U32(1)]);
        let wanted = Message::Signal { member: "Gone".into(), body: vec![Value::U32(1)] };
        assert_eq!(parse(&signal, "Gone"), Parsed::Message(wanted, signal.len()));
        assert_eq!(parse(&signal, "Else"), Parsed::Message(Message::Other, signal.len()));
    }

    #[test]
    fn nonsense_is_refused_and_not_waited_for() {
        let mut huge = incoming(2, vec![], &[]);
        huge[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(parse(&huge, ""), Parsed::Nonsense);
        assert_eq!(parse(b"HTTP/1.1 400 Bad Request", ""), Parsed::Nonsense);
        let mut torn = incoming(2, vec![(field::REPLY_SERIAL, Value::U32(3))], &[]);
        torn[18] = b'?';
        assert_eq!(parse(&torn, ""), Parsed::Nonsense);
    }
}
