//! The functions by which numpy stores arrays, carried out on what the pickle holds.
//!
//! See `__reduce__` and `__setstate__` of `ndarray` and `dtype`: an array is created blank and then filled from
//! (version, shape, type, column-major, bytes), or since protocol 5 made at once from (bytes, type, shape, order).

use empssl_pickle::bytes::shown;
use empssl_pickle::{Dialect, Made};

/// An object of a pickle that may hold arrays.
pub(crate) type Value<'a> = empssl_pickle::Value<'a, Numpy>;

/// The most axes of an array.
const MAX_AXES: usize = 8;

/// An object of numpy, or one of the functions that make them.
#[derive(Debug)]
pub(crate) enum Numpy {
    /// One of the functions that are carried out here.
    Global(Global),
    /// The type of an array's elements.
    Element(Element),
    /// An array that has been created and not yet been filled.
    Blank,
    /// An array.
    Array(Array),
}

/// The functions and classes by which numpy stores arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Global {
    /// `numpy.core.multiarray._reconstruct`, or `numpy._core` since numpy 2: creates an array to be filled.
    Reconstruct,
    /// `numpy.core.multiarray.scalar`: a number of a numpy type.
    Scalar,
    /// `numpy.core.numeric._frombuffer`: an array, as protocol 5 stores it.
    FromBuffer,
    /// `numpy.ndarray`, the class that `_reconstruct` is given.
    NdArray,
    /// `numpy.dtype`: the type of the elements.
    Dtype,
    /// `_codecs.encode`: bytes, as Python 3 writes them into the protocols of Python 2.
    Encode,
}

impl Global {
    /// The function of this name, if it is one of those that are carried out.
    pub(crate) fn find(module: &[u8], name: &[u8]) -> Option<Self> {
        match (module, name) {
            (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"_reconstruct") => Some(Self::Reconstruct),
            (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"scalar") => Some(Self::Scalar),
            (b"numpy.core.numeric" | b"numpy._core.numeric", b"_frombuffer") => Some(Self::FromBuffer),
            (b"numpy", b"ndarray") => Some(Self::NdArray),
            (b"numpy", b"dtype") => Some(Self::Dtype),
            (b"_codecs", b"encode") => Some(Self::Encode),
            _ => None,
        }
    }
}

/// The type of an array's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    /// Whether numbers below zero can be stored.
    pub(crate) signed: bool,
    /// Bytes per element: 1, 2, 4 or 8.
    pub(crate) size: usize,
    /// Whether the highest byte comes first.
    pub(crate) big_endian: bool,
}

impl Element {
    /// The type that numpy calls `u1`, `i8` and so on; `None` for what is no whole number.
    pub(crate) fn named(name: &[u8]) -> Option<Self> {
        let &[kind @ (b'u' | b'i'), size @ (b'1' | b'2' | b'4' | b'8')] = name else { return None };
        Some(Self { signed: kind == b'i', size: usize::from(size - b'0'), big_endian: false })
    }

    /// Whether an element is a byte from 0 to 255.
    pub(crate) fn is_unsigned_byte(self) -> bool {
        self.size == 1 && !self.signed
    }

    /// The number stored in `size` bytes; `None` when it does not fit.
    pub(crate) fn integer(self, bytes: &[u8]) -> Option<i64> {
        let append = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        let number = match self.big_endian {
            true => bytes.iter().fold(0, append),
            false => bytes.iter().rev().fold(0, append),
        };
        let unused = 64 - 8 * self.size as u32;
        match self.signed {
            true => Some((number << unused) as i64 >> unused),
            false => i64::try_from(number).ok(),
        }
    }
}

/// An array of whole numbers; its data has as many bytes as shape and element say.
#[derive(Debug)]
pub(crate) struct Array {
    /// Sizes of the axes.
    pub(crate) shape: Vec<usize>,
    /// The type of the elements.
    pub(crate) element: Element,
    /// Whether the first axis varies fastest (`order='F'`).
    pub(crate) column_major: bool,
    /// The object with the bytes.
    pub(crate) data: usize,
}

/// Knows numpy's functions and nothing else.
pub(crate) struct Arrays;

impl<'a> Dialect<'a> for Arrays {
    type Own = Numpy;

    fn named(&mut self, module: &[u8], name: &[u8]) -> Result<Numpy, String> {
        Global::find(module, name).map(Numpy::Global).ok_or_else(|| {
            let name = format!("`{}.{}`", shown(module), shown(name));
            format!("it asks for {name}, and only what stores numpy arrays is carried out,")
        })
    }

    fn call(&mut self, function: &Numpy, arguments: &[usize], values: &[Value<'a>]) -> Made<'a, Numpy> {
        match function {
            Numpy::Global(global) => call(*global, arguments, values).map_err(str::to_owned),
            _ => Err("a call of something that is no function".to_owned()),
        }
    }

    fn filled(&mut self, object: usize, state: usize, values: &[Value<'a>]) -> Result<Option<Value<'a>>, String> {
        let Value::Tuple(state) = &values[state] else { return Err("a state that is no tuple".to_owned()) };
        filled(&values[object], state, values).map(Some).map_err(str::to_owned)
    }
}

type Part<'a> = Result<Value<'a>, &'static str>;

/// Calls `global` with objects of the list.
fn call<'a>(global: Global, arguments: &[usize], values: &[Value<'a>]) -> Part<'a> {
    let argument = |place: usize| arguments.get(place).map_or(&Value::None, |&id| &values[id]);
    match global {
        Global::Reconstruct => match argument(0) {
            Value::Own(Numpy::Global(Global::NdArray)) => Ok(Value::Own(Numpy::Blank)),
            _ => Err("an array of a class of its own"),
        },
        Global::Dtype => argument(0).as_bytes().and_then(Element::named).map(of_element).ok_or(ELEMENT),
        Global::Scalar => scalar(argument(0), argument(1)),
        Global::FromBuffer => from_buffer(arguments, values),
        Global::Encode => encode(argument(0), argument(1)),
        Global::NdArray => Err("an array made by its class"),
    }
}

fn of_element<'a>(element: Element) -> Value<'a> {
    Value::Own(Numpy::Element(element))
}

/// What `object` becomes when it gets a state.
fn filled<'a>(object: &Value<'a>, state: &[usize], values: &[Value<'a>]) -> Part<'a> {
    match (object, state) {
        (Value::Own(Numpy::Blank), &[_, shape, element, column_major, data]) => {
            let column_major = values[column_major].as_integer().ok_or("an order that is neither true nor false")? != 0;
            array(shape, element, column_major, data, values)
        }
        (&Value::Own(Numpy::Element(element)), [_, order, subtype, names, fields, ..]) => {
            if [subtype, names, fields].iter().any(|&&id| !matches!(values[id], Value::None)) {
                return Err(ELEMENT);
            }
            ordered(element, &values[*order])
        }
        _ => Err("a state for what has none"),
    }
}

const ELEMENT: &str = "an array of something other than whole numbers";

fn ordered<'a>(element: Element, order: &Value<'_>) -> Part<'a> {
    match order.as_bytes() {
        Some(b"|" | b"<") => Ok(of_element(Element { big_endian: false, ..element })),
        Some(b">") => Ok(of_element(Element { big_endian: true, ..element })),
        _ => Err("an unknown order of bytes"),
    }
}

fn scalar<'a>(element: &Value<'_>, data: &Value<'_>) -> Part<'a> {
    let (Value::Own(Numpy::Element(element)), Some(bytes)) = (element, data.as_bytes()) else { return Err(ELEMENT) };
    let number = if bytes.len() == element.size { element.integer(bytes) } else { None };
    number.map(Value::Int).ok_or("a number of the wrong size")
}

fn from_buffer<'a>(arguments: &[usize], values: &[Value<'a>]) -> Part<'a> {
    let &[data, element, shape, order] = arguments else { return Err("an array with arguments missing") };
    let column_major = match values[order].as_bytes() {
        Some(b"C") => false,
        Some(b"F") => true,
        _ => return Err("an unknown order of axes"),
    };
    array(shape, element, column_major, data, values)
}

/// Checks that the parts of an array fit together.
fn array<'a>(shape: usize, element: usize, column_major: bool, data: usize, values: &[Value<'a>]) -> Part<'a> {
    let Value::Own(Numpy::Element(element)) = values[element] else { return Err(ELEMENT) };
    let (Value::Tuple(axes), Value::Bytes(bytes)) = (&values[shape], &values[data]) else {
        return Err("an array without shape or data");
    };
    if axes.len() > MAX_AXES {
        return Err("an array of too many axes");
    }
    let size = |&id: &usize| values[id].as_size();
    let shape: Vec<usize> = axes.iter().map(size).collect::<Option<_>>().ok_or("an array of an impossible size")?;
    match shape.iter().try_fold(element.size, |bytes, &size| bytes.checked_mul(size)) {
        Some(expected) if expected == bytes.len() => {
            Ok(Value::Own(Numpy::Array(Array { shape, element, column_major, data })))
        }
        _ => Err("an array whose data do not fit its shape"),
    }
}

/// Text to bytes in Latin-1, which is how Python 3 writes bytes into the protocols of Python 2.
fn encode<'a>(text: &Value<'_>, encoding: &Value<'_>) -> Part<'a> {
    let (Value::Text(text), Some(b"latin1" | b"latin-1")) = (text, encoding.as_bytes()) else {
        return Err("an encoding other than Latin-1");
    };
    let bytes: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
    bytes.map(|bytes| Value::Bytes(bytes.into())).map_err(|_| "a text that is not Latin-1")
}
