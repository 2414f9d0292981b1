//! GVariant's text format (GLib, "GVariant Text Format"), as far as unit properties need it: how the annotations
//! `org.systemd.property.*` write their values.

use super::value::{MAX_SIGNATURE, Value, types};
use crate::error::{Error, Result};

/// How deep values may be nested, with the words for their types.
const MAX_DEPTH: usize = 16;

/// Reads one value. A number without a type is an int32, or a double if it has a fraction.
pub fn parse(text: &str) -> Result<Value> {
    let mut parser = Parser { rest: text.trim(), depth: 0 };
    let value = parser.value(None).and_then(|value| match parser.rest.trim_start() {
        "" if value.signature().len() > MAX_SIGNATURE => Err("it has too many members".into()),
        "" => Ok(value),
        left => Err(format!("{left:?} is left over")),
    });
    value.map_err(|why| {
        Error::new(format!("{text:?} is no value: {why}"))
            .hint("write it as GVariant text: 'text', true, uint64 5, ['a', 'b']")
    })
}

/// Words that stand before a value for its type.
const KEYWORDS: &[(&str, &str)] = &[
    ("boolean", "b"),
    ("byte", "y"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
];

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

type Parsed<T> = std::result::Result<T, String>;

impl<'a> Parser<'a> {
    fn value(&mut self, expected: Option<&str>) -> Parsed<Value> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("it is nested too deep".into());
        }
        let value = self.any(expected);
        self.depth -= 1;
        value
    }

    fn any(&mut self, expected: Option<&str>) -> Parsed<Value> {
        self.rest = self.rest.trim_start();
        match self.rest.chars().next() {
            None => Err("a value is missing".into()),
            Some('@') => {
                self.rest = &self.rest[1..];
                let signature = self.until(char::is_whitespace);
                if types(signature).is_none_or(|types| types.len() != 1) {
                    return Err(format!("{signature:?} is no type"));
                }
                self.value(Some(signature))
            }
            Some('[') => self.array(expected),
            Some('(') => self.tuple(expected),
            Some(quote @ ('\'' | '"')) => {
                let text = self.quoted(quote)?;
                if expected.is_some_and(|kind| kind != "s") {
                    return Err(format!("{text:?} is a string"));
                }
                Ok(Value::Text(text))
            }
            Some(_) => self.word(expected),
        }
    }

    /// A keyword with its value, true, false, or a number.
    fn word(&mut self, expected: Option<&str>) -> Parsed<Value> {
        let word = self.until(|c: char| c.is_whitespace() || ",])".contains(c));
        if let Some((_, kind)) = KEYWORDS.iter().find(|(keyword, _)| *keyword == word) {
            return self.value(Some(kind));
        }
        match (word, expected) {
            ("true" | "false", None | Some("b")) => Ok(Value::Bool(word == "true")),
            _ => number(word, expected),
        }
    }

    fn array(&mut self, expected: Option<&str>) -> Parsed<Value> {
        let element = match expected.map(|kind| kind.strip_prefix('a')) {
            Some(None) => return Err("a list is not what the type says".into()),
            element => element.flatten().map(str::to_owned),
        };
        // The type of the first holds for all.
        let values = self.list(']', |before| element.clone().or_else(|| before.first().map(Value::signature)))?;
        let Some(kind) = element.or_else(|| values.first().map(Value::signature)) else {
            return Err("an empty list needs its type, as in @as []".into());
        };
        if values.iter().any(|value| value.signature() != kind) {
            return Err("the values of a list have to be of one type".into());
        }
        Ok(Value::Array(kind, values))
    }

    fn tuple(&mut self, expected: Option<&str>) -> Parsed<Value> {
        let wrong = || "a tuple is not what the type says".to_owned();
        let members = match expected.map(|kind| kind.strip_prefix('(').and_then(|kind| kind.strip_suffix(')'))) {
            Some(members) => Some(members.and_then(types).ok_or_else(wrong)?),
            None => None,
        };
        let kind = |index: usize| members.as_ref().and_then(|list| list.get(index)).map(|kind| (*kind).to_owned());
        let tuple = Value::Struct(self.list(')', |before| kind(before.len()))?);
        if expected.is_some_and(|kind| kind != tuple.signature()) || tuple.signature() == "()" {
            return Err(wrong());
        }
        Ok(tuple)
    }

    /// The values up to `end`, separated by commas; `kind` tells the type of the next by those before it.
    fn list(&mut self, end: char, kind: impl Fn(&[Value]) -> Option<String>) -> Parsed<Vec<Value>> {
        self.rest = &self.rest[1..];
        let mut values = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            if let Some(rest) = self.rest.strip_prefix(end) {
                self.rest = rest;
                return Ok(values);
            }
            if !values.is_empty() {
                self.rest = self.rest.strip_prefix(',').ok_or_else(|| format!("a comma or {end:?} is missing"))?;
                // GVariant writes a tuple of one as (1,).
                if self.rest.trim_start().starts_with(end) {
                    continue;
                }
            }
            values.push(self.value(kind(&values).as_deref())?);
        }
    }

    fn quoted(&mut self, quote: char) -> Parsed<String> {
        let mut text = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((place, character)) = characters.next() {
            let escaped = match character {
                '\\' => characters.next().map(|(_, character)| character).unwrap_or_default(),
                '\0' => break,
                _ if character == quote => {
                    self.rest = &self.rest[place + 1..];
                    return Ok(text);
                }
                _ => {
                    text.push(character);
                    continue;
                }
            };
            text.push(match escaped {
                'n' => '\n',
                't' => '\t',
                '\\' | '\'' | '"' => escaped,
                _ => return Err(format!("the escape \\{escaped} is not known")),
            });
        }
        Err("a string has no end".into())
    }

    fn until(&mut self, is_end: impl Fn(char) -> bool) -> &'a str {
        let (word, rest) = self.rest.split_at(self.rest.find(is_end).unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }
}

fn number(word: &str, expected: Option<&str>) -> Parsed<Value> {
    let is_double = || word.contains(['.', 'e', 'E']) && !word.contains(['x', 'X']);
    let kind = expected.unwrap_or_else(|| if is_double() { "d" } else { "i" });
    let value = match kind {
        "y" => integer(word).map(Value::Byte),
        "i" => integer(word).map(Value::I32),
        "u" => integer(word).map(Value::U32),
        "x" => integer(word).map(Value::I64),
        "t" => integer(word).map(Value::U64),
        "d" => word.parse().ok().map(Value::Double),
        _ => None,
    };
    value.ok_or_else(|| format!("{word:?} is no value of type {kind:?}"))
}

/// Decimal, octal with a leading 0, or hexadecimal with 0x.
fn integer<T: TryFrom<i128>>(word: &str) -> Option<T> {
    let (negative, digits) = word.strip_prefix('-').map_or((false, word), |digits| (true, digits));
    let digits = if negative { digits } else { digits.strip_prefix('+').unwrap_or(digits) };
    let (digits, base) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(digits, base).ok()?);
    T::try_from(if negative { -magnitude } else { magnitude }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Value {
        Value::Array("s".into(), texts.iter().copied().map(Value::text).collect())
    }

    #[test]
    fn values_as_engines_write_them() {
        for (text, wanted) in [
            ("true", Value::Bool(true)),
            ("'inactive-or-failed'", Value::text("inactive-or-failed")),
            ("\"it's\"", Value::text("it's")),
            (r"'a\'b\\c\n'", Value::text("a'b\\c\n")),
            ("uint64 10000000", Value::U64(10_000_000)),
            ("@t 5", Value::U64(5)),
            ("int64 -1", Value::I64(-1)),
            ("30", Value::I32(30)),
            ("-0x10", Value::I32(-16)),
            ("byte 017", Value::Byte(15)),
            ("1.5", Value::Double(1.5)),
            ("double 2", Value::Double(2.0)),
            ("['crio.service']", texts(&["crio.service"])),
            (" [ 'a' , \"b\" ] ", texts(&["a", "b"])),
            ("@as []", texts(&[])),
            ("[uint32 1, 2]", Value::Array("u".into(), vec![Value::U32(1), Value::U32(2)])),
            (
                "[('/dev/null', 'rw')]",
                Value::Array("(ss)".into(), vec![Value::Struct(vec![Value::text("/dev/null"), Value::text("rw")])]),
            ),
            (
                "@a(st) [('8:0', 100)]",
                Value::Array("(st)".into(), vec![Value::Struct(vec![Value::text("8:0"), Value::U64(100)])]),
            ),
        ] {
            assert_eq!(parse(text).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_value_is_an_error() {
        let (nested, words) = ("[".repeat(10_000), format!("{}1", "byte ".repeat(1 << 20)));
        // A message has one byte for the length of a type.
        let many = format!("({})", "1, ".repeat(300));
        for text in [
            "",
            "'",
            "'a",
            "\"a'",
            "'a' b",
            "maybe",
            "tru",
            "uint64",
            "uint64 -1",
            "byte 256",
            "int32 3000000000",
            "0x",
            "--1",
            "-+1",
            "[",
            "[]",
            "[1, 'a']",
            "[1 2]",
            "[1,,2]",
            "()",
            "@as ['a', 1]",
            "@s 1",
            "@b 'true'",
            "@a(ss) [('a', 1)]",
            "@a(s) [('a', 'b')]",
            "string 5",
            r"'\q'",
            "'a\0b'",
            "nan?",
            "é",
            "@",
            "@é 1",
            "@a? []",
            "@asas []",
            "@a(sv\u{5}) []",
            &nested,
            &words,
            &many,
        ] {
            assert!(parse(text).is_err(), "{text:.40?}: {:?}", parse(text));
        }
    }
}
