//! The images most like one image.

use tch::{Kind, Tensor};

use crate::error::EvalError;
use crate::features::{SMALLEST_NORM, first_non_finite_row};

/// A row of features and how near it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Its number among the features.
    pub row: usize,
    /// Cosine of the angle between it and the query.
    pub cosine: f64,
}

/// The `k` rows of `features` `[images, h]` that are nearest to `query` `[h]` by cosine, the nearest first; with fewer
/// rows all of them. Of rows at the same cosine the earlier is the nearer.
///
/// # Errors
/// [`EvalError::Setting`] when `k` is 0, [`EvalError::Shape`] unless both are as wide, [`EvalError::EmptyBank`] without
/// a row, and [`EvalError::NonFinite`] for a query (row 0) or a row that is not finite.
pub fn nearest(features: &Tensor, query: &Tensor, k: usize) -> Result<Vec<Neighbour>, EvalError> {
    EvalError::check(k >= 1, "k", "at least 1", k)?;
    let _guard = tch::no_grad_guard();
    let shape = features.size();
    if shape.len() != 2 {
        let (what, expected) = ("the features".to_owned(), "[images, h]".to_owned());
        return Err(EvalError::Shape { what, expected, found: format!("{shape:?}") });
    }
    EvalError::check_sizes("the query", &query.size(), &shape[1..])?;
    if shape[0] == 0 {
        return Err(EvalError::EmptyBank { bank: "features".to_owned() });
    }
    demand_finite("query", &query.sum(Kind::Double).unsqueeze(0))?;
    let query = query / query.norm().clamp_min(SMALLEST_NORM);
    let lengths = features.norm_scalaropt_dim(2, [1i64], false).clamp_min(SMALLEST_NORM);
    let cosines = (features.mv(&query) / lengths).to_kind(Kind::Double);
    demand_finite("features", &cosines)?;
    let (cosines, rows) = cosines.sort_stable(true, 0, true);
    let count = (k as i64).min(shape[0]);
    let nearest = (0..count)
        .map(|place| Neighbour { row: rows.int64_value(&[place]) as usize, cosine: cosines.double_value(&[place]) });
    Ok(nearest.collect())
}

/// Refuses numbers `[rows]` that are not finite.
fn demand_finite(bank: &str, numbers: &Tensor) -> Result<(), EvalError> {
    let row = first_non_finite_row(&numbers.unsqueeze(1));
    row.map_or(Ok(()), |row| Err(EvalError::NonFinite { bank: bank.to_owned(), row }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::refusal;

    fn rows(values: &[[f64; 2]]) -> Tensor {
        Tensor::from_slice(values.as_flattened()).view([-1, 2])
    }

    fn query(values: [f64; 2]) -> Tensor {
        Tensor::from_slice(&values)
    }

    #[test]
    fn the_nearest_comes_first_and_the_earlier_of_two_alike() {
        let features = rows(&[[0.0, 1.0], [3.0, 0.0], [1.0, 1.0], [5.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]);
        let found = nearest(&features, &query([2.0, 0.0]), 4).unwrap();
        let places: Vec<usize> = found.iter().map(|neighbour| neighbour.row).collect();
        assert_eq!(places, [1, 3, 2, 0]);
        let expected = [1.0, 1.0, 0.5f64.sqrt(), 0.0];
        assert!(found.iter().zip(expected).all(|(found, cosine)| (found.cosine - cosine).abs() < 1e-12), "{found:?}");
        let all = nearest(&features, &query([2.0, 0.0]), 100).unwrap();
        assert_eq!((all.len(), all[5].row, all[5].cosine), (6, 4, -1.0));
    }

    #[test]
    fn what_has_no_neighbours_is_refused() {
        let features = rows(&[[1.0, 0.0], [0.0, f64::NAN]]);
        assert_eq!(refusal(nearest(&features, &query([1.0, 0.0]), 0)), "`k` must be at least 1, found 0");
        assert!(
            refusal(nearest(&features, &query([1.0, 0.0]), 1)).contains("`features` are not finite, first in row 1")
        );
        assert!(refusal(nearest(&features, &query([f64::INFINITY, 0.0]), 1)).contains("`query` are not finite"));
        let narrow = Tensor::from_slice(&[1.0]);
        assert_eq!(refusal(nearest(&features, &narrow, 1)), "the query must be [2], found [1]");
        assert_eq!(refusal(nearest(&narrow, &narrow, 1)), "the features must be [images, h], found [1]");
        assert!(refusal(nearest(&features.narrow(0, 0, 0), &query([1.0, 0.0]), 1)).contains("holds no image"));
    }
}
