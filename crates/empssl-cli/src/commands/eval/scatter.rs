//! Test images as points on a plane, near where their features are: `scatter.svg`.

mod svg;

use std::path::Path;

use bhtsne::tSNE;
use empssl_eval::{EvalError, principal_axes};
use tch::{Kind, Tensor};

use self::svg::Drawing;
use crate::error::CliError;
use crate::images::share;
use crate::report::ScoredOn;
use crate::run::folder::write_file;

/// At most so many points: more are a blot.
const POINTS: usize = 1000;
/// Principal axes that neighbours are looked for in, which is what most of the time depends on.
const AXES: usize = 50;
/// About how many neighbours each point keeps.
const PERPLEXITY: f64 = 30.0;
/// Fewer points have too few neighbours to be arranged by.
const FEWEST: usize = 10;
const ITERATIONS: usize = 500;
/// Iterations in which groups form, before they take their final shape.
const GATHERING: usize = 125;
/// Spread of the points at the beginning.
const START: f64 = 1e-4;

/// Draws a share of the scored images, `features` `[images, h]` and `labels` `[images]`, drawn by the seed.
///
/// The points are arranged by t-SNE from their places on the first two principal axes, by a single thread, so that the
/// drawing is the same each time.
pub(crate) fn write(
    path: &Path,
    features: &Tensor,
    labels: &Tensor,
    class_names: &[String],
    scored_on: ScoredOn,
    seed: u64,
) -> Result<(), CliError> {
    let (n_images, labels) = (labels.size()[0], labels.to_device(tch::Device::Cpu));
    let chosen: Vec<i64> = share(n_images as usize, POINTS, seed).into_iter().map(|index| index as i64).collect();
    let rows = features.index_select(0, &Tensor::from_slice(&chosen).to_device(features.device()));
    let places = principal_axes(&rows, AXES)?;
    let (points, method) = arranged(&places)?;
    let classes: Vec<usize> = chosen.iter().map(|&index| labels.int64_value(&[index]) as usize).collect();
    let title = format!("{} of {n_images} {} by the trained features, {method}", chosen.len(), scored_on.images());
    let drawing = Drawing { title: &title, points: &points, classes: &classes, class_names };
    write_file(path, drawing.svg().as_bytes())
}

/// Points on a plane from places on principal axes `[images, axes]`, and how they were found.
fn arranged(places: &Tensor) -> Result<(Vec<[f64; 2]>, &'static str), EvalError> {
    let axes = places.size()[1] as usize;
    let numbers = Vec::<f64>::try_from(places.to_kind(Kind::Double).contiguous().flatten(0, -1)).unwrap_or_default();
    let rows: Vec<&[f64]> = numbers.chunks(axes).collect();
    let first_two = |row: &&[f64]| [row[0], row.get(1).copied().unwrap_or(0.0)];
    let plane: Vec<[f64; 2]> = rows.iter().map(first_two).collect();
    let neighbourly = if rows.len() < FEWEST { None } else { by_neighbours(&rows, &plane) };
    Ok(match neighbourly {
        Some(points) => (points, "t-SNE"),
        None => (plane, "first two principal axes"),
    })
}

/// t-SNE; nothing where it finds no arrangement, as for rows that are all alike.
fn by_neighbours(rows: &[&[f64]], plane: &[[f64; 2]]) -> Option<Vec<[f64; 2]>> {
    // Several threads would add up numbers in another order each time.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().ok()?;
    let spread = (plane.iter().map(|point| point[0] * point[0]).sum::<f64>() / plane.len() as f64).sqrt();
    if spread.is_nan() || spread <= 0.0 {
        return None;
    }
    let start: Vec<f64> = plane.as_flattened().iter().map(|place| place / spread * START).collect();
    let most = (rows.len() - 1) as f64 / 3.0;
    let distance = |a: &&[f64], b: &&[f64]| a.iter().zip(b.iter()).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    let found = alone.install(|| {
        tSNE::<f64, &[f64], 2>::new(rows)
            .perplexity(PERPLEXITY.min(most))
            .epochs(ITERATIONS)
            .stop_lying_epoch(GATHERING)
            .momentum_switch_epoch(GATHERING)
            .initial_embedding(start)
            .exact(distance)
            .embedding()
    });
    let points: Vec<[f64; 2]> = found.chunks(2).map(|pair| [pair[0], pair[1]]).collect();
    points.iter().flatten().all(|place| place.is_finite()).then_some(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four clusters of 40 rows, in the order of `labels`.
    fn clusters() -> (Tensor, Tensor) {
        let labels = Tensor::arange(160, (Kind::Int64, tch::Device::Cpu)).remainder(4);
        let waves = (Tensor::arange(160 * 6, (Kind::Double, tch::Device::Cpu)).square() * 12.9898).sin().view([160, 6]);
        (labels.one_hot(6).to_kind(Kind::Double) + waves * 0.2, labels)
    }

    #[test]
    fn classes_that_lie_apart_are_drawn_apart_and_the_same_each_time() {
        let (features, labels) = clusters();
        let places = principal_axes(&features, AXES).unwrap();
        let (points, method) = arranged(&places).unwrap();
        assert_eq!((points.len(), method), (160, "t-SNE"));
        assert_eq!(arranged(&places).unwrap().0, points);
        let labels = Vec::<i64>::try_from(&labels).unwrap();
        let nearest_is_alike = |i: &usize| {
            let square = |j: usize| (0..2).map(|axis| (points[*i][axis] - points[j][axis]).powi(2)).sum::<f64>();
            let nearest = (0..160).filter(|j| j != i).min_by(|&a, &b| square(a).total_cmp(&square(b))).unwrap();
            labels[nearest] == labels[*i]
        };
        assert!((0..160).filter(nearest_is_alike).count() >= 155);
    }

    #[test]
    fn few_images_and_images_that_are_all_alike_are_drawn_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scatter.svg");
        let names = ["a<b".to_owned(), "c".to_owned()];
        for n in [1, 2, 9, 30] {
            let labels = Tensor::arange(n, (Kind::Int64, tch::Device::Cpu)).remainder(2);
            for features in
                [labels.one_hot(2).to_kind(Kind::Float), Tensor::ones([n, 3], (Kind::Float, tch::Device::Cpu))]
            {
                write(&path, &features, &labels, &names, ScoredOn::Test, 0).unwrap();
                let text = std::fs::read_to_string(&path).unwrap();
                assert_eq!(text.matches("<circle class=\"p\"").count() as i64, n, "{text}");
                assert!(
                    text.contains(&format!("{n} of {n} test images")) && !text.contains("NaN") && !text.contains("inf")
                );
                assert!(text.contains("a&lt;b") && !text.contains("a<b"));
            }
        }
    }
}
