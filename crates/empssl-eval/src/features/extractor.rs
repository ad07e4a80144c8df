//! What an encoder is to whoever evaluates it.

use tch::Tensor;

/// The name of the features of an extractor that has just these.
pub const FEATURES: &str = "features";

/// A frozen encoder, seen from outside: every function from patches to rows of features is one.
///
/// One that can give several outputs in one forward pass names them; which are wanted is an argument. No name means
/// anything here: they label what is kept.
pub trait FeatureExtractor {
    /// The names of what it can give, the one that is scored unless something else is asked for first; at least one.
    fn outputs(&self) -> Vec<&str>;

    /// Maps normalised patches `[N, 3, s, s]`, values in `[-1, 1]`, row by row to one tensor `[N, width]` for each name
    /// in `wanted`, in that order; every name is one of [`FeatureExtractor::outputs`].
    ///
    /// It is called without gradient tracking and must be in evaluation mode: a row may depend on its patch alone.
    fn extract(&self, patches: &Tensor, wanted: &[&str]) -> Vec<Tensor>;
}

impl<F: Fn(&Tensor) -> Tensor> FeatureExtractor for F {
    fn outputs(&self) -> Vec<&str> {
        vec![FEATURES]
    }

    fn extract(&self, patches: &Tensor, _wanted: &[&str]) -> Vec<Tensor> {
        vec![self(patches)]
    }
}

/// The extractor that does nothing: the pixels of the network's input, `[N, 3, s, s]` to `[N, 3 s s]`.
///
/// With whole images as patches it gives the "raw pixels" that an encoder has to beat.
pub fn pixels(patches: &Tensor) -> Tensor {
    patches.flatten(1, -1)
}
