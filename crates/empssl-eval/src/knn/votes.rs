//! The vote of the neighbours: weights, class scores, and the place of an image's own class.

use super::nearest::Neighbour;

/// What a neighbour's vote counts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Weight {
    /// `exp((s - s0) / T)` for a similarity `s` and the nearest neighbour's `s0`.
    ///
    /// Without `s0` a small temperature would overflow; with it the scores of a row are divided by one number, which
    /// changes no order.
    Exponential {
        /// T
        temperature: f64,
    },
    /// The similarity itself.
    Similarity,
}

/// Adds votes up, one test image after the other.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    weight: Weight,
    scores: Vec<f64>,
}

impl Tally {
    pub(super) fn new(n_classes: usize, weight: Weight) -> Self {
        Self { weight, scores: vec![0.0; n_classes] }
    }

    /// The class scores when all `neighbours` vote.
    pub(super) fn vote_all(&mut self, neighbours: &[Neighbour]) -> &[f64] {
        self.vote_until(neighbours, &[neighbours.len()], &mut |_, _| {});
        &self.scores
    }

    /// Shows the class scores after the first `ks[0]`, `ks[1]`, ... neighbours; `ks` ascends, and where it exceeds the
    /// neighbours all of them have voted.
    pub(super) fn vote_until(&mut self, neighbours: &[Neighbour], ks: &[usize], seen: &mut dyn FnMut(usize, &[f64])) {
        self.scores.fill(0.0);
        let nearest = neighbours.first().map_or(0.0, |nearest| nearest.similarity);
        let mut voted = 0;
        for (index, &k) in ks.iter().enumerate() {
            for neighbour in &neighbours[voted..k.clamp(voted, neighbours.len())] {
                self.scores[neighbour.class] += match self.weight {
                    Weight::Exponential { temperature } => ((neighbour.similarity - nearest) / temperature).exp(),
                    Weight::Similarity => neighbour.similarity,
                };
            }
            voted = k.clamp(voted, neighbours.len());
            seen(index, &self.scores);
        }
    }
}

/// How many classes are better than `class`; of equal scores the lower class is the better, and a NaN is better than
/// what it is compared with, as in [`crate::metrics::top_k`].
pub(super) fn rank(scores: &[f64], class: usize) -> usize {
    let own = scores[class];
    let worse = |(other, &score): (usize, &f64)| score < own || (score == own && other >= class);
    scores.len() - scores.iter().enumerate().filter(|&pair| worse(pair)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::top_k;
    use tch::Tensor;

    fn near(similarity: f64, class: usize) -> Neighbour {
        Neighbour { similarity, class, row: 0 }
    }

    #[test]
    fn neighbours_weigh_by_the_exponential_or_by_their_similarity() {
        let list = [near(0.9, 1), near(0.8, 0), near(0.8, 1)];
        let scores = Tally::new(3, Weight::Exponential { temperature: 0.1 }).vote_all(&list).to_vec();
        let e = (-1.0f64).exp();
        assert!(scores.iter().zip([e, 1.0 + e, 0.0]).all(|(a, b)| (a - b).abs() < 1e-12), "{scores:?}");
        assert_eq!(Tally::new(3, Weight::Similarity).vote_all(&list), [0.8, 0.9 + 0.8, 0.0]);
    }

    #[test]
    fn the_first_k_vote_and_all_where_k_exceeds_them() {
        let list = [near(4.0, 1), near(3.0, 0), near(2.0, 1)];
        let mut tally = Tally::new(2, Weight::Similarity);
        for _ in 0..2 {
            let mut seen = Vec::new();
            tally.vote_until(&list, &[1, 2, 2, 3, 9], &mut |index, scores| seen.push((index, scores.to_vec())));
            let expected = [[0.0, 4.0], [3.0, 4.0], [3.0, 4.0], [3.0, 6.0], [3.0, 6.0]];
            assert_eq!(seen, expected.map(Vec::from).into_iter().enumerate().collect::<Vec<_>>());
        }
    }

    #[test]
    fn places_are_those_of_the_metric() {
        let nan = f64::NAN;
        for scores in [[0.0, 2.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0], [nan, 1.0, 2.0, 0.0], [nan; 4]] {
            for class in 0..4 {
                let tensor = Tensor::from_slice(&scores).view([1, 4]);
                let hits = top_k(&tensor, &Tensor::from_slice(&[class as i64]), &[1, 2, 3, 4]).unwrap();
                let ours = (1..=4).map(|k| if rank(&scores, class) < k { 100.0 } else { 0.0 });
                assert_eq!(ours.collect::<Vec<f64>>(), hits, "{scores:?}, class {class}");
            }
        }
    }
}
