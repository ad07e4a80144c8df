//! A tenth of the training images, kept back to choose a setting by.

use empssl_data::rng::{Purpose, Stream};
use tch::Device;

use super::HOLDOUT_PART;
use crate::features::FeatureBank;

/// One image in so many is held out.
const ONE_IN: usize = 10;

/// Two parts of a bank's rows, each ascending.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Holdout {
    /// What is fitted.
    pub(super) fitted: Vec<i64>,
    /// What decides.
    pub(super) held: Vec<i64>,
}

impl Holdout {
    /// Draws a tenth of every class, rounded, at least one image of a class that has two; nothing where no class has two.
    pub(super) fn draw(bank: &FeatureBank, seed: u64) -> Option<Self> {
        let (mut fitted, mut held) = (Vec::new(), Vec::new());
        for mut rows in rows_by_class(bank) {
            shuffle_class(&mut rows, bank, seed, HOLDOUT_PART);
            let least = usize::from(rows.len() >= 2);
            let n_held = ((rows.len() + ONE_IN / 2) / ONE_IN).max(least);
            fitted.extend(rows.drain(n_held..));
            held.append(&mut rows);
        }
        fitted.sort_unstable();
        held.sort_unstable();
        (!held.is_empty()).then_some(Self { fitted, held })
    }
}

/// The rows of each class, ascending.
pub(super) fn rows_by_class(bank: &FeatureBank) -> Vec<Vec<i64>> {
    let mut rows = vec![Vec::new(); bank.n_classes() as usize];
    let mut labels = vec![0i64; bank.n_images() as usize];
    bank.labels().to_device(Device::Cpu).copy_data(&mut labels, bank.n_images() as usize);
    labels.into_iter().zip(0..).for_each(|(class, row)| rows[class as usize].push(row));
    rows
}

/// Puts the rows of one class into a random order, which depends on nothing but the seed, the class and their number.
pub(super) fn shuffle_class(rows: &mut [i64], bank: &FeatureBank, seed: u64, part: u32) {
    let Some(&first) = rows.first() else { return };
    let class = bank.labels().int64_value(&[first]);
    Stream::new(seed, Purpose::Order, 0, class as u64, part).shuffle(rows);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bank;
    use tch::{Kind, Tensor};

    fn labelled(labels: &[i64], n_classes: i64) -> FeatureBank {
        let features = Tensor::zeros([labels.len() as i64, 1], (Kind::Float, Device::Cpu));
        FeatureBank::new("train", &features, &Tensor::from_slice(labels), n_classes).unwrap()
    }

    #[test]
    fn a_tenth_of_every_class_is_held_out_and_nothing_is_lost() {
        let labels: Vec<i64> = (0..140).map(|row| if row < 100 { 0 } else { 1 + row % 2 }).collect();
        let bank = labelled(&labels, 4);
        let Holdout { fitted, held } = Holdout::draw(&bank, 3).unwrap();
        let count = |class| held.iter().filter(|&&row| labels[row as usize] == class).count();
        assert_eq!([0, 1, 2, 3].map(count), [10, 2, 2, 0]);
        let mut all = [fitted.clone(), held.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..140).collect::<Vec<_>>());
        assert!(fitted.is_sorted() && held.is_sorted());
    }

    #[test]
    fn a_class_of_one_is_fitted_and_of_two_one_is_held() {
        let Holdout { fitted, held } = Holdout::draw(&labelled(&[0, 1, 1], 2), 0).unwrap();
        assert_eq!((fitted.len(), held.len()), (2, 1));
        assert!(fitted.contains(&0) && held[0] > 0);
    }

    #[test]
    fn the_seed_decides() {
        let bank = labelled(&[0; 50], 1);
        let draw = |seed| Holdout::draw(&bank, seed).unwrap();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn of_one_image_a_class_none_is_held_out() {
        assert_eq!(Holdout::draw(&bank("train", &[[1.0], [2.0]], &[0, 2], 3), 0), None);
    }
}
