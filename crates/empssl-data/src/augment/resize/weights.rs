//! The fixed-point weights of a resize along one axis, and a store of those met so far.

use std::collections::HashMap;

use super::Interpolation;

/// The weights of a resize along one axis.
#[derive(Debug)]
pub(super) struct Weights {
    /// For every output pixel, the first input pixel and where its weights lie.
    spans: Vec<Span>,
    weights: Vec<i32>,
    /// The same weights, split and two by two.
    pairs: Vec<WeightPair>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    first: usize,
    start: usize,
    count: usize,
    first_pair: usize,
}

/// Two neighbouring weights, each split into an upper part of 16 bits with the sign and a lower one of 8 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightPair {
    /// The upper parts, the first weight's in the lower half.
    pub(super) upper: i32,
    /// The lower parts, likewise.
    pub(super) lower: i32,
    /// Whether there is no second weight; its parts are zero.
    pub(super) is_single: bool,
}

impl WeightPair {
    /// Bits of the lower part.
    pub(super) const LOWER_BITS: u32 = 8;

    fn new(weights: &[i32]) -> Self {
        let (first, second) = (weights[0], weights.get(1).copied());
        let pack = |part: fn(i32) -> i32| part(second.unwrap_or(0)) << 16 | (part(first) & 0xffff);
        let lower: fn(i32) -> i32 = |weight| weight & ((1 << Self::LOWER_BITS) - 1);
        Self { upper: pack(|weight| weight >> Self::LOWER_BITS), lower: pack(lower), is_single: second.is_none() }
    }
}

/// Fraction bits of the weights: 32 less 8 for the values and 2 for the overshoot of the filter and the sign.
pub(super) const BITS: u32 = 22;
/// Half of one, which rounds.
pub(super) const HALF: i32 = 1 << (BITS - 1);

impl Weights {
    pub(super) fn new(from: usize, to: usize, interpolation: Interpolation) -> Self {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let support = interpolation.support() * stretch;
        let mut all = Self { spans: Vec::with_capacity(to), weights: Vec::new(), pairs: Vec::new() };
        let mut shares = Vec::new();
        for pixel in 0..to {
            let centre = (pixel as f64 + 0.5) * scale;
            // Casts cut off at zero, as wanted here.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let position = |input: usize| (input as f64 - centre + 0.5) * (1.0 / stretch);
            shares.clear();
            shares.extend((first..end).map(|input| interpolation.weight(position(input))));
            all.push(first, &shares);
        }
        all
    }

    /// Appends the weights of one output pixel, scaled to a sum of one.
    fn push(&mut self, first: usize, weights: &[f64]) {
        let sum: f64 = weights.iter().sum();
        let (start, first_pair) = (self.weights.len(), self.pairs.len());
        self.spans.push(Span { first, start, count: weights.len(), first_pair });
        let fixed = weights.iter().map(|weight| (weight / sum * f64::from(1 << BITS)).round() as i32);
        self.weights.extend(fixed);
        self.pairs.extend(self.weights[start..].chunks(2).map(WeightPair::new));
    }

    /// The number of output pixels.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// The first input pixel of an output pixel, and the weights of this one and those that follow.
    pub(super) fn of(&self, pixel: usize) -> (usize, &[i32]) {
        let Span { first, start, count, .. } = self.spans[pixel];
        (first, &self.weights[start..start + count])
    }

    /// As [`Weights::of`], split and two by two.
    pub(super) fn pairs_of(&self, pixel: usize) -> (usize, &[WeightPair]) {
        let Span { first, count, first_pair, .. } = self.spans[pixel];
        (first, &self.pairs[first_pair..first_pair + count.div_ceil(2)])
    }
}

/// The weights of the sizes met so far.
///
/// Crops of random proportions come in a few hundred widths and heights; computing their weights takes as long as a
/// fifth of a resize.
#[derive(Debug, Default)]
pub(super) struct WeightCache {
    weights: HashMap<(usize, usize, Interpolation), Weights>,
    /// Weights kept in all.
    kept: usize,
}

impl WeightCache {
    /// Weights that are kept at most, 5 MiB: the memory must not grow with the number of sizes in a set of images.
    const MAX_KEPT: usize = 1 << 19;

    /// The weights of the given sizes.
    pub(super) fn get(&mut self, sizes: [usize; 2], to: usize, interpolation: Interpolation) -> [&Weights; 2] {
        if self.kept > Self::MAX_KEPT {
            *self = Self::default();
        }
        for from in sizes {
            self.weights.entry((from, to, interpolation)).or_insert_with(|| {
                let weights = Weights::new(from, to, interpolation);
                self.kept += weights.weights.len();
                weights
            });
        }
        sizes.map(|from| &self.weights[&(from, to, interpolation)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one() {
        for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic] {
            for (from, to) in [(1, 7), (16, 32), (50, 224), (500, 224), (7, 1)] {
                let weights = Weights::new(from, to, interpolation);
                assert_eq!(weights.len(), to);
                for (first, weights) in (0..to).map(|pixel| weights.of(pixel)) {
                    let sum: i32 = weights.iter().sum();
                    assert!((sum - (1 << BITS)).abs() <= weights.len() as i32 && first + weights.len() <= from);
                }
            }
        }
    }

    #[test]
    fn the_memory_for_weights_stays_bounded() {
        let mut cache = WeightCache::default();
        let (mut most, mut times_emptied) = (0, 0);
        for from in (1..60_000).step_by(6_000) {
            let before = cache.kept;
            cache.get([from, from + 1], 2, Interpolation::Bilinear);
            let kept: usize = cache.weights.values().map(|weights| weights.weights.len()).sum();
            assert_eq!(kept, cache.kept);
            times_emptied += usize::from(kept < before);
            most = most.max(kept);
        }
        assert!(times_emptied > 0 && most <= WeightCache::MAX_KEPT + 4 * 60_000, "{times_emptied} {most}");
    }
}
