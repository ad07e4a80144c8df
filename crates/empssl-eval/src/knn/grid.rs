//! Many settings of the vote in one pass over the similarities.

use serde::{Deserialize, Serialize};

use super::nearest::{Chunks, Neighbour, Searcher};
use super::votes::{Tally, rank};
use super::{KnnConfig, Metric, check_k, check_temperature};
use crate::among::Among;
use crate::copies::integers;
use crate::error::EvalError;
use crate::features::FeatureBank;
use crate::metrics::Accuracy;

/// Settings of [`KnnGrid`]; every combination is scored, every key must be given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnnGridConfig {
    /// Numbers of neighbours; with fewer training images all of them vote.
    pub ks: Vec<i64>,
    /// Temperatures of the cosine's weights.
    pub temperatures: Vec<f64>,
    /// Which rows are near. The temperatures have no effect under [`Metric::Euclidean`], which is scored once for each k.
    pub metrics: Vec<Metric>,
}

/// The score of one combination.
#[derive(Clone, Debug, PartialEq)]
pub struct KnnCell {
    /// The combination; under [`Metric::Euclidean`] the temperature is the first listed and has no effect.
    pub config: KnnConfig,
    /// Accuracy on the test bank; top-5 counts at most k classes.
    pub accuracy: Accuracy,
}

/// [`super::WeightedKnn`] for every combination of a grid, exactly, at little more than the price of one.
///
/// The similarities of the banks are computed once for all metrics, the neighbours of the largest k are kept once for
/// each metric, and all combinations vote with the first of them. No combination is chosen: choosing one by its test
/// accuracy would flatter it.
#[derive(Clone, Debug)]
pub struct KnnGrid {
    config: KnnGridConfig,
}

impl KnnGrid {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`EvalError::Setting`] when a list is empty or names a value twice, a k is below 1 or a temperature is not
    /// positive and finite.
    pub fn new(config: &KnnGridConfig) -> Result<Self, EvalError> {
        check_list("ks", &config.ks)?;
        check_list("temperatures", &config.temperatures)?;
        check_list("metrics", &config.metrics)?;
        config.ks.iter().try_for_each(|&k| check_k(k))?;
        config.temperatures.iter().try_for_each(|&temperature| check_temperature(temperature))?;
        Ok(Self { config: config.clone() })
    }

    /// The score of every combination: metric by metric, in it temperature by temperature, in it k ascending.
    ///
    /// # Errors
    /// [`EvalError::BanksDiffer`] when the banks differ in width, classes, kind or device; [`EvalError::Device`].
    pub fn score(&self, train: &FeatureBank, test: &FeatureBank) -> Result<Vec<KnnCell>, EvalError> {
        self.score_among(Among::ALONE, train, test)
    }

    /// [`KnnGrid::score`] by all ranks, which deal out the test images; every cell is the same whatever their number.
    ///
    /// # Errors
    /// As [`KnnGrid::score`]; [`EvalError::Group`] when a rank is lost.
    pub fn score_among(
        &self,
        among: Among<'_>,
        train: &FeatureBank,
        test: &FeatureBank,
    ) -> Result<Vec<KnnCell>, EvalError> {
        self.score_in_chunks(among, train, test, &Chunks::of(train))
    }

    pub(super) fn score_in_chunks(
        &self,
        among: Among<'_>,
        train: &FeatureBank,
        test: &FeatureBank,
        chunks: &Chunks,
    ) -> Result<Vec<KnnCell>, EvalError> {
        let mut ks = self.config.ks.clone();
        ks.sort_unstable();
        let mut columns = self.columns(&ks, train.n_classes() as usize);
        let labels = integers(test.labels());
        let most = ks.last().copied().unwrap_or(1);
        Searcher::new(train, test, most, &self.config.metrics)?.search(among, chunks, &mut |row, found| {
            for column in &mut columns {
                column.count(&found[column.metric], labels[row] as usize);
            }
        })?;
        let own = columns.iter().flat_map(|column| column.hits.as_flattened()).copied().collect();
        let all = among.sum(own)?;
        let of_columns = all.as_chunks::<2>().0.chunks(ks.len());
        Ok(columns.iter().zip(of_columns).flat_map(|(column, hits)| column.cells(hits, test.n_images())).collect())
    }

    fn columns(&self, ks: &[i64], n_classes: usize) -> Vec<Column> {
        let metrics = self.config.metrics.iter().enumerate();
        let columns = metrics.flat_map(|(index, &metric)| {
            let n_temperatures = match metric {
                Metric::Cosine => self.config.temperatures.len(),
                Metric::Euclidean => 1,
            };
            self.config.temperatures[..n_temperatures].iter().map(move |&temperature| {
                let config = KnnConfig { k: 0, temperature, metric };
                let tally = Tally::new(n_classes, config.weight());
                Column { metric: index, config, ks: ks.to_vec(), tally, hits: vec![[0; 2]; ks.len()] }
            })
        });
        columns.collect()
    }
}

/// A list with at least one value and none twice.
fn check_list<T: PartialEq + std::fmt::Debug>(key: &'static str, values: &[T]) -> Result<(), EvalError> {
    let twice = values.iter().enumerate().any(|(index, value)| values[..index].contains(value));
    EvalError::check(!values.is_empty() && !twice, key, "at least one value and none twice", format!("{values:?}"))
}

/// The combinations that differ in k alone.
struct Column {
    /// Its place among the metrics.
    metric: usize,
    /// But for k.
    config: KnnConfig,
    /// Ascending.
    ks: Vec<i64>,
    tally: Tally,
    /// Images whose class is the best and among the best, for each k.
    hits: Vec<[i64; 2]>,
}

impl Column {
    fn count(&mut self, neighbours: &[Neighbour], class: usize) {
        let ks: Vec<usize> = self.ks.iter().map(|&k| k as usize).collect();
        let hits = &mut self.hits;
        self.tally.vote_until(neighbours, &ks, &mut |index, scores| {
            let rank = rank(scores, class);
            hits[index][0] += i64::from(rank < 1);
            hits[index][1] += i64::from(rank < ks[index].min(5));
        });
    }

    /// The scores by the hits of all ranks.
    fn cells(&self, hits: &[[i64; 2]], n_test: i64) -> Vec<KnnCell> {
        let cell = |(&k, &hits): (&i64, &[i64; 2])| KnnCell {
            config: KnnConfig { k, ..self.config.clone() },
            accuracy: Accuracy::counted(hits, n_test),
        };
        self.ks.iter().zip(hits).map(cell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knn::WeightedKnn;
    use crate::testing::{bank, clusters, golden_bank, refusal};
    use empssl_golden::Family;
    use tch::Kind;

    fn grid() -> KnnGridConfig {
        let metrics = vec![Metric::Euclidean, Metric::Cosine];
        KnnGridConfig { ks: vec![50, 1, 7, 200], temperatures: vec![0.07, 1.0], metrics }
    }

    #[test]
    fn every_cell_is_what_its_setting_scores_alone() {
        let (train, test) = (clusters("train", 90, 0.9, Kind::Double), clusters("test", 61, 0.9, Kind::Double));
        let cells = KnnGrid::new(&grid()).unwrap().score(&train, &test).unwrap();
        let order: Vec<_> =
            cells.iter().map(|cell| (cell.config.metric, cell.config.temperature, cell.config.k)).collect();
        let ks = [1, 7, 50, 200];
        let mut expected: Vec<_> = ks.iter().map(|&k| (Metric::Euclidean, 0.07, k)).collect();
        expected.extend([0.07, 1.0].into_iter().flat_map(|t| ks.map(|k| (Metric::Cosine, t, k))));
        assert_eq!(order, expected);
        for cell in &cells {
            let alone = WeightedKnn::new(&cell.config).unwrap().score(&train, &test).unwrap();
            assert_eq!(cell.accuracy, alone, "{:?}", cell.config);
        }
        let distinct: std::collections::BTreeSet<_> = cells.iter().map(|cell| cell.accuracy.top1.to_bits()).collect();
        assert!(distinct.len() > 2, "the example does not tell the settings apart: {cells:?}");
    }

    #[test]
    fn golden_accuracies_come_from_one_pass() {
        let Some(family) = Family::open("knn") else { return };
        for case in family.cases() {
            let tensors = family.tensors(case["file"].as_str().unwrap());
            let [train, test] = ["train", "test"].map(|name| golden_bank(&tensors, case, name, Kind::Double));
            let runs = case["runs"].as_array().unwrap();
            let number = |run: &serde_json::Value, key: &str| run[key].as_f64().unwrap();
            let mut config = KnnGridConfig { ks: vec![], temperatures: vec![], metrics: grid().metrics };
            for run in runs {
                config.ks.push(run["k"].as_i64().unwrap());
                config.temperatures.push(number(run, "T"));
            }
            config.ks.sort_unstable();
            config.ks.dedup();
            config.temperatures.sort_by(f64::total_cmp);
            config.temperatures.dedup();
            let cells = KnnGrid::new(&config).unwrap().score(&train, &test).unwrap();
            for run in runs {
                let metric: Metric = serde_json::from_value(run["distance_fx"].clone()).unwrap();
                let same = |cell: &&KnnCell| {
                    let temperature = metric == Metric::Euclidean || cell.config.temperature == number(run, "T");
                    cell.config.metric == metric && temperature && cell.config.k as f64 == number(run, "k")
                };
                let cell = cells.iter().find(same).unwrap();
                assert!(run["ambiguous_rows"].as_array().unwrap().is_empty());
                assert!((cell.accuracy.top1 - number(run, "top1")).abs() < 1e-9, "{cell:?}");
                let range = number(run, "top5_lowest") - 1e-9..=number(run, "top5_highest") + 1e-9;
                assert!(range.contains(&cell.accuracy.top5), "{cell:?}");
            }
        }
    }

    #[test]
    fn refuses_grids_without_meaning() {
        let refused = |config: KnnGridConfig| refusal(KnnGrid::new(&config));
        let expected = "`ks` must be at least one value and none twice, found []";
        assert_eq!(refused(KnnGridConfig { ks: vec![], ..grid() }), expected);
        assert!(refused(KnnGridConfig { ks: vec![5, 5], ..grid() }).ends_with("found [5, 5]"));
        assert_eq!(refused(KnnGridConfig { ks: vec![5, 0], ..grid() }), "`k` must be at least 1, found 0");
        assert!(refused(KnnGridConfig { temperatures: vec![], ..grid() }).starts_with("`temperatures` must be"));
        let nan = refused(KnnGridConfig { temperatures: vec![0.1, f64::NAN], ..grid() });
        assert_eq!(nan, "`temperature` must be positive and finite, found NaN");
        assert!(refused(KnnGridConfig { metrics: vec![], ..grid() }).starts_with("`metrics` must be"));
        let (train, test) = (bank("train", &[[1.0, 2.0]], &[0], 2), bank("test", &[[1.0]], &[0], 2));
        let message = refusal(KnnGrid::new(&grid()).unwrap().score(&train, &test));
        assert!(message.starts_with("the bank `test` has 1 features"), "{message}");
    }
}
