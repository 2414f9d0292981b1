//! Where in a JSON text an error is. serde tells only the line and column; walking to them again costs nothing on the
//! way that succeeds.

/// As deep as serde reads: what is deeper is no part of a configuration.
const MAX_DEPTH: usize = 128;

/// A step on the way to a value.
enum Step<'a> {
    /// By name, if that has been read.
    Member(Option<&'a [u8]>),
    Item(usize),
}

/// The way to the value that is being read.
#[derive(Default)]
struct Trail<'a> {
    steps: Vec<Step<'a>>,
    /// How many brackets are open beyond [`MAX_DEPTH`].
    deeper: usize,
}

impl<'a> Trail<'a> {
    fn enter(&mut self, step: Step<'a>) {
        if self.steps.len() < MAX_DEPTH { self.steps.push(step) } else { self.deeper += 1 }
    }

    fn leave(&mut self) {
        match self.deeper {
            0 => drop(self.steps.pop()),
            _ => self.deeper -= 1,
        }
    }

    /// The last step, where it is among those that are kept.
    fn last(&mut self) -> Option<&mut Step<'a>> {
        if self.deeper == 0 { self.steps.last_mut() } else { None }
    }

    fn string(&mut self, text: &'a [u8]) {
        if let Some(Step::Member(name @ None)) = self.last() {
            *name = Some(text);
        }
    }

    fn next(&mut self) {
        match self.last() {
            Some(Step::Member(name)) => *name = None,
            Some(Step::Item(index)) => *index += 1,
            None => {}
        }
    }

    /// As RFC 6901 writes it.
    fn pointer(&self) -> String {
        let escaped = |name: &[u8]| String::from_utf8_lossy(name).replace('~', "~0").replace('/', "~1");
        let part = |step: &Step| match step {
            Step::Member(None) => String::new(),
            Step::Member(Some(name)) => format!("/{}", escaped(name)),
            Step::Item(index) => format!("/{index}"),
        };
        self.steps.iter().map(part).collect()
    }
}

/// The JSON pointer of the value that begins or ends at `line` and `column` (from 1, in bytes).
pub fn at(bytes: &[u8], line: usize, column: usize) -> String {
    let lines_before: usize =
        bytes.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    let end = (lines_before + column).min(bytes.len());
    let mut trail = Trail::default();
    let mut position = 0;
    while position < end {
        match bytes[position] {
            b'"' => {
                let from = position + 1;
                position = end_of_string(bytes, from);
                trail.string(bytes.get(from..position).unwrap_or_default());
            }
            b'{' => trail.enter(Step::Member(None)),
            b'[' => trail.enter(Step::Item(0)),
            b',' if position + 1 < end => trail.next(),
            b'}' | b']' => trail.leave(),
            _ => {}
        }
        position += 1;
    }
    trail.pointer()
}

/// Where the quote is that ends the string beginning at `from`, or the end of everything.
fn end_of_string(bytes: &[u8], from: usize) -> usize {
    let mut position = from;
    while position < bytes.len() && bytes[position] != b'"' {
        position += if bytes[position] == b'\\' { 2 } else { 1 };
    }
    position.min(bytes.len())
}
