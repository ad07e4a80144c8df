//! Python's pickles, and the files that PyTorch makes of them, read without Python and without carrying anything out.
//!
//! A pickle is a program for a stack machine, and Python's own reader lets it call anything. The machine here knows the
//! opcodes (protocols 0 to 5) that build numbers, strings, bytes, lists, tuples, sets and dicts. Which functions a pickle
//! may name, and what calling them makes, is told by a [`Dialect`]: a fixed list that is carried out in Rust. Every other
//! function, class or opcode is refused by its name and place, or left as a name that nothing happens to. Nothing
//! recurses, so nesting costs no stack; objects are counted, so memory stays in proportion to the file.
//!
//! - [`load`] reads one pickle; [`Value`] is what it builds;
//! - [`bytes`]: a cursor that never reads past the end, and the error for malformed bytes;
//! - `torch` (feature `torch`): the tensors in a file that `torch.save` wrote.
//!
//! **Invariant: nothing that a file says is allocated before it is checked against the bytes that are there.**
//! **Invariant: knows no libtorch, no network and no images.**

pub mod bytes;
mod dialect;
mod machine;
#[cfg(feature = "torch")]
pub mod torch;
mod value;

pub use bytes::Fault;
pub use dialect::{Dialect, Made};
pub use machine::{Pickled, load};
pub use value::Value;
