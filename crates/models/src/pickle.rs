//! Python's pickle, read as data: nothing in it is ever run, and no input takes more memory than a few times its length.
//!
//! Values refer to each other by number, so that what a stream repeats is not copied, and nothing here is recursive.
//! [Python's pickletools; protocols 0 to 5 as far as `torch.save` writes them]

use candle_core::{Result, bail};
use std::collections::HashMap;

/// A value's number in its [`Pickle`].
pub(crate) type Id = usize;

/// Opcodes that any pickle may have, some ten thousands of tensors; and bytes of a file for each that it may have beyond.
/// An opcode of one byte can take a hundred bytes of memory, and weights have few for their length.
const ALWAYS_READ: usize = 1 << 21;
const BYTES_AN_OPCODE: usize = 128;

/// What a pickle is made of.
#[derive(Debug)]
pub(crate) enum Value {
    /// None, a float, bytes: what weights do not need.
    Other,
    Int(i64),
    Text(String),
    /// `module.name`.
    Class(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function called with a tuple: it is not called here.
    Call(Id, Id),
    /// What is stored outside the pickle, under a key.
    Persistent(Id),
}

/// The values of one pickle.
pub(crate) struct Pickle {
    values: Vec<Value>,
    /// The value that the pickle stands for.
    pub top: Id,
}

impl Pickle {
    /// The value with this number.
    pub fn get(&self, id: Id) -> &Value {
        &self.values[id]
    }

    /// Reads a pickle of a file of `length` bytes, up to its STOP; what follows is ignored.
    ///
    /// Errors in a few words, without the name of the file.
    pub fn parse(bytes: &[u8], length: usize) -> Result<Self> {
        let mut machine = Machine { rest: bytes, values: vec![], stack: vec![], marks: vec![], memo: HashMap::new() };
        let mut left = ALWAYS_READ.max(length / BYTES_AN_OPCODE);
        while machine.step()? {
            left -= 1;
            if left == 0 {
                bail!("the pickle has more parts than weights of that size need; save the weights alone");
            }
        }
        let top = machine.pop()?;
        Ok(Self { values: machine.values, top })
    }
}

struct Machine<'a> {
    rest: &'a [u8],
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(n) else { bail!("the pickle is cut short") };
        self.rest = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<u64> {
        Ok(self.take(N)?.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)))
    }

    /// What follows a length of N bytes.
    fn counted<const N: usize>(&mut self) -> Result<&'a [u8]> {
        let n = self.number::<N>()?;
        self.take(usize::try_from(n).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Result<String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n');
        let Some(end) = end else { bail!("the pickle is cut short") };
        let line = self.take(end + 1)?;
        Ok(String::from_utf8_lossy(&line[..end]).trim_end_matches('\r').to_string())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn text(&mut self, bytes: &[u8]) {
        self.push(Value::Text(String::from_utf8_lossy(bytes).into_owned()));
    }

    fn pop(&mut self) -> Result<Id> {
        // what lies below a mark belongs to others
        match self.stack.len() > self.marks.last().copied().unwrap_or(0) {
            true => Ok(self.stack.pop().unwrap_or_default()),
            false => bail!("the pickle takes a value that it has not"),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let Some(mark) = self.marks.pop() else { bail!("the pickle ends a list that it has not begun") };
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, n: usize) -> Result<()> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn top(&self) -> Result<Id> {
        match self.stack.last() {
            Some(&id) => Ok(id),
            None => bail!("the pickle takes a value that it has not"),
        }
    }

    fn append(&mut self, mut items: Vec<Id>) -> Result<()> {
        match self.top().map(|id| &mut self.values[id])? {
            Value::List(list) => list.append(&mut items),
            _ => bail!("the pickle appends to what is no list"),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<()> {
        let (pairs, []) = items.as_chunks::<2>() else { bail!("the pickle sets a key without a value") };
        match self.top().map(|id| &mut self.values[id])? {
            Value::Dict(dict) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            _ => bail!("the pickle sets keys in what is no dict"),
        }
        Ok(())
    }

    fn call(&mut self) -> Result<()> {
        let (args, class) = (self.pop()?, self.pop()?);
        let dict = matches!(&self.values[class], Value::Class(name) if name == "collections.OrderedDict");
        self.push(if dict { Value::Dict(vec![]) } else { Value::Call(class, args) });
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<()> {
        match self.memo.get(&(key as u32)) {
            Some(&id) => self.stack.push(id),
            None => bail!("the pickle recalls a value that it has not"),
        }
        Ok(())
    }

    fn remember(&mut self, key: u64) -> Result<()> {
        let id = self.top()?;
        self.memo.insert(key as u32, id);
        Ok(())
    }

    /// Does one opcode; false at the end.
    fn step(&mut self) -> Result<bool> {
        match self.number::<1>()? as u8 {
            b'.' => return Ok(false),                                                               // STOP
            0x80 => drop(self.take(1)?),                                                            // PROTO
            0x95 => drop(self.take(8)?),                                                            // FRAME
            b'(' => self.marks.push(self.stack.len()),                                              // MARK
            b'0' => drop(self.pop()?),                                                              // POP
            b'N' | 0x88 | 0x89 => self.push(Value::Other), // NONE, NEWTRUE, NEWFALSE
            b'G' => self.take(8).map(|_| self.push(Value::Other))?, // BINFLOAT
            b'K' => self.number::<1>().map(|n| self.push(Value::Int(n as i64)))?, // BININT1
            b'M' => self.number::<2>().map(|n| self.push(Value::Int(n as i64)))?, // BININT2
            b'J' => self.number::<4>().map(|n| self.push(Value::Int(i64::from(n as u32 as i32))))?, // BININT
            0x8a => {
                // LONG1: two's complement
                let bytes = self.counted::<1>()?;
                let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
                let start = if negative { -1 } else { 0 };
                let value = bytes.iter().rev().fold(start, |n: i64, &byte| n << 8 | i64::from(byte));
                self.push(if bytes.len() <= 8 { Value::Int(value) } else { Value::Other });
            }
            b'X' => self.counted::<4>().map(|bytes| self.text(bytes))?, // BINUNICODE
            0x8c => self.counted::<1>().map(|bytes| self.text(bytes))?, // SHORT_BINUNICODE
            0x8d => self.counted::<8>().map(|bytes| self.text(bytes))?, // BINUNICODE8
            b'U' => self.counted::<1>().map(|bytes| self.text(bytes))?, // SHORT_BINSTRING
            b'T' => self.counted::<4>().map(|bytes| self.text(bytes))?, // BINSTRING
            b'C' => self.counted::<1>().map(|_| self.push(Value::Other))?, // SHORT_BINBYTES
            b'B' => self.counted::<4>().map(|_| self.push(Value::Other))?, // BINBYTES
            b'c' => {
                // GLOBAL
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Class(format!("{module}.{name}")));
            }
            0x93 => {
                // STACK_GLOBAL
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (&self.values[module], &self.values[name]) else {
                    bail!("the pickle names a class by what is no text")
                };
                // names are short; a text may be recalled often
                if module.len() + name.len() > 256 {
                    bail!("the pickle names a class with more than 256 letters");
                }
                self.push(Value::Class(format!("{module}.{name}")));
            }
            b')' => self.push(Value::Tuple(vec![])), // EMPTY_TUPLE
            0x85 => self.tuple(1)?,                  // TUPLE1
            0x86 => self.tuple(2)?,                  // TUPLE2
            0x87 => self.tuple(3)?,                  // TUPLE3
            b't' => self.pop_to_mark().map(|items| self.push(Value::Tuple(items)))?, // TUPLE
            b']' => self.push(Value::List(vec![])),  // EMPTY_LIST
            b'l' => self.pop_to_mark().map(|items| self.push(Value::List(items)))?, // LIST
            b'a' => self.pop().and_then(|item| self.append(vec![item]))?, // APPEND
            b'e' => self.pop_to_mark().and_then(|items| self.append(items))?, // APPENDS
            b'}' => self.push(Value::Dict(vec![])),  // EMPTY_DICT
            b'd' => {
                // DICT
                let items = self.pop_to_mark()?;
                self.push(Value::Dict(vec![]));
                self.set(&items)?;
            }
            b's' => {
                // SETITEM
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            b'u' => self.pop_to_mark().and_then(|items| self.set(&items))?, // SETITEMS
            b'R' | 0x81 => self.call()?,                                    // REDUCE, NEWOBJ
            b'b' => drop(self.pop()?), // BUILD: the state of an object, which for weights is its version numbers
            b'Q' => self.pop().map(|key| self.push(Value::Persistent(key)))?, // BINPERSID
            b'q' => self.number::<1>().and_then(|key| self.remember(key))?, // BINPUT
            b'r' => self.number::<4>().and_then(|key| self.remember(key))?, // LONG_BINPUT
            0x94 => self.remember(self.memo.len() as u64)?, // MEMOIZE
            b'h' => self.number::<1>().and_then(|key| self.recall(key))?, // BINGET
            b'j' => self.number::<4>().and_then(|key| self.recall(key))?, // LONG_BINGET
            other => bail!("the pickle has the opcode {other:#04x}, which weights do not need"),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dict_of_numbers_and_texts_is_read() -> Result<()> {
        // pickle.dumps({"a": -2, "b": (300, [1, "x"])}, 2), its memo's puts left out but one
        let p =
            Pickle::parse(b"\x80\x02}q\x00(X\x01\0\0\0aJ\xfe\xff\xff\xffX\x01\0\0\0bM\x2c\x01](K\x01U\x01xe\x86u.", 0)?;
        let Value::Dict(pairs) = p.get(p.top) else { panic!() };
        assert_eq!(pairs.len(), 2);
        assert!(matches!(p.get(pairs[0].1), Value::Int(-2)));
        let Value::Tuple(two) = p.get(pairs[1].1) else { panic!() };
        assert!(matches!(p.get(two[0]), Value::Int(300)));
        let Value::List(list) = p.get(two[1]) else { panic!() };
        assert!(matches!(p.get(list[1]), Value::Text(x) if x == "x"));
        Ok(())
    }

    #[test]
    fn damage_is_an_error_and_bombs_stay_small() -> Result<()> {
        for bytes in
            [b"" as &[u8], b".", b"\x80", b"(", b"t.", b"e.", b"h\0.", b"X\xff\xff\xff\xff", b"K", b"Q.", b"(a."]
        {
            assert!(Pickle::parse(bytes, 0).is_err(), "{bytes:?}");
        }
        assert!(Pickle::parse(b"(K\x01e.", 0).is_err()); // below the mark there is nothing
        let mut nested = vec![b'N'; 1];
        nested.extend(std::iter::repeat_n(0x85, 1_000_000)); // tuples of tuples, and so on
        nested.push(b'.');
        assert_eq!(Pickle::parse(&nested, 0)?.values.len(), 1_000_001);
        let mut doubled = b"N".to_vec();
        doubled.extend(b"q\0h\0\x86".repeat(100)); // 2^100 values, were they copied
        doubled.push(b'.');
        assert_eq!(Pickle::parse(&doubled, 0)?.values.len(), 101);
        Ok(())
    }

    /// Each opcode of one byte takes many bytes of memory: there may be as many as weights of the file's size need.
    #[test]
    fn more_opcodes_than_weights_need_are_refused() {
        for one in [&b"N"[..], b"(", b"]", b")", b"N\x94", b"K\x01\x85"] {
            let mut many = b"N".to_vec();
            many.extend(one.repeat(ALWAYS_READ));
            let why = |length| Pickle::parse(&many, length).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(why(many.len()).contains("more parts than weights"), "{}", why(many.len()));
            // a file of many more tensors has room for them: it ends without STOP
            assert!(why(4 * ALWAYS_READ * BYTES_AN_OPCODE).contains("cut short"));
        }
    }
}
