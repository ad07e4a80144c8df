//! The drawn parameters and the patches against the distributions of the published code.

use std::collections::BTreeMap;

use empssl_data::patch::{Adjust, PatchParams};
use empssl_data::{PatchConfig, PatchKey, PatchSampler};
use empssl_golden::Family;
use ndarray::ArrayView3;
use serde_json::Value;

const DRAWS: u32 = 40_000;

/// The reference statistics, or nothing where the family is absent.
fn statistics() -> Option<(Family, Value)> {
    let family = Family::open("augment")?;
    let statistics = family.json("distributions.json");
    Some((family, statistics))
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap_or_else(|| panic!("expected a list, found {value}"));
    list.iter().map(|number| number.as_f64().expect("a list of numbers")).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("expected a number, found {value}"))
}

fn pair(value: &Value) -> [f64; 2] {
    numbers(value).try_into().expect("two numbers")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("expected a list, found {value}"))
}

/// Everything certain but what a test switches on.
fn plain() -> PatchConfig {
    PatchConfig { flip_p: 0.0, jitter_p: 0.0, grayscale_p: 0.0, blur_p: 0.0, solarize_p: 0.0, ..PatchConfig::cifar32() }
}

fn draws(config: &PatchConfig, height: usize, width: usize) -> Vec<PatchParams> {
    let sampler = PatchSampler::new(config).expect("a valid recipe");
    (0..DRAWS).map(|patch| sampler.draw(height, width, PatchKey { seed: 5, epoch: 0, image: 0, patch })).collect()
}

/// Compares mean and histogram (or counts) of our numbers with the reference, as its `how_to_test` says.
fn check(name: &str, ours: &[f64], reference: &Value) {
    let (m, n) = (ours.len() as f64, number(&reference["n"]));
    let mean = ours.iter().sum::<f64>() / m;
    let gap = (mean - number(&reference["mean"])).abs();
    let allowed = 5.0 * number(&reference["std"]) * (1.0 / m + 1.0 / n).sqrt() + 1e-6;
    assert!(gap <= allowed, "{name}: mean {mean} is off by {gap}, allowed {allowed}");
    if let Some(counts) = reference["counts"].as_object() {
        let mut bins: BTreeMap<i64, [f64; 2]> = BTreeMap::new();
        ours.iter().for_each(|&value| bins.entry(value as i64).or_default()[0] += 1.0);
        for (value, count) in counts {
            bins.entry(value.parse().expect("an integer")).or_default()[1] += number(count);
        }
        check_bins(name, &bins.into_values().collect::<Vec<_>>());
    } else {
        let edges = numbers(&reference["histogram"]["edges"]);
        let truth = numbers(&reference["histogram"]["counts"]);
        let mut bins: Vec<[f64; 2]> = truth.iter().map(|&count| [0.0, count]).collect();
        let (first, last) = (edges[0], edges[truth.len()]);
        for value in ours.iter().filter(|&value| (first..=last).contains(value)) {
            bins[edges.partition_point(|edge| edge <= value).min(truth.len()) - 1][0] += 1.0;
        }
        check_bins(name, &bins);
    }
}

/// A two-sample chi-square test: fails where chance alone would be that far off less than once in a million times.
fn check_bins(name: &str, bins: &[[f64; 2]]) {
    let total = bins.iter().fold([0.0, 0.0], |sum, bin| [sum[0] + bin[0], sum[1] + bin[1]]);
    let filled: Vec<_> = bins.iter().filter(|bin| bin[0] + bin[1] >= 10.0).collect();
    let (a, b) = ((total[1] / total[0]).sqrt(), (total[0] / total[1]).sqrt());
    let square: f64 = filled.iter().map(|[ours, truth]| (a * ours - b * truth).powi(2) / (ours + truth)).sum();
    let freedom = filled.len() as f64 - 1.0;
    if freedom > 0.0 {
        // Wilson and Hilferty: the cube root of chi-square is nearly normal; 4.75 deviations are one in a million.
        let spread = 2.0 / (9.0 * freedom);
        let deviations = ((square / freedom).cbrt() - (1.0 - spread)) / spread.sqrt();
        assert!(deviations < 4.75, "{name}: chi-square {square} at {freedom} degrees of freedom");
    }
}

#[test]
fn golden_augment_crops_are_distributed_as_published() {
    let Some((_, statistics)) = statistics() else { return };
    for case in list(&statistics["crop"]) {
        let (height, width) = (number(&case["height"]), number(&case["width"]));
        let config = PatchConfig { crop_scale: pair(&case["scale"]), crop_ratio: pair(&case["ratio"]), ..plain() };
        let crops: Vec<_> = draws(&config, height as usize, width as usize).iter().map(|params| params.crop).collect();
        let name = |what: &str| format!("{what} of a crop of {width} x {height}, ratio {}", case["ratio"]);
        let check_each = |what: &str, value: &dyn Fn(f64, f64, f64, f64) -> f64| {
            let of = |crop: &empssl_data::augment::resize::CropBox| {
                value(crop.top as f64, crop.left as f64, crop.height as f64, crop.width as f64)
            };
            check(&name(what), &crops.iter().map(of).collect::<Vec<_>>(), &case[what]);
        };
        check_each("i", &|i, _, _, _| i);
        check_each("j", &|_, j, _, _| j);
        check_each("h", &|_, _, h, _| h);
        check_each("w", &|_, _, _, w| w);
        check_each("log_aspect_w_over_h", &|_, _, h, w| (w / h).ln());
        check_each("area_share", &|_, _, h, w| h * w / (height * width));
        check_each("i_relative", &|i, _, h, _| (i + 0.5) / (height - h + 1.0));
        check_each("j_relative", &|_, j, _, w| (j + 0.5) / (width - w + 1.0));
    }
}

#[test]
fn golden_augment_jitter_is_distributed_as_published() {
    let Some((_, statistics)) = statistics() else { return };
    let reference = &statistics["color_jitter"];
    let strengths: [f64; 4] = numbers(&reference["arguments"]).try_into().expect("four strengths");
    let [brightness, contrast, saturation, hue] = strengths;
    let config = PatchConfig { jitter_p: 1.0, brightness, contrast, saturation, hue, ..plain() };
    let mut factors: [Vec<f64>; 4] = Default::default();
    let mut orders: BTreeMap<String, [f64; 2]> = BTreeMap::new();
    for params in draws(&config, 32, 32) {
        let steps = params.jitter.iter().flatten().map(|step| match *step {
            Adjust::Brightness(factor) => (0, factor),
            Adjust::Contrast(factor) => (1, factor),
            Adjust::Saturation(factor) => (2, factor),
            Adjust::Hue(factor) => (3, factor),
        });
        let steps: Vec<(usize, f32)> = steps.collect();
        steps.iter().for_each(|&(step, factor)| factors[step].push(f64::from(factor)));
        let order: Vec<String> = steps.iter().map(|(step, _)| step.to_string()).collect();
        orders.entry(order.join(",")).or_default()[0] += 1.0;
    }
    for (step, factors) in ["brightness", "contrast", "saturation", "hue"].into_iter().zip(&factors) {
        check(step, factors, &reference[step]);
    }
    for (order, count) in reference["order"]["counts"].as_object().expect("counts of orders") {
        orders.entry(order.clone()).or_default()[1] += number(count);
    }
    check_bins("order of the jitter", &orders.into_values().collect::<Vec<_>>());
}

#[test]
fn golden_augment_blur_and_probabilities_are_distributed_as_published() {
    let Some((_, statistics)) = statistics() else { return };
    let config = PatchConfig::cifar32();
    let drawn = draws(&config, 32, 32);
    let sigmas: Vec<f64> = drawn.iter().filter_map(|params| params.blur).map(f64::from).collect();
    check("sigma of the blur", &sigmas, &statistics["gaussian_blur"]["sigma"]);
    let count = |drawn_with: fn(&PatchParams) -> bool| drawn.iter().filter(|params| drawn_with(params)).count();
    for (step, p, count) in [
        ("flip", config.flip_p, count(|params| params.flip)),
        ("jitter", config.jitter_p, count(|params| params.jitter[0].is_some())),
        ("grayscale", config.grayscale_p, count(|params| params.grayscale)),
        ("blur", config.blur_p, sigmas.len()),
        ("solarize", config.solarize_p, count(|params| params.solarize.is_some())),
    ] {
        let n = f64::from(DRAWS);
        let gap = (count as f64 / n - p).abs();
        assert!(gap <= 5.0 * (p * (1.0 - p) / n).sqrt(), "{step}: a share of {p} is off by {gap}");
    }
}

/// Statistics of a normalised patch, as the reference takes them.
#[derive(Default)]
struct Looks {
    by_name: BTreeMap<String, Vec<f64>>,
    grey: f64,
    levels: [[f64; 16]; 3],
}

impl Looks {
    fn add(&mut self, side: usize, patch: &[u8]) {
        let patch = ArrayView3::from_shape((3, side, side), patch).expect("a patch");
        let pixels = patch.mapv(|value| f64::from(value) / 127.5 - 1.0);
        for (channel, name) in ["r", "g", "b"].into_iter().enumerate() {
            let plane = pixels.index_axis(ndarray::Axis(0), channel);
            self.push(&format!("view_mean_{name}"), plane.mean().expect("not empty"));
            self.push(&format!("view_std_{name}"), plane.std(1.0));
            plane.iter().for_each(|value| self.levels[channel][((value + 1.0) * 8.0).min(15.0) as usize] += 1.0);
        }
        let (head, tail) = (ndarray::s![.., .., ..-1], ndarray::s![.., .., 1..]);
        self.push("horizontal_gradient", gradient(&(&pixels.slice(tail) - &pixels.slice(head))));
        let (head, tail) = (ndarray::s![.., ..-1, ..], ndarray::s![.., 1.., ..]);
        self.push("vertical_gradient", gradient(&(&pixels.slice(tail) - &pixels.slice(head))));
        let same = |channel| patch.index_axis(ndarray::Axis(0), channel) == patch.index_axis(ndarray::Axis(0), 0);
        self.grey += f64::from(u8::from(same(1) && same(2)));
    }

    fn push(&mut self, name: &str, value: f64) {
        self.by_name.entry(name.to_owned()).or_default().push(value);
    }

    fn check(&self, image: &str, views: f64, reference: &Value, reference_views: f64) {
        for (name, values) in &self.by_name {
            check(&format!("{name} of {image}"), values, &reference[name]);
        }
        let share = number(&reference["grayscale_share"]);
        let deviation = (share * (1.0 - share) * (1.0 / views + 1.0 / reference_views)).sqrt();
        assert!((self.grey / views - share).abs() <= 5.0 * deviation, "grey share of {image}: {}", self.grey / views);
        for (channel, name) in ["r", "g", "b"].into_iter().enumerate() {
            let total: f64 = self.levels[channel].iter().sum();
            let truth = numbers(&reference[format!("pixel_histogram_16bins_{name}")]);
            for (ours, truth) in self.levels[channel].iter().zip(truth) {
                // Pixels of one view go together, so this is looser than their number suggests.
                let gap = (ours / total - truth).abs();
                assert!(
                    gap <= 2.0 / views.sqrt() * truth.sqrt() + 1e-3,
                    "pixel levels {name} of {image}: off by {gap}"
                );
            }
        }
    }
}

fn gradient(differences: &ndarray::Array3<f64>) -> f64 {
    differences.mapv(f64::abs).mean().expect("not empty")
}

/// Makes patches of the images of one section with a whole recipe and compares how they look.
fn check_pipeline(
    statistics: &Value,
    section: &str,
    config: &PatchConfig,
    views: u32,
    input: impl Fn(usize) -> (usize, Vec<u8>),
) {
    let sampler = PatchSampler::new(config).expect("a valid recipe");
    let mut out = vec![0; 3 * sampler.side() * sampler.side()];
    for case in list(&statistics[section]["images"]) {
        let index = number(&case["input_index"]) as usize;
        let (width, pixels) = input(index);
        let image = ArrayView3::from_shape((pixels.len() / width / 3, width, 3), &pixels).expect("an image");
        let mut looks = Looks::default();
        for patch in 0..views {
            sampler.sample(image, PatchKey { seed: 11, epoch: 0, image: index as u64, patch }, &mut out);
            looks.add(sampler.side(), &out);
        }
        let reference_views = number(&statistics[section]["views_per_image"]);
        looks.check(&case["image"].to_string(), f64::from(views), case, reference_views);
    }
}

#[test]
fn golden_augment_patches_look_as_published() {
    let Some((family, statistics)) = statistics() else { return };
    let tensors = |set: &str| family.index[set]["file"].as_str().map(|file| family.tensors(file));
    let images = tensors("cifar").expect("the images of CIFAR-10");
    check_pipeline(&statistics, "pipeline_cifar", &PatchConfig::cifar32(), 3000, |index| {
        let images = images.get("input");
        let bytes = images.shape[1..].iter().product::<usize>();
        (images.shape[2], images.u8()[index * bytes..][..bytes].to_vec())
    });
    // The photographs are too large for the repository.
    let Some(photos) = tensors("photos") else { return };
    check_pipeline(&statistics, "pipeline_imagenet", &PatchConfig::imagenet224(), 300, |index| {
        let image = photos.get(&format!("photo{index}.input"));
        (image.shape[1], image.u8().to_vec())
    });
}
