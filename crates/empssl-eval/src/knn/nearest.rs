//! The nearest training images of every test image, exactly, by products of pieces of the two banks.

use empssl_torch::host::largest::{Adjustment, Largest};
use tch::{Device, Tensor};

use super::Metric;
use crate::among::Among;
use crate::copies::{integers, reals};
use crate::error::EvalError;
use crate::features::FeatureBank;

/// Smallest length that a row is divided by, so that a row of zeros stays one.
const SMALLEST_NORM: f64 = 1e-12;

/// Added to a distance before it is inverted, so that identical rows have a finite similarity.
const SMALLEST_DISTANCE: f64 = 1e-5;

/// On the host: test rows and training rows of one product, 8 MiB of float32 that the cache holds until they have been
/// looked through. Both are long enough for the product to run at the machine's full rate.
const HOST_ROWS: i64 = 1024;
const HOST_COLUMNS: i64 = 2048;

/// On a device: most numbers of one piece of the similarity matrix.
const DEVICE_ELEMENTS: i64 = 1 << 26;

/// How many test rows and how many training rows are compared at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunks {
    pub(super) rows: i64,
    /// Ignored on a device, which looks through all training rows at once.
    pub(super) columns: i64,
}

impl Chunks {
    /// What suits the place where a bank is.
    pub(super) fn of(train: &FeatureBank) -> Self {
        match train.features().device() {
            Device::Cpu => Self { rows: HOST_ROWS, columns: HOST_COLUMNS },
            _ => Self { rows: (DEVICE_ELEMENTS / train.n_images()).max(1), columns: train.n_images() },
        }
    }
}

/// A training image near a test image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Neighbour {
    /// Its cosine, or `1 / (distance + 1e-5)`.
    pub(super) similarity: f64,
    pub(super) class: usize,
    /// Its row in the training bank.
    pub(super) row: usize,
}

/// Finds the k nearest training images by several metrics at once.
pub(super) struct Searcher<'a> {
    train: &'a FeatureBank,
    test: &'a FeatureBank,
    k: i64,
    metrics: &'a [Metric],
    /// Lengths of the training rows, `[images]`.
    lengths: Tensor,
    /// The class of each training image.
    classes: Vec<i64>,
}

impl<'a> Searcher<'a> {
    /// Of fewer than `k` training images all are neighbours.
    pub(super) fn new(
        train: &'a FeatureBank,
        test: &'a FeatureBank,
        k: i64,
        metrics: &'a [Metric],
    ) -> Result<Self, EvalError> {
        train.signature().check(test)?;
        let _guard = tch::no_grad_guard();
        let lengths = row_norms(train.features()).squeeze_dim(1);
        let classes = integers(train.labels());
        Ok(Self { train, test, k: k.min(train.n_images()), metrics, lengths, classes })
    }

    /// Shows the neighbours of every test row, nearest first, one list for each metric. Among several ranks the chunks of
    /// test rows are dealt out, and each sees the rows of its own.
    pub(super) fn search(
        &self,
        among: Among<'_>,
        chunks: &Chunks,
        found: &mut dyn FnMut(usize, &[Vec<Neighbour>]),
    ) -> Result<(), EvalError> {
        let _guard = tch::no_grad_guard();
        let (n_test, (first, every)) = (self.test.n_images(), among.hand());
        for start in (0..n_test).step_by(chunks.rows as usize).skip(first).step_by(every) {
            let queries = Queries::new(&self.test.features().narrow(0, start, chunks.rows.min(n_test - start)));
            let by_metric = match self.train.features().device() {
                Device::Cpu => self.on_host(&queries, chunks.columns)?,
                _ => self.on_device(&queries),
            };
            let mut by_metric: Vec<_> = by_metric.into_iter().map(Vec::into_iter).collect();
            for row in start..start + queries.n_rows() {
                found(row as usize, &by_metric.iter_mut().filter_map(Iterator::next).collect::<Vec<_>>());
            }
        }
        Ok(())
    }

    /// `[metric][row][neighbour]`
    fn on_host(&self, queries: &Queries, columns: i64) -> Result<Vec<Vec<Vec<Neighbour>>>, EvalError> {
        let (n_rows, n_train) = (queries.n_rows() as usize, self.train.n_images());
        let mut kept: Vec<_> = self.metrics.iter().map(|_| Largest::new(n_rows, self.k as usize)).collect();
        let of_rows: Vec<_> = self.metrics.iter().map(|&metric| queries.terms(metric)).collect();
        for start in (0..n_train).step_by(columns as usize) {
            let part = |tensor: &Tensor| tensor.narrow(0, start, columns.min(n_train - start));
            let products = queries.directions.matmul(&part(self.train.features()).tr());
            for ((&metric, kept), rows) in self.metrics.iter().zip(&mut kept).zip(&of_rows) {
                let columns = column_terms(metric, &part(&self.lengths));
                kept.add(
                    &products,
                    &Adjustment {
                        row_factors: &rows.factors,
                        row_terms: &rows.terms,
                        column_factors: &columns.factors,
                        column_terms: &columns.terms,
                        at_most: at_most(metric),
                    },
                )?;
            }
        }
        let lists = self.metrics.iter().zip(kept).map(|(&metric, kept)| {
            kept.into_rows().map(|row| row.into_iter().map(|entry| self.neighbour(metric, entry)).collect()).collect()
        });
        Ok(lists.collect())
    }

    /// As [`Searcher::on_host`], by libtorch's operators.
    fn on_device(&self, queries: &Queries) -> Vec<Vec<Vec<Neighbour>>> {
        let products = queries.directions.matmul(&self.train.features().tr());
        let lists = self.metrics.iter().map(|&metric| {
            let (rows, columns) = (queries.terms(metric), column_terms(metric, &self.lengths));
            let mut adjusted = &products * rows.factors.unsqueeze(1);
            adjusted *= &columns.factors;
            adjusted += rows.terms.unsqueeze(1);
            adjusted += &columns.terms;
            if at_most(metric).is_finite() {
                adjusted = adjusted.clamp_max_(at_most(metric));
            }
            let (numbers, columns) = best_of_rows(&adjusted, self.k);
            let columns = integers(&columns).into_iter().map(|column| column as usize);
            let entries: Vec<_> = reals(&numbers).into_iter().zip(columns).collect();
            let rows = entries.chunks(self.k as usize);
            rows.map(|row| row.iter().map(|&entry| self.neighbour(metric, entry)).collect()).collect()
        });
        lists.collect()
    }

    fn neighbour(&self, metric: Metric, (ranked, row): (f64, usize)) -> Neighbour {
        let similarity = match metric {
            Metric::Cosine => ranked,
            Metric::Euclidean => 1.0 / ((-ranked).sqrt() + SMALLEST_DISTANCE),
        };
        Neighbour { similarity, class: self.classes[row] as usize, row }
    }
}

/// Some test rows: every product is with their directions, whatever the metric.
struct Queries {
    /// `[m, h]`, rows of length 1, but for rows of zeros.
    directions: Tensor,
    /// `[m]`
    lengths: Tensor,
}

/// What is done to the rows or columns of products before they are ranked.
struct Terms {
    factors: Tensor,
    terms: Tensor,
}

impl Queries {
    fn new(features: &Tensor) -> Self {
        let lengths = row_norms(features);
        Self { directions: features / lengths.clamp_min(SMALLEST_NORM), lengths: lengths.squeeze_dim(1) }
    }

    fn n_rows(&self) -> i64 {
        self.lengths.size()[0]
    }

    /// Under the euclidean metric minus the squared distance is ranked, `2 |a| p - |a|^2 - |b|^2` with the product `p`
    /// of the direction of a and b.
    fn terms(&self, metric: Metric) -> Terms {
        match metric {
            Metric::Cosine => Terms { factors: self.lengths.ones_like(), terms: self.lengths.zeros_like() },
            Metric::Euclidean => Terms { factors: &self.lengths * 2.0, terms: -self.lengths.square() },
        }
    }
}

/// For training rows of such lengths.
fn column_terms(metric: Metric, lengths: &Tensor) -> Terms {
    match metric {
        Metric::Cosine => Terms { factors: lengths.clamp_min(SMALLEST_NORM).reciprocal(), terms: lengths.zeros_like() },
        Metric::Euclidean => Terms { factors: lengths.ones_like(), terms: -lengths.square() },
    }
}

/// Rounding may leave the square of a distance below zero.
fn at_most(metric: Metric) -> f64 {
    match metric {
        Metric::Cosine => f64::INFINITY,
        Metric::Euclidean => 0.0,
    }
}

fn row_norms(rows: &Tensor) -> Tensor {
    rows.norm_scalaropt_dim(2, [1i64], true)
}

/// The k largest values of each row and their columns, largest first; of equal values the first columns.
///
/// `topk` alone leaves open which of several equal values it returns, which matters when not all of them fit.
/// So one value more is asked for, and rows in which it equals the last are sorted in full; that is rare.
fn best_of_rows(values: &Tensor, k: i64) -> (Tensor, Tensor) {
    if k == values.size()[1] {
        return values.sort_stable(true, 1, true);
    }
    let (more, more_columns) = values.topk(k + 1, 1, true, true);
    let (best, mut columns) = (more.narrow(1, 0, k), more_columns.narrow(1, 0, k));
    let tied = best.select(1, k - 1).eq_tensor(&more.select(1, k)).nonzero().flatten(0, -1);
    if tied.numel() > 0 {
        let (_, sorted) = values.index_select(0, &tied).sort_stable(true, 1, true);
        columns = columns.index_copy(0, &tied, &sorted.narrow(1, 0, k));
    }
    (best, columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PRECISIONS, bank, clusters, numbers, values};
    use empssl_golden::{Family, assert_close};
    use tch::Kind;

    const BOTH: [Metric; 2] = [Metric::Cosine, Metric::Euclidean];

    #[test]
    fn golden_mean_is_normalised_as_the_reference_does() {
        let Some(family) = Family::open("knn") else { return };
        let about = &family.index["chunk_avg"];
        let Some(file) = about["file"].as_str() else { return };
        let tensors = family.tensors(file);
        for (kind, precision) in PRECISIONS {
            let ours = Queries::new(&numbers(&tensors, "mean", kind)).directions;
            let tolerance = about["tolerance"][precision].as_f64().unwrap();
            assert_close("normalised mean", &values(&ours), &tensors.get("mean_normalized").f64(), tolerance);
        }
    }

    #[test]
    fn host_and_device_find_the_same_neighbours() {
        // The road of a device is a road of libtorch's operators, which the host has as well.
        let (train, test) = (clusters("train", 90, 0.8, Kind::Double), clusters("test", 31, 0.9, Kind::Double));
        for k in [1, 7, 90, 200] {
            let searcher = Searcher::new(&train, &test, k, &BOTH).unwrap();
            let queries = Queries::new(test.features());
            for columns in [1, 40, 1000] {
                let (host, device) = (searcher.on_host(&queries, columns).unwrap(), searcher.on_device(&queries));
                for (host, device) in host.iter().flatten().zip(device.iter().flatten()) {
                    assert_eq!(host.len(), (k as usize).min(90));
                    let rows = |list: &[Neighbour]| list.iter().map(|near| near.row).collect::<Vec<_>>();
                    assert_eq!(rows(host), rows(device));
                    assert!(host.iter().zip(device).all(|(a, b)| (a.similarity - b.similarity).abs() < 1e-12));
                }
            }
        }
    }

    #[test]
    fn of_equal_values_the_first_columns_are_taken_on_a_device_too() {
        let best = best_of_rows(&Tensor::from_slice(&[1.0, 3.0, 3.0, 2.0, 3.0, 3.0]).view([1, 6]), 3);
        assert_eq!(values(&best.1), [1.0, 2.0, 4.0]);
        assert_eq!(values(&best.0), [3.0, 3.0, 3.0]);
    }

    #[test]
    fn every_row_is_shown_once_and_in_order_whatever_the_chunks() {
        let (train, test) = (clusters("train", 9, 0.8, Kind::Double), clusters("test", 7, 0.9, Kind::Double));
        for rows in [1, 3, 100] {
            let mut shown = Vec::new();
            let chunks = Chunks { rows, columns: 4 };
            Searcher::new(&train, &test, 2, &BOTH)
                .unwrap()
                .search(Among::ALONE, &chunks, &mut |row, found| {
                    shown.push(row);
                    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
                })
                .unwrap();
            assert_eq!(shown, (0..7).collect::<Vec<_>>());
        }
    }

    #[test]
    fn similarities_are_cosines_and_inverse_distances() {
        let train = bank("train", &[[3.0, 4.0], [0.0, 2.0]], &[0, 1], 2);
        let test = bank("test", &[[0.0, 2.0]], &[1], 2);
        let searcher = Searcher::new(&train, &test, 2, &BOTH).unwrap();
        let lists = searcher.on_host(&Queries::new(test.features()), 2).unwrap();
        let list = |metric: usize| lists[metric][0].iter().map(|near| near.similarity).collect::<Vec<_>>();
        assert_close("cosines", &list(0), &[1.0, 0.8], 1e-15);
        assert_close("distances", &list(1), &[1e5, 1.0 / (13f64.sqrt() + 1e-5)], 1e-9);
        assert_eq!((lists[1][0][0].row, lists[1][0][0].class), (1, 1));
    }

    #[test]
    fn a_bank_on_the_host_is_never_compared_as_a_whole() {
        let chunks = Chunks::of(&clusters("train", 9, 0.8, Kind::Float));
        assert!(chunks.rows * chunks.columns * 4 <= 8 << 20);
    }
}
