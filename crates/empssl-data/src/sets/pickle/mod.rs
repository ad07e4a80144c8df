//! Reads the pickles that the CIFAR archives for Python hold.
//!
//! The machine is `empssl_pickle`'s, which executes nothing: a fixed list of the functions by which numpy stores an
//! array ([`Global`](numpy::Global)) is carried out here, in Rust, and every other function, class or opcode is refused
//! by its name and place.

mod numpy;

use std::borrow::Cow;

use empssl_pickle::Pickled;
use empssl_pickle::bytes::Fault;

use numpy::{Array, Arrays, Numpy, Value};

/// The longest name of a class, and the most names, that are accepted: a pickle may name one string many times over.
const MAX_NAME: usize = 200;
const MAX_NAMES: usize = 1000;

/// A read pickle that is a dict at its root, as all files of interest are.
pub(crate) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    /// Keys and values of the dict.
    entries: Vec<(usize, usize)>,
}

/// An array of bytes of two axes, its rows one after the other.
pub(crate) struct Matrix<'p> {
    /// The number of rows.
    pub(crate) rows: usize,
    /// The number of bytes of a row.
    pub(crate) columns: usize,
    /// The rows.
    pub(crate) bytes: Cow<'p, [u8]>,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle.
    ///
    /// # Errors
    /// When the bytes end too early, hold an opcode or name a function that is refused, or do not fit together.
    pub(crate) fn load(bytes: &'a [u8]) -> Result<Self, Fault> {
        let Pickled { mut values, root, .. } = empssl_pickle::load(bytes, &mut Arrays)?;
        match std::mem::replace(&mut values[root], Value::None) {
            Value::Dict(entries) => Ok(Self { values, entries }),
            _ => Err(Fault::new("it holds something other than a dict")),
        }
    }

    /// The whole numbers under `key`: a list of them or an array of one axis.
    pub(crate) fn integers(&self, key: &str) -> Result<Vec<i64>, Fault> {
        let numbers = match self.value(key)? {
            Value::List(list) => list.iter().map(|&id| self.values[id].as_integer()).collect(),
            Value::Own(Numpy::Array(array)) => self.array_integers(array),
            _ => None,
        };
        numbers.ok_or_else(|| Fault::new(format!("`{key}` is no list of whole numbers")))
    }

    /// The texts of the list under `key`, which must be as few and short as names of classes are.
    pub(crate) fn names(&self, key: &str) -> Result<Vec<String>, Fault> {
        let names = match self.value(key)? {
            Value::List(list) if list.len() <= MAX_NAMES => list.iter().map(|&id| self.name(id)).collect(),
            _ => None,
        };
        names.ok_or_else(|| Fault::new(format!("`{key}` is no list of names")))
    }

    /// The array of bytes under `key`.
    pub(crate) fn matrix(&self, key: &str) -> Result<Matrix<'_>, Fault> {
        let matrix = match self.value(key)? {
            Value::Own(Numpy::Array(array)) => self.array_matrix(array),
            _ => None,
        };
        matrix.ok_or_else(|| Fault::new(format!("`{key}` is no array of unsigned bytes with two axes")))
    }

    /// What the dict holds under `key`, which Python 2 wrote as bytes and Python 3 as text.
    fn value(&self, key: &str) -> Result<&Value<'a>, Fault> {
        // As in Python, a key that is set again has its last value.
        let found = self.entries.iter().rev().find(|(id, _)| self.values[*id].as_bytes() == Some(key.as_bytes()));
        found.map(|&(_, id)| &self.values[id]).ok_or_else(|| Fault::new(format!("it has no key `{key}`")))
    }

    fn name(&self, id: usize) -> Option<String> {
        let bytes = self.values[id].as_bytes().filter(|bytes| bytes.len() <= MAX_NAME)?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    }

    fn array_integers(&self, array: &Array) -> Option<Vec<i64>> {
        let bytes = self.values[array.data].as_bytes()?;
        let size = array.element.size;
        let numbers = || bytes.chunks_exact(size).map(|chunk| array.element.integer(chunk)).collect();
        if array.shape.len() == 1 { numbers() } else { None }
    }

    fn array_matrix(&self, array: &Array) -> Option<Matrix<'_>> {
        let bytes = self.values[array.data].as_bytes()?;
        let &[rows, columns] = &array.shape[..] else { return None };
        if !array.element.is_unsigned_byte() {
            return None;
        }
        let bytes = match array.column_major {
            false => Cow::Borrowed(bytes),
            true => (0..bytes.len()).map(|place| bytes[place / columns + place % columns * rows]).collect(),
        };
        Some(Matrix { rows, columns, bytes })
    }
}

#[cfg(test)]
mod tests;
