//! Labelled training images that are scored in place of the test images.

use empssl_data::rng::shuffled;

use super::NO_EPOCH;

/// Held-out images, at least, where as many are left to learn from.
const LEAST_HELD_OUT: usize = 5_000;

/// What the held-out images are drawn by: they are the same for every run.
const HELD_OUT_SEED: u64 = 0;

/// The numbers of the images that may be learnt from and of those that are held out, a tenth with its share of every
/// class; each ascending. `None` for fewer than two images.
pub fn held_out(labels: &[u32]) -> Option<(Vec<usize>, Vec<usize>)> {
    let n = labels.len();
    if n < 2 {
        return None;
    }
    let n_held = match n.div_ceil(10) {
        tenth if tenth < LEAST_HELD_OUT && n >= 2 * LEAST_HELD_OUT => LEAST_HELD_OUT,
        tenth => tenth,
    };
    let mut counts = vec![0.0; labels.iter().max().map_or(0, |&last| last as usize + 1)];
    labels.iter().for_each(|&label| counts[label as usize] += 1.0);
    // In a random order each image has a place in its class, from 0 to 1; the first places of all classes are held out.
    let mut seen = vec![0.5; counts.len()];
    let mut places: Vec<(f64, usize)> = Vec::with_capacity(n);
    for index in shuffled(n, HELD_OUT_SEED, NO_EPOCH) {
        let class = labels[index] as usize;
        places.push((seen[class] / counts[class], index));
        seen[class] += 1.0;
    }
    places.sort_by(|a, b| a.0.total_cmp(&b.0));
    let numbers = |places: &[(f64, usize)]| {
        let mut numbers: Vec<usize> = places.iter().map(|&(_, index)| index).collect();
        numbers.sort_unstable();
        numbers
    };
    Some((numbers(&places[n_held..]), numbers(&places[..n_held])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_with_its_share_of_every_class_is_held_out() {
        // 300, 200 and 100 images of three classes, in turn.
        let labels: Vec<u32> = (0..600).map(|index| [0, 1, 0, 1, 0, 2][index % 6]).collect();
        let (learnt, held) = held_out(&labels).unwrap();
        let count = |class| held.iter().filter(|&&index| labels[index] == class).count();
        assert_eq!([0, 1, 2].map(count), [30, 20, 10]);
        assert!(learnt.is_sorted() && held.is_sorted());
        let mut all = [learnt, held.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..600).collect::<Vec<_>>());
        assert_eq!(held_out(&labels).unwrap().1, held);
        assert_ne!(held, (0..60).collect::<Vec<_>>(), "drawn at random");
    }

    #[test]
    fn at_least_5000_are_held_out_where_as_many_are_left() {
        let held = |n: usize| held_out(&vec![0; n]).unwrap().1.len();
        assert_eq!([2, 9_999, 10_000, 49_999, 50_000, 60_000].map(held), [1, 1_000, 5_000, 5_000, 5_000, 6_000]);
        assert_eq!(held_out(&[0]), None);
    }
}
