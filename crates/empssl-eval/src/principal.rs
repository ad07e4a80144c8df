//! The directions in which features differ most.

use tch::{Device, Kind, Tensor};

use crate::error::EvalError;
use crate::features::SMALLEST_NORM;

/// Where each row of `features` `[images, h]` lies along the first `count` principal axes of all of them, brought to
/// length 1 as kNN by cosine sees them: float64 `[images, at most count]` on the CPU, the axis of the largest variance
/// first. There are never more axes than images or features.
///
/// Nothing is drawn, and of the two directions of an axis the one is taken along which the row that is farthest out is
/// positive; so the result is the same each time, on the same machine and threads to the bit.
///
/// Memory: a float64 copy of the features and a matrix `[images, images]`, whose eigenvectors take time in the cube of
/// the number of images: give some thousand at most.
///
/// # Errors
/// [`EvalError::Setting`] when `count` is 0, [`EvalError::Shape`] unless the features are a matrix,
/// [`EvalError::EmptyBank`] without a row.
pub fn principal_axes(features: &Tensor, count: usize) -> Result<Tensor, EvalError> {
    EvalError::check(count >= 1, "count", "at least 1", count)?;
    let _guard = tch::no_grad_guard();
    let &[images, width] = features.size().as_slice() else {
        let (what, expected) = ("the features".to_owned(), "[images, h]".to_owned());
        return Err(EvalError::Shape { what, expected, found: format!("{:?}", features.size()) });
    };
    if images == 0 {
        return Err(EvalError::EmptyBank { bank: "features".to_owned() });
    }
    let rows = features.to_device(Device::Cpu).to_kind(Kind::Double);
    let rows = &rows / rows.norm_scalaropt_dim(2, [1i64], true).clamp_min(SMALLEST_NORM);
    let rows = &rows - rows.mean_dim([0i64].as_slice(), true, Kind::Double);
    // Eigenvalues come in ascending order.
    let (variances, vectors) = rows.matmul(&rows.tr()).linalg_eigh("L");
    let count = (count as i64).min(images).min(width);
    let last = |tensor: &Tensor, dim: i64| tensor.narrow(dim, images - count, count).flip([dim]);
    let places = last(&vectors, 1) * last(&variances, 0).clamp_min(0.0).sqrt();
    let farthest = places.gather(0, &places.abs().argmax(0, true), false);
    Ok(&places * farthest.sign())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{refusal, values};

    #[test]
    fn a_cloud_is_turned_so_that_it_is_longest_along_the_first_axis() {
        // Unit vectors at small angles around (0, 1): what differs is the first number, then the third.
        let rows: Vec<[f64; 3]> = (0..40)
            .map(|i| {
                let (x, z) = ((f64::from(i) * 1.7).sin() * 0.3, (f64::from(i) * 0.9).cos() * 0.05);
                [x, (1.0 - x * x - z * z).sqrt(), z]
            })
            .collect();
        let features = Tensor::from_slice(rows.as_flattened()).view([40, 3]);
        let places = principal_axes(&features, 2).unwrap();
        assert_eq!((places.size(), places.kind()), (vec![40, 2], Kind::Double));
        let spread = values(&places.std_dim([0i64].as_slice(), false, false));
        assert!(spread[0] > 4.0 * spread[1] && spread[1] > 0.01, "{spread:?}");
        let x = values(&features.select(1, 0));
        let first = values(&places.select(1, 0));
        let (mx, mf) = (x.iter().sum::<f64>() / 40.0, first.iter().sum::<f64>() / 40.0);
        let dot =
            |a: &[f64], ma: f64, b: &[f64], mb: f64| a.iter().zip(b).map(|(a, b)| (a - ma) * (b - mb)).sum::<f64>();
        let r = dot(&x, mx, &first, mf) / (dot(&x, mx, &x, mx) * dot(&first, mf, &first, mf)).sqrt();
        assert!(r.abs() > 0.999 && mf.abs() < 1e-12, "{r}");
        // Lengths do not count, and neither does the sign that a library gives an eigenvector.
        let scaled = principal_axes(&(&features * 3.0), 2).unwrap();
        let gap = values(&(&scaled - &places).abs().max()).remove(0);
        assert!(gap < 1e-9, "{gap}");
        assert_eq!(principal_axes(&features, 2).unwrap(), places);
    }

    #[test]
    fn there_are_no_more_axes_than_images_or_features_and_equal_rows_lie_at_the_origin() {
        let features = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 1.0, 2.0, 3.0]).view([2, 3]);
        let places = principal_axes(&features, 9).unwrap();
        assert_eq!(places.size(), [2, 2]);
        assert!(values(&places.abs().max())[0] < 1e-6);
        assert_eq!(principal_axes(&features.narrow(1, 0, 1), 9).unwrap().size(), [2, 1]);
    }

    #[test]
    fn what_has_no_axes_is_refused() {
        let features = Tensor::ones([2, 3], (Kind::Float, Device::Cpu));
        assert_eq!(refusal(principal_axes(&features, 0)), "`count` must be at least 1, found 0");
        assert_eq!(refusal(principal_axes(&features.get(0), 1)), "the features must be [images, h], found [3]");
        assert!(refusal(principal_axes(&features.narrow(0, 0, 0), 1)).contains("holds no image"));
    }
}
