//! The random numbers that damage is drawn from.

/// An endless sequence of numbers that belongs to one input of one target (SplitMix64).
pub(crate) struct Stream(u64);

impl Stream {
    /// The sequence of input `number` of the target of this name.
    pub(crate) fn new(name: &str, number: u64) -> Self {
        let hash = name.bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)));
        Self(mix(hash ^ mix(number)))
    }

    /// The next 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// A number from 0 to `n - 1`; the tiny preference that a product has for some of them does no harm here.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// True with probability `p`.
    pub(crate) fn chance(&mut self, p: f64) -> bool {
        ((self.bits() >> 11) as f64) < p * (1_u64 << 53) as f64
    }
}

/// A bijection of 64 bits in which every bit touches every other.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_below_their_bound_and_reach_all_of_it() {
        let mut stream = Stream::new("a", 0);
        let mut counts = [0; 6];
        (0..6_000).for_each(|_| counts[stream.below(6)] += 1);
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
        let heads = (0..6_000).filter(|_| stream.chance(0.25)).count();
        assert!((1_350..1_650).contains(&heads), "{heads}");
        assert!((0..100).all(|_| stream.chance(1.0) && !stream.chance(0.0)));
    }
}
