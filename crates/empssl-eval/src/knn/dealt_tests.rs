//! Test images that are dealt out over ranks: the same neighbours and the same scores.

use super::nearest::Neighbour;
use super::*;
use crate::testing::{clusters, is_alone, on_ranks};
use tch::Kind;

const CHUNKS: Chunks = Chunks { rows: 7, columns: 40 };
const METRICS: [Metric; 2] = [Metric::Cosine, Metric::Euclidean];

fn banks() -> [FeatureBank; 2] {
    let all = clusters("all", 151, 0.9, Kind::Float);
    [("train", 0, 90), ("test", 90, 61)].map(|(name, start, length)| {
        let (features, labels) = (all.features().narrow(0, start, length), all.labels().narrow(0, start, length));
        FeatureBank::new(name, &features, &labels, 4).unwrap()
    })
}

/// Row, and for each metric its neighbours with the bits of their similarities.
type Found = (usize, Vec<Vec<(usize, u64)>>);

fn neighbours(among: Among<'_>) -> Vec<Found> {
    let [train, test] = banks();
    let mut all = Vec::new();
    let bits = |near: &Neighbour| (near.row, near.similarity.to_bits());
    let mut found = |row: usize, lists: &[Vec<Neighbour>]| {
        all.push((row, lists.iter().map(|list| list.iter().map(bits).collect()).collect()));
    };
    Searcher::new(&train, &test, 20, &METRICS).unwrap().search(among, &CHUNKS, &mut found).unwrap();
    all
}

#[test]
fn one_two_and_four_ranks_find_the_same_neighbours_to_the_bit() {
    if !is_alone("knn::dealt_tests::one_two_and_four_ranks_find_the_same_neighbours_to_the_bit") {
        return;
    }
    let one = neighbours(Among::ALONE);
    assert_eq!(one.len(), 61);
    for world in [1, 2, 4, 11] {
        let parts = on_ranks(world, |group| Ok(neighbours(Among::ranks(group))));
        let parts: Vec<Vec<Found>> = parts.into_iter().map(Result::unwrap).collect();
        let most = parts.iter().map(Vec::len).max().unwrap();
        assert!(most < 61 || world == 1, "nobody has all of them");
        let mut all = parts.concat();
        all.sort_by_key(|(row, _)| *row);
        assert!(all == one, "{world} ranks");
    }
}

#[test]
fn one_two_and_four_ranks_give_the_same_scores() {
    if !is_alone("knn::dealt_tests::one_two_and_four_ranks_give_the_same_scores") {
        return;
    }
    let grid = KnnGridConfig { ks: vec![1, 7, 20], temperatures: vec![0.07, 1.0], metrics: METRICS.to_vec() };
    let (knn, grid) = (WeightedKnn::new(&KnnConfig::published()).unwrap(), KnnGrid::new(&grid).unwrap());
    let score = |among: Among<'_>| {
        let [train, test] = banks();
        let hits = among.sum(knn.hits(among, &train, &test, &CHUNKS).unwrap().to_vec()).unwrap();
        let cells = grid.score_in_chunks(among, &train, &test, &CHUNKS).unwrap();
        (Accuracy::counted([hits[0], hits[1]], 61), knn.score_among(among, &train, &test).unwrap(), cells)
    };
    let one = score(Among::ALONE);
    assert_eq!(one.0, one.1);
    assert!(one.0.top1 > 0.0 && one.0.top1 < 100.0, "{one:?}");
    for world in [2, 4] {
        for other in on_ranks(world, |group| Ok(score(Among::ranks(group)))) {
            assert_eq!(other.unwrap(), one, "{world} ranks");
        }
    }
}
