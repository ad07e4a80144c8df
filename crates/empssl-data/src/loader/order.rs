//! Which images make up a batch: the order of every epoch and a rank's share of every batch.

use std::ops::Range;

use super::config::{LoaderConfig, Order};
use crate::rng::shuffled;

/// The images of every batch, for one rank.
#[derive(Debug)]
pub(super) struct Plan {
    config: LoaderConfig,
    batches_per_epoch: usize,
    /// The order of an epoch, and which epoch that is.
    order: Vec<usize>,
    epoch: u64,
}

impl Plan {
    /// The plan for a set of so many `images`.
    pub(super) fn new(images: usize, config: &LoaderConfig) -> Self {
        let order = order_of_epoch(images, config, config.epoch);
        let batches_per_epoch = config.batches_per_epoch(images);
        Self { config: config.clone(), batches_per_epoch, order, epoch: config.epoch }
    }

    /// The batches of an epoch.
    pub(super) fn batches_per_epoch(&self) -> usize {
        self.batches_per_epoch
    }

    /// The epoch of batch number `batch`, counted from the beginning of the first epoch, and this rank's images.
    pub(super) fn images(&mut self, batch: usize) -> (u64, Vec<usize>) {
        let LoaderConfig { batch_size, rank, world, .. } = self.config;
        let epoch = self.config.epoch + (batch / self.batches_per_epoch) as u64;
        if epoch != self.epoch {
            self.order = order_of_epoch(self.order.len(), &self.config, epoch);
            self.epoch = epoch;
        }
        let start = batch % self.batches_per_epoch * batch_size;
        let whole = &self.order[start..self.order.len().min(start.saturating_add(batch_size))];
        (epoch, whole[share(whole.len(), rank, world)].to_vec())
    }
}

fn order_of_epoch(images: usize, config: &LoaderConfig, epoch: u64) -> Vec<usize> {
    match config.order {
        Order::Shuffled => shuffled(images, config.seed, epoch),
        Order::Sequential => (0..images).collect(),
    }
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
            let mut single = Plan::new(images, &one);
            let mut ranks: Vec<Plan> =
                (0..world).map(|rank| Plan::new(images, &LoaderConfig { rank, world, ..one.clone() })).collect();
            let mut seen = Vec::new();
            for batch in 0..single.batches_per_epoch() {
                let parts: Vec<Vec<usize>> = ranks.iter_mut().map(|plan| plan.images(batch).1).collect();
                prop_assert_eq!(parts.concat(), single.images(batch).1);
                let lengths = parts.iter().map(|part| part.len());
                prop_assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1);
                seen.extend(single.images(batch).1);
            }
            prop_assert!(ranks.iter().all(|plan| plan.batches_per_epoch() == single.batches_per_epoch()));
            // Every image once, but for those of an incomplete batch that is dropped.
            let kept = if drop_last { images - images % batch_size } else { images };
            prop_assert_eq!(seen.len(), kept);
            prop_assert_eq!(&seen[..], &shuffled(images, one.seed, epoch)[..kept]);
        }
    }
}
