//! Which images make up a batch: the order of an epoch and a rank's share of every batch.

use std::ops::Range;

use super::config::{LoaderConfig, Order};
use crate::rng::shuffled;

/// The images of every batch of one epoch, for one rank.
#[derive(Debug)]
pub(super) struct Plan {
    order: Vec<usize>,
    n_batches: usize,
    batch_size: usize,
    rank: usize,
    world: usize,
}

impl Plan {
    /// The plan for a set of so many `images`.
    pub(super) fn new(images: usize, config: &LoaderConfig) -> Self {
        let order = match config.order {
            Order::Shuffled => shuffled(images, config.seed, config.epoch),
            Order::Sequential => (0..images).collect(),
        };
        let LoaderConfig { batch_size, rank, world, .. } = *config;
        Self { order, n_batches: n_batches(images, config), batch_size, rank, world }
    }

    /// The batches of the epoch.
    pub(super) fn n_batches(&self) -> usize {
        self.n_batches
    }

    /// The indices of this rank's images in batch number `batch`.
    pub(super) fn images(&self, batch: usize) -> &[usize] {
        let start = batch * self.batch_size;
        let whole = &self.order[start..self.order.len().min(start.saturating_add(self.batch_size))];
        &whole[share(whole.len(), self.rank, self.world)]
    }
}

/// The batches that so many `images` make.
pub(super) fn n_batches(images: usize, config: &LoaderConfig) -> usize {
    let LoaderConfig { batch_size, drop_last, .. } = *config;
    if drop_last { images / batch_size } else { images.div_ceil(batch_size) }
}

/// The part of so many `images` that falls to `rank`: equal parts, those of the first ranks longer by one where the
/// number does not divide.
fn share(images: usize, rank: usize, world: usize) -> Range<usize> {
    let (each, more) = (images / world, images % world);
    let start = rank * each + rank.min(more);
    start..start + each + usize::from(rank < more)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::config;
    use super::*;

    #[test]
    fn an_incomplete_batch_is_split_as_evenly_as_it_can_be() {
        let shares = |images| (0..4).map(|rank| share(images, rank, 4)).collect::<Vec<_>>();
        assert_eq!(shares(8), [0..2, 2..4, 4..6, 6..8]);
        assert_eq!(shares(6), [0..2, 2..4, 4..5, 5..6]);
        assert_eq!(shares(1), [0..1, 1..1, 1..1, 1..1]);
        assert_eq!(shares(0), [0..0, 0..0, 0..0, 0..0]);
    }

    proptest! {
        #[test]
        fn ranks_side_by_side_are_the_batch_of_one(
            (images, per_rank, world) in (0_usize..200, 1_usize..20, 1_usize..9),
            drop_last in any::<bool>(),
            epoch in 0_u64..3,
        ) {
            let batch_size = per_rank * world;
            let one = LoaderConfig { batch_size, drop_last, epoch, ..config() };
            let single = Plan::new(images, &one);
            let ranks: Vec<Plan> =
                (0..world).map(|rank| Plan::new(images, &LoaderConfig { rank, world, ..one.clone() })).collect();
            let mut seen = Vec::new();
            for batch in 0..single.n_batches() {
                let parts: Vec<&[usize]> = ranks.iter().map(|plan| plan.images(batch)).collect();
                prop_assert_eq!(parts.concat(), single.images(batch));
                let lengths = parts.iter().map(|part| part.len());
                prop_assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1);
                seen.extend_from_slice(single.images(batch));
            }
            prop_assert!(ranks.iter().all(|plan| plan.n_batches() == single.n_batches()));
            // Every image once, but for those of an incomplete batch that is dropped.
            let kept = if drop_last { images - images % batch_size } else { images };
            prop_assert_eq!(seen.len(), kept);
            prop_assert_eq!(&seen[..], &shuffled(images, one.seed, epoch)[..kept]);
        }
    }
}
