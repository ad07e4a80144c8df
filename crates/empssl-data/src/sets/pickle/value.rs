//! What only pickles of numpy arrays build.

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
