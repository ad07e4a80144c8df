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

/// The longest side at which images are scored as they are. The 150,528 numbers of a photograph of 224 pixels would take
/// 79 GB for ImageNet-100, and probes on them hours, for a baseline that is no better for it.
const MAX_PIXELS_SIDE: i64 = 64;

/// The extractor that does nothing: the pixels of the network's input, `[N, 3, s, s]` to `[N, 3 s s]`, averaged down to
/// 64 a side where s is larger.
///
/// With whole images as patches it gives the "raw pixels" that an encoder has to beat.
pub fn pixels(patches: &Tensor) -> Tensor {
    if patches.size().last().is_some_and(|&side| side > MAX_PIXELS_SIDE) {
        return patches.adaptive_avg_pool2d([MAX_PIXELS_SIDE; 2]).flatten(1, -1);
    }
    patches.flatten(1, -1)
}

/// How many numbers [`pixels`] gives of a patch of this side.
pub fn n_pixels(side: i64) -> i64 {
    3 * side.min(MAX_PIXELS_SIDE).pow(2)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn small_images_are_taken_as_they_are_and_larger_ones_averaged() {
        let ramp = |side: i64| Tensor::arange(3 * side * side, (Kind::Double, Device::Cpu)).view([1, 3, side, side]);
        assert_eq!(pixels(&ramp(64)), ramp(64).view([1, -1]));
        let halved = pixels(&ramp(128));
        assert_eq!(halved.size(), [1, 3 * 64 * 64]);
        // The first two by two of rows of 128 numbers.
        assert_eq!(halved.double_value(&[0, 0]), (0.0 + 1.0 + 128.0 + 129.0) / 4.0);
        for side in [1, 32, 64, 65, 224] {
            assert_eq!(pixels(&ramp(side)).size(), [1, n_pixels(side)]);
        }
    }
}
