//! A bank, or some of its rows without a copy of them, and where their features lie.

use tch::{Kind, Tensor};

use crate::features::FeatureBank;

/// Numbers of features that are handled at once, 8 MiB of float32: few enough for the cache to hold them between two
/// products, and for a bank that lies on disk never to be in memory as a whole.
const NUMBERS_AT_ONCE: i64 = 1 << 21;

/// Images of a bank, in the bank's order.
#[derive(Debug)]
pub(super) struct Part<'a> {
    bank: &'a FeatureBank,
    /// Their rows; none for the whole bank.
    rows: Option<Tensor>,
}

impl<'a> Part<'a> {
    pub(super) fn whole(bank: &'a FeatureBank) -> Self {
        Self { bank, rows: None }
    }

    /// The given rows of a bank, ascending.
    pub(super) fn some(bank: &'a FeatureBank, rows: &[i64]) -> Self {
        Self { bank, rows: Some(Tensor::from_slice(rows).to_device(bank.features().device())) }
    }

    pub(super) fn bank(&self) -> &'a FeatureBank {
        self.bank
    }

    pub(super) fn n_images(&self) -> i64 {
        self.rows.as_ref().map_or(self.bank.n_images(), |rows| rows.size()[0])
    }

    /// Labels `[images]`.
    pub(super) fn labels(&self) -> Tensor {
        let labels = self.bank.labels();
        self.rows.as_ref().map_or_else(|| labels.shallow_clone(), |rows| labels.index_select(0, rows))
    }

    /// Features `[m, h]` in `kind` and labels `[m]`, a few images at a time.
    pub(super) fn chunks(&self, kind: Kind) -> impl Iterator<Item = (Tensor, Tensor)> + '_ {
        let (n, at_once) = (self.n_images(), (NUMBERS_AT_ONCE / self.bank.width()).max(1));
        (0..n).step_by(at_once as usize).map(move |start| {
            let length = at_once.min(n - start);
            let (features, labels) = match &self.rows {
                Some(rows) => {
                    let rows = rows.narrow(0, start, length);
                    (self.bank.features().index_select(0, &rows), self.bank.labels().index_select(0, &rows))
                }
                None => (self.bank.features().narrow(0, start, length), self.bank.labels().narrow(0, start, length)),
            };
            (features.to_kind(kind), labels)
        })
    }
}

/// Where the features of a bank lie.
#[derive(Debug)]
pub(super) struct Scaling {
    /// Mean `[h]`, float64.
    pub(super) centre: Tensor,
    /// Root of the mean squared distance from it; 1 where there is none.
    pub(super) spread: f64,
}

impl Scaling {
    pub(super) fn of(part: &Part<'_>) -> Self {
        let n = part.n_images() as f64;
        let sum = |of: &dyn Fn(&Tensor) -> Tensor| {
            part.chunks(Kind::Double).map(|(features, _)| of(&features)).reduce(|sum, next| sum + next)
        };
        let zero = || Tensor::zeros([part.bank().width()], (Kind::Double, part.bank().features().device()));
        let centre = sum(&|features| features.sum_dim_intlist(0, false, None)).unwrap_or_else(zero) / n;
        let squares = sum(&|features| (features - &centre).square().sum(None));
        let spread = squares.map_or(0.0, |squares| (squares.double_value(&[]) / n).sqrt());
        Self { centre, spread: if spread > 0.0 { spread } else { 1.0 } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{clusters, values};
    use tch::Device;

    #[test]
    fn a_part_has_the_rows_it_was_given_and_the_whole_has_all() {
        let bank = clusters("train", 9, 0.3, Kind::Float);
        let part = Part::some(&bank, &[1, 4, 8]);
        assert_eq!((part.n_images(), Part::whole(&bank).n_images()), (3, 9));
        assert_eq!(values(&part.labels()), [1.0, 0.0, 0.0]);
        let (features, labels) = part.chunks(Kind::Double).next().unwrap();
        assert_eq!(values(&features), [1, 4, 8].map(|row| values(&bank.features().get(row))).concat());
        assert_eq!((features.kind(), values(&labels)), (Kind::Double, vec![1.0, 0.0, 0.0]));
    }

    #[test]
    fn chunks_are_bounded_and_miss_nothing() {
        let width = NUMBERS_AT_ONCE / 4;
        let (features, labels) =
            (Tensor::zeros([10, width], (Kind::Half, Device::Cpu)), Tensor::arange(10, (Kind::Int64, Device::Cpu)));
        let bank = FeatureBank::new("wide", &features, &labels, 10).unwrap();
        let seen: Vec<_> = Part::whole(&bank).chunks(Kind::Half).map(|(_, labels)| values(&labels)).collect();
        assert_eq!(seen, [vec![0.0, 1.0, 2.0, 3.0], vec![4.0, 5.0, 6.0, 7.0], vec![8.0, 9.0]]);
    }
}
