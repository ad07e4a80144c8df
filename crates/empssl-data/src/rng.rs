//! The counter-based random generator behind every draw.
//!
//! A counter-based generator computes its numbers from a key and a position instead of carrying a state from draw to
//! draw. Each image and each patch owns a [`Stream`] that depends on nothing but (seed, purpose, epoch, item, part), so
//! neither the number of workers nor the place where a run is resumed changes what is drawn.
//!
//! The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

/// What a stream is for; streams of different purposes never share numbers.
///
/// The place of a purpose in this list is part of its streams' addresses, so new ones go to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The order of the images of an epoch.
    Order,
    /// The parameters of one augmented patch.
    Patch,
    /// The content of one synthetic image.
    Synthetic,
}

/// An endless sequence of random numbers that belongs to one item.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    /// Position of the next block: (block, part, low and high half of the item).
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream of (`seed`, `purpose`, `epoch`, `item`, `part`).
    ///
    /// Item and part are the counter itself, so two items never share a number;
    /// seed, purpose and epoch are hashed into the 64-bit key.
    pub fn new(seed: u64, purpose: Purpose, epoch: u64, item: u64, part: u32) -> Self {
        let key = mix(mix(mix(seed) ^ purpose as u64) ^ epoch);
        let counter = [0, part, low(item), high(item)];
        Self { key: [low(key), high(key)], counter, block: [0; 4], used: 4 }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    /// A number from 0 (included) to 1 (excluded), a multiple of 2^-32.
    pub fn unit(&mut self) -> f64 {
        f64::from(self.next_u32()) / 4_294_967_296.0
    }

    /// A number from `low` (included) to `high`; draws one value even when the two are equal.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True with probability `p`: never for 0, always for 1.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// An integer from 0 to `n - 1`, each exactly equally likely.
    ///
    /// # Panics
    /// When `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "there is no number below 0");
        let n = n as u64;
        // The high half of a product maps 64 bits onto 0..n; the few low halves that would favour some values are
        // drawn again (Lemire, "Fast random integer generation in an interval", 2019). They are fewer than n, so the
        // division that counts them is hardly ever needed.
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            let low = product as u64;
            if low >= n || low >= n.wrapping_neg() % n {
                return (product >> 64) as usize;
            }
        }
    }

    /// Puts `items` into a random order, each order equally likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// The numbers 0 to `len - 1` in the random order of (`seed`, `epoch`).
pub fn shuffled(len: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    Stream::new(seed, Purpose::Order, epoch, 0, 0).shuffle(&mut order);
    order
}

fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

/// A bijection of 64 bits in which every input bit touches every output bit (the finaliser of SplitMix64).
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Ten rounds of Philox on four 32-bit words.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let left = u64::from(counter[0]) * 0xd251_1f53;
        let right = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [high(right) ^ counter[1] ^ key[0], low(right), high(left) ^ counter[3] ^ key[1], low(left)];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with Random123, the authors' implementation.
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let key = [0xa409_3822, 0x299f_31d0];
        assert_eq!(philox(counter, key), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn every_part_of_the_address_changes_the_stream() {
        let first = |seed, purpose, epoch, item, part| Stream::new(seed, purpose, epoch, item, part).next_u64();
        let base = first(1, Purpose::Patch, 2, 3, 4);
        assert_eq!(base, first(1, Purpose::Patch, 2, 3, 4));
        let others = [
            first(2, Purpose::Patch, 2, 3, 4),
            first(1, Purpose::Order, 2, 3, 4),
            first(1, Purpose::Patch, 3, 3, 4),
            first(1, Purpose::Patch, 2, 4, 4),
            first(1, Purpose::Patch, 2, 3 + (1 << 32), 4),
            first(1, Purpose::Patch, 2, 3, 5),
        ];
        assert!(others.iter().all(|&other| other != base), "{others:x?} against {base:x}");
    }

    #[test]
    fn chances_of_zero_and_one_are_certain() {
        let mut stream = Stream::new(0, Purpose::Patch, 0, 0, 0);
        assert!((0..1000).all(|_| stream.chance(1.0) && !stream.chance(0.0)));
    }

    #[test]
    fn integers_below_n_are_equally_likely() {
        let mut stream = Stream::new(7, Purpose::Order, 0, 0, 0);
        let mut counts = [0_i32; 6];
        (0..60_000).for_each(|_| counts[stream.below(6)] += 1);
        // Five standard deviations of a count of 10,000.
        assert!(counts.iter().all(|count| (count - 10_000).abs() < 457), "{counts:?}");
    }

    #[test]
    fn orders_are_permutations_and_differ_by_seed_and_epoch() {
        let mut sorted = shuffled(1000, 1, 0);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_ne!(shuffled(1000, 1, 0), shuffled(1000, 1, 1));
        assert_ne!(shuffled(1000, 1, 0), shuffled(1000, 2, 0));
        assert_eq!(shuffled(0, 1, 0), Vec::<usize>::new());
    }
}
