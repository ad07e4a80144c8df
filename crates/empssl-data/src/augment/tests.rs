//! Comparing an operation's AVX2 form with its portable one. On a processor without AVX2 there is nothing to compare.

use crate::rng::{Purpose, Stream};

/// Numbers of pixels: none, ragged ones around whole registers, and patches.
const COUNTS: [usize; 9] = [0, 1, 5, 31, 32, 33, 100, 1024, 1027];

/// Random bytes.
pub(super) fn noise(len: usize, stream: &mut Stream) -> Vec<u8> {
    (0..len).map(|_| stream.next_u32() as u8).collect()
}

/// Noise, dull noise whose channels are close together, and all levels as greys.
fn pixels(count: usize, stream: &mut Stream) -> Vec<Vec<u8>> {
    let dull = noise(3 * count, stream).iter().map(|value| 120 + value % 5).collect();
    let grey = (0..3 * count).map(|place| (place % count) as u8).collect();
    vec![noise(3 * count, stream), dull, grey]
}

/// Compares an operation with its portable form on pixels of all kinds and counts.
pub(super) fn compare(what: &str, ours: impl Fn(&mut [u8]), portable: impl Fn(&mut [u8])) {
    let mut stream = Stream::new(3, Purpose::Patch, 0, 0, 0);
    for count in COUNTS {
        for pixels in pixels(count, &mut stream) {
            let (mut a, mut b) = (pixels.clone(), pixels);
            ours(&mut a);
            portable(&mut b);
            assert!(a == b, "{what}, {count} pixels");
        }
    }
}
