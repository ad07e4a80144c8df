//! The stack machine that a pickle is a program for.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::bytes::{Cursor, Fault, shown};
use crate::dialect::Dialect;
use crate::value::Value;

/// The most objects that a pickle may put on the stack or remember; the largest file of interest has 150,000.
const MAX_OBJECTS: usize = 1 << 20;

/// A read pickle.
#[derive(Debug)]
pub struct Pickled<'a, X> {
    /// Every object, in the order in which they were made.
    pub values: Vec<Value<'a, X>>,
    /// Which of them is the result.
    pub root: usize,
    /// How many bytes the pickle has.
    pub length: usize,
}

impl<'a, X> Pickled<'a, X> {
    /// The result.
    pub fn root(&self) -> &Value<'a, X> {
        &self.values[self.root]
    }
}

/// Reads the pickle at the beginning of `bytes`.
///
/// # Errors
/// When the bytes end too early, hold an opcode or name a function that is refused, or do not fit together.
pub fn load<'a, D: Dialect<'a>>(bytes: &'a [u8], dialect: &mut D) -> Result<Pickled<'a, D::Own>, Fault> {
    let (input, values, stack, marks, memo) = (Cursor::new(bytes), Vec::new(), Vec::new(), Vec::new(), HashMap::new());
    Machine { dialect, input, at: 0, values, stack, marks, memo, pushed: 0, made: 0 }.run()
}

/// A pickle being read.
struct Machine<'a, 'd, D: Dialect<'a>> {
    dialect: &'d mut D,
    input: Cursor<'a>,
    /// Where the current opcode is.
    at: usize,
    /// Every object made so far; all else refers to them by place.
    values: Vec<Value<'a, D::Own>>,
    stack: Vec<usize>,
    /// How high the stack was when each of the open marks was set.
    marks: Vec<usize>,
    memo: HashMap<u32, usize>,
    /// How many objects were put on the stack in all.
    pushed: usize,
    /// How many bytes calls made.
    made: usize,
}

impl<'a, D: Dialect<'a>> Machine<'a, '_, D> {
    /// Reads to the end of the pickle.
    fn run(mut self) -> Result<Pickled<'a, D::Own>, Fault> {
        loop {
            self.at = self.input.place;
            match self.input.byte()? {
                b'.' => {
                    let root = self.pop()?;
                    return Ok(Pickled { values: self.values, root, length: self.input.place });
                }
                opcode => match self.constant(opcode)? {
                    Some(value) => self.push_new(value)?,
                    None => self.act(opcode)?,
                },
            }
        }
    }

    /// A fault at the current opcode.
    fn fault(&self, reason: impl std::fmt::Display) -> Fault {
        Fault::at(self.at, reason)
    }

    /// What an opcode pushes that only reads a value; `None` for other opcodes.
    fn constant(&mut self, opcode: u8) -> Result<Option<Value<'a, D::Own>>, Fault> {
        let input = &mut self.input;
        let value = match opcode {
            b'N' => Value::None,
            0x88 => Value::Int(1),
            0x89 => Value::Int(0),
            b'K' => Value::Int(input.byte()?.into()),
            b'M' => Value::Int(u16::from_le_bytes(input.array()?).into()),
            b'J' => Value::Int(i32::from_le_bytes(input.array()?).into()),
            b'I' | b'L' => self.decimal()?.map_or(Value::Wide, Value::Int),
            0x8a => self.long()?.map_or(Value::Wide, Value::Int),
            b'G' => input.take(8).map(|_| Value::Float)?,
            b'F' => input.line().map(|_| Value::Float)?,
            b'U' | b'C' | b'T' | b'B' | 0x8e | 0x96 => Value::Bytes(self.counted(opcode)?.into()),
            b'X' | 0x8c | 0x8d => Value::Text(self.text(opcode)?.into()),
            b'S' => Value::Bytes(self.quoted()?),
            b'V' => Value::Text(self.escaped_text()?.into()),
            b']' => Value::List(Vec::new()),
            0x8f => Value::Set(Vec::new()),
            b'}' => Value::Dict(Vec::new()),
            b')' => Value::Tuple(Vec::new()),
            b'c' => Value::Own(self.global()?),
            _ => return Ok(None),
        };
        Ok(Some(value))
    }

    /// Carries out an opcode that works on the stack or the memo.
    fn act(&mut self, opcode: u8) -> Result<(), Fault> {
        match opcode {
            // Protocol number and frame length: they announce what can be seen anyway.
            0x80 => self.input.take(1).map(drop),
            0x95 => self.input.take(8).map(drop),
            b'(' => self.mark(),
            b'l' => self.collect(Value::List),
            b't' => self.collect(Value::Tuple),
            0x91 => self.collect(Value::Set),
            b'd' => self.collect_dict(),
            0x85..=0x87 => self.tuple(usize::from(opcode - 0x84)),
            b'a' => self.pop().and_then(|item| self.append(&[item])),
            b'e' | 0x90 => self.pop_to_mark().and_then(|items| self.append(&items)),
            b's' => self.pop_many(2).and_then(|pair| self.set_items(&pair)),
            b'u' => self.pop_to_mark().and_then(|pairs| self.set_items(&pairs)),
            b'p' | b'q' | b'r' | 0x94 => self.remember(opcode),
            b'g' | b'h' | b'j' => self.recall(opcode),
            0x93 => self.stack_global(),
            b'0' => self.pop().map(drop),
            b'1' => self.pop_to_mark().map(drop),
            b'2' => self.top_id().and_then(|id| self.push(id)),
            b'R' => self.pop_many(2).and_then(|call| self.call(call[0], call[1])),
            0x81 if D::HAS_OBJECTS => self.pop_many(2).and_then(|call| self.call(call[0], call[1])),
            // Arguments by name only ever go to classes that are not carried out.
            0x92 if D::HAS_OBJECTS => self.pop_many(3).and_then(|call| self.call(call[0], call[1])),
            b'Q' if D::HAS_OBJECTS => self.persistent(),
            b'b' => self.build(),
            _ => Err(self.fault(format!("opcode {opcode:#04x} makes what no such file needs and is refused,"))),
        }
    }

    fn push_new(&mut self, value: Value<'a, D::Own>) -> Result<(), Fault> {
        self.values.push(value);
        self.push(self.values.len() - 1)
    }

    fn push(&mut self, id: usize) -> Result<(), Fault> {
        self.count()?;
        self.stack.push(id);
        Ok(())
    }

    fn mark(&mut self) -> Result<(), Fault> {
        self.count()?;
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn count(&mut self) -> Result<(), Fault> {
        self.pushed += 1;
        let few = self.pushed <= MAX_OBJECTS;
        if few { Ok(()) } else { Err(self.fault(format!("more than {MAX_OBJECTS} objects"))) }
    }

    fn pop(&mut self) -> Result<usize, Fault> {
        self.pop_many(1).map(|ids| ids[0])
    }

    /// The last `count` objects, which must have been put on the stack after the last mark.
    fn pop_many(&mut self, count: usize) -> Result<Vec<usize>, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= floor => Ok(self.stack.split_off(start)),
            _ => Err(self.fault("the stack holds too few objects")),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<usize>, Fault> {
        match self.marks.pop() {
            Some(start) => Ok(self.stack.split_off(start)),
            None => Err(self.fault("there is no mark on the stack")),
        }
    }

    fn collect(&mut self, make: fn(Vec<usize>) -> Value<'a, D::Own>) -> Result<(), Fault> {
        let items = self.pop_to_mark()?;
        self.push_new(make(items))
    }

    fn collect_dict(&mut self) -> Result<(), Fault> {
        let pairs = self.pop_to_mark()?;
        self.push_new(Value::Dict(Vec::new()))?;
        self.set_items(&pairs)
    }

    fn tuple(&mut self, count: usize) -> Result<(), Fault> {
        let items = self.pop_many(count)?;
        self.push_new(Value::Tuple(items))
    }

    /// The last object on the stack, which stays there.
    fn top_id(&mut self) -> Result<usize, Fault> {
        let id = self.pop()?;
        self.stack.push(id);
        Ok(id)
    }

    fn append(&mut self, items: &[usize]) -> Result<(), Fault> {
        let id = self.top_id()?;
        match &mut self.values[id] {
            Value::List(list) | Value::Set(list) => list.extend(items),
            Value::Own(object) if self.dialect.swallows_items(object) => {}
            _ => return Err(self.fault("items for something other than a list")),
        }
        Ok(())
    }

    fn set_items(&mut self, pairs: &[usize]) -> Result<(), Fault> {
        if !pairs.len().is_multiple_of(2) {
            return Err(self.fault("a key without a value"));
        }
        let id = self.top_id()?;
        match &mut self.values[id] {
            Value::Dict(dict) => dict.extend(pairs.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            Value::Own(object) if self.dialect.swallows_items(object) => {}
            _ => return Err(self.fault("keys for something other than a dict")),
        }
        Ok(())
    }

    fn remember(&mut self, opcode: u8) -> Result<(), Fault> {
        let name = match opcode {
            0x94 => self.memo.len() as u32,
            opcode => self.memo_name(opcode.to_ascii_lowercase())?,
        };
        let id = self.top_id()?;
        self.memo.insert(name, id);
        let few = self.memo.len() <= MAX_OBJECTS;
        if few { Ok(()) } else { Err(self.fault(format!("more than {MAX_OBJECTS} remembered objects"))) }
    }

    fn recall(&mut self, opcode: u8) -> Result<(), Fault> {
        let name = self.memo_name(opcode)?;
        match self.memo.get(&name) {
            Some(&id) => self.push(id),
            None => Err(self.fault(format!("object {name} is used before it is made"))),
        }
    }

    /// The number of a remembered object, in the three ways it is written.
    fn memo_name(&mut self, opcode: u8) -> Result<u32, Fault> {
        match opcode {
            b'q' | b'h' => self.input.byte().map(u32::from),
            b'r' | b'j' => self.input.array().map(u32::from_le_bytes),
            _ => {
                let name = self.decimal()?.and_then(|name| name.try_into().ok());
                name.ok_or_else(|| self.fault("a number out of range"))
            }
        }
    }

    /// A whole number in decimal digits, as protocol 0 writes it; a long one of Python 2 ends in `L`. `None` beyond 64
    /// bits.
    fn decimal(&mut self) -> Result<Option<i64>, Fault> {
        let line = self.input.line()?;
        let digits = line.strip_suffix(b"L").unwrap_or(line);
        match std::str::from_utf8(digits).ok().map(str::parse) {
            Some(Ok(number)) => Ok(Some(number)),
            _ if is_whole(digits) => Ok(None),
            _ => Err(self.fault(format!("`{}` is no whole number", shown(line)))),
        }
    }

    /// A whole number of a stated number of bytes, lowest first, in two's complement; `None` beyond 64 bits.
    fn long(&mut self) -> Result<Option<i64>, Fault> {
        let count = self.input.byte()?;
        let bytes = self.input.take(count.into())?;
        if bytes.len() > 8 {
            return Ok(None);
        }
        let sign = bytes.last().map_or(0, |&byte| (byte as i8 >> 7) as u8);
        let mut number = [sign; 8];
        number[..bytes.len()].copy_from_slice(bytes);
        Ok(Some(i64::from_le_bytes(number)))
    }

    /// Bytes after their count, which has one, four or eight bytes itself.
    fn counted(&mut self, opcode: u8) -> Result<&'a [u8], Fault> {
        let count = match opcode {
            b'U' | b'C' | 0x8c => self.input.byte()?.into(),
            b'T' | b'B' | b'X' => u32::from_le_bytes(self.input.array()?).into(),
            _ => u64::from_le_bytes(self.input.array()?),
        };
        let count = usize::try_from(count).map_err(|_| self.fault("a length beyond all memory"))?;
        self.input.take(count)
    }

    fn text(&mut self, opcode: u8) -> Result<&'a str, Fault> {
        let bytes = self.counted(opcode)?;
        std::str::from_utf8(bytes).map_err(|_| self.fault("a text that is not UTF-8"))
    }

    /// A string of Python 2 between quotes, as its `repr` writes it.
    fn quoted(&mut self) -> Result<Cow<'a, [u8]>, Fault> {
        let line = self.input.line()?;
        let inner = match line {
            [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
            _ => return Err(self.fault("a string without quotes")),
        };
        unescape(inner).ok_or_else(|| self.fault("an unknown escape in a string"))
    }

    /// A text of protocol 0: Latin-1 but for `\uXXXX` and `\UXXXXXXXX`.
    fn escaped_text(&mut self) -> Result<String, Fault> {
        let mut rest = self.input.line()?;
        let mut text = String::new();
        while let Some((&byte, after)) = rest.split_first() {
            let digits = match rest {
                [b'\\', b'u', ..] => 4,
                [b'\\', b'U', ..] => 8,
                _ => 0,
            };
            let code = match digits {
                0 => Some(u32::from(byte)),
                _ => rest.get(2..2 + digits).and_then(hexadecimal),
            };
            rest = if digits == 0 { after } else { rest.get(2 + digits..).unwrap_or_default() };
            let character = code.and_then(char::from_u32);
            text.push(character.ok_or_else(|| self.fault("an unknown escape in a text"))?);
        }
        Ok(text)
    }

    /// The function named by the next two lines.
    fn global(&mut self) -> Result<D::Own, Fault> {
        let (module, name) = (self.input.line()?, self.input.line()?);
        self.dialect.named(module, name).map_err(|reason| self.fault(reason))
    }

    /// The function named by the last two objects.
    fn stack_global(&mut self) -> Result<(), Fault> {
        let names = self.pop_many(2)?;
        let named = match [&self.values[names[0]], &self.values[names[1]]] {
            [Value::Text(module), Value::Text(name)] => self.dialect.named(module.as_bytes(), name.as_bytes()),
            _ => return Err(self.fault("a function whose name is no text")),
        };
        let named = named.map_err(|reason| self.fault(reason))?;
        self.push_new(Value::Own(named))
    }

    /// Calls a function with a tuple of arguments.
    fn call(&mut self, function: usize, arguments: usize) -> Result<(), Fault> {
        let made = match [&self.values[function], &self.values[arguments]] {
            [Value::Own(function), Value::Tuple(arguments)] => self.dialect.call(function, arguments, &self.values),
            _ => return Err(self.fault("a call of something that is no function")),
        };
        let value = made.map_err(|reason| self.fault(reason))?;
        if let Value::Bytes(bytes) = &value {
            self.made += bytes.len();
            if self.made > self.input.whole().len() {
                return Err(self.fault("more encoded bytes than the file has"));
            }
        }
        self.push_new(value)
    }

    /// Fills the object below the state on the stack.
    fn build(&mut self) -> Result<(), Fault> {
        let state = self.pop()?;
        let id = self.top_id()?;
        if let Some(filled) = self.dialect.filled(id, state, &self.values).map_err(|reason| self.fault(reason))? {
            self.values[id] = filled;
        }
        Ok(())
    }

    /// Looks up what is kept outside of the pickle.
    fn persistent(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        let value = self.dialect.persistent(id, &self.values).map_err(|reason| self.fault(reason))?;
        self.push_new(value)
    }
}

fn is_whole(digits: &[u8]) -> bool {
    let digits = digits.strip_prefix(b"-").unwrap_or(digits);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

/// Undoes the escapes of a Python 2 `repr`; `None` for one that it does not write.
fn unescape(mut rest: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !rest.contains(&b'\\') {
        return Some(rest.into());
    }
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, length) = match (byte, after) {
            (b'\\', [b'x', high, low, ..]) => (hexadecimal(&[*high, *low])? as u8, 4),
            (b'\\', [b'n', ..]) => (b'\n', 2),
            (b'\\', [b'r', ..]) => (b'\r', 2),
            (b'\\', [b't', ..]) => (b'\t', 2),
            (b'\\', [mark @ (b'\\' | b'\'' | b'"'), ..]) => (*mark, 2),
            (b'\\', _) => return None,
            _ => (byte, 1),
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    Some(bytes.into())
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    let value = |number: u32, &digit: &u8| Some(number << 4 | char::from(digit).to_digit(16)?);
    digits.iter().try_fold(0, value)
}
