//! What readers of different files know differently: which functions a pickle may name, and what calling them makes.

use crate::value::Value;

/// A value of a dialect, or the sentence why there is none; the machine adds the place.
pub type Made<'a, X> = Result<Value<'a, X>, String>;

/// The functions and classes of one kind of pickle, carried out in Rust on what the pickle holds.
///
/// Whatever is made must be in proportion to what it is made from: a pickle can ask for it again and again with three
/// bytes.
pub trait Dialect<'a> {
    /// Functions, classes and whatever calling them makes.
    type Own: std::fmt::Debug;

    /// Whether pickles of this kind hold objects of classes of their own and things kept outside of the pickle: the
    /// opcodes that make these are refused otherwise.
    const HAS_OBJECTS: bool = false;

    /// What stands for `module.name`.
    ///
    /// # Errors
    /// When that is neither carried out nor harmless to leave as a name.
    fn named(&mut self, module: &[u8], name: &[u8]) -> Result<Self::Own, String>;

    /// Calls an object with arguments, given by their places among `values`.
    ///
    /// # Errors
    /// When the object is no function or the arguments do not fit.
    fn call(
        &mut self,
        function: &Self::Own,
        arguments: &[usize],
        values: &[Value<'a, Self::Own>],
    ) -> Made<'a, Self::Own>;

    /// What the object at `object` becomes when it gets the state at `state`; `None` when it stays as it is.
    ///
    /// # Errors
    /// When the object takes no state, or not this one.
    fn filled(
        &mut self,
        object: usize,
        state: usize,
        values: &[Value<'a, Self::Own>],
    ) -> Result<Option<Value<'a, Self::Own>>, String>;

    /// What is kept outside of the pickle under the name at `id`.
    ///
    /// # Errors
    /// When there can be no such thing.
    fn persistent(&mut self, _id: usize, _values: &[Value<'a, Self::Own>]) -> Made<'a, Self::Own> {
        Err("something kept outside of the pickle".to_owned())
    }

    /// Whether items that a pickle puts into this object are of no interest, as those of an unknown class.
    fn swallows_items(&self, _object: &Self::Own) -> bool {
        false
    }
}
