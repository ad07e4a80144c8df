//! What a pickle builds.

use std::borrow::Cow;

/// An object; it refers to others by their place in the list of all objects, so dropping a deep nesting does not recurse.
///
/// `X` are the objects that only one [`Dialect`](crate::Dialect) knows.
#[derive(Debug)]
pub enum Value<'a, X> {
    /// `None`.
    None,
    /// `True` or `False`, or a whole number.
    Int(i64),
    /// A whole number beyond 64 bits, without its value: no file of interest has one that matters.
    Wide,
    /// A number with a fraction, without its value.
    Float,
    /// Bytes, or a string of Python 2.
    Bytes(Cow<'a, [u8]>),
    /// A text.
    Text(Cow<'a, str>),
    /// A list.
    List(Vec<usize>),
    /// A tuple.
    Tuple(Vec<usize>),
    /// A set.
    Set(Vec<usize>),
    /// Keys and values in the order in which they were set.
    Dict(Vec<(usize, usize)>),
    /// What the dialect made.
    Own(X),
}

impl<X> Value<'_, X> {
    /// The bytes of a string of either kind.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Text(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    /// The whole number, if it is one.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The whole number, if it is one that can count or measure something.
    pub fn as_size(&self) -> Option<usize> {
        self.as_integer().and_then(|number| usize::try_from(number).ok())
    }
}
