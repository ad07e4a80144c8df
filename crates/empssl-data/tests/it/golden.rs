//! The operations against what torchvision and Pillow computed, in 8-bit levels.

use empssl_data::augment::blur::{BlurScratch, blur};
use empssl_data::augment::colour::{brightness, contrast, grayscale, saturation, solarize};
use empssl_data::augment::hue::rotate_hue;
use empssl_data::augment::resize::{CropBox, Interpolation, ResizeScratch, ResizedCrop};
use empssl_golden::{Family, GoldenTensor, Tensors};
use ndarray::{Array3, ArrayView3, Axis};
use serde_json::Value;

#[test]
fn golden_augment_operations_and_chains() {
    let Some(family) = Family::open("augment") else { return };
    let sections = family.index.as_object().expect("an index is an object");
    let (mut checked, mut exact) = (0, 0);
    for section in sections.values().filter(|section| section["entries"].is_object()) {
        let file = text(&section["file"]);
        let tensors = family.tensors(file);
        for (name, entry) in section["entries"].as_object().expect("checked above") {
            // Normalisation to floating point is the network's.
            let Some(tensor) = entry["tensor"].as_str().filter(|tensor| tensor.ends_with(".u8")) else { continue };
            let inputs = inputs(&family, &tensors, name, entry);
            let ours: Vec<u8> = inputs.iter().flat_map(|image| run(image, entry)).collect();
            let truth = tensors.get(tensor).u8();
            check(&format!("{file} {name}"), &ours, truth, tolerance(&family.index, entry));
            checked += 1;
            exact += usize::from(ours == truth);
        }
    }
    assert!(checked > 0, "the index lists no operation");
    eprintln!("{exact} of {checked} results agree byte for byte");
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("expected a text, found {value}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("expected a number, found {value}"))
}

fn size(value: &Value) -> usize {
    number(value) as usize
}

/// The images of an entry: named by it, by the start of its name, or the file's batch.
fn inputs(family: &Family, tensors: &Tensors, name: &str, entry: &Value) -> Vec<Array3<u8>> {
    let of_name = format!("{}.input", name.split('.').next().unwrap_or_default());
    match entry["image"].as_str() {
        Some(image) => match image.split_once(' ') {
            Some((file, place)) => {
                let (tensor, index) = place.trim_end_matches(']').split_once('[').expect("a tensor and an index");
                let images = images(family.tensors(file).get(tensor));
                vec![images[index.parse::<usize>().expect("an index")].clone()]
            }
            None => images(tensors.get(image)),
        },
        None => images(tensors.find(&of_name).unwrap_or_else(|| tensors.get("input"))),
    }
}

/// The images of a tensor `[.., height, width, 3]`.
fn images(tensor: &GoldenTensor) -> Vec<Array3<u8>> {
    let [.., height, width, 3] = tensor.shape[..] else { panic!("not images: {:?}", tensor.shape) };
    let images = tensor.u8().chunks_exact(height * width * 3);
    images.map(|image| Array3::from_shape_vec((height, width, 3), image.to_vec()).expect("cut to size")).collect()
}

/// The largest and the mean difference allowed, in levels.
fn tolerance(index: &Value, entry: &Value) -> (f64, f64) {
    let limits = &entry["tolerance_levels"]["same_algorithm"];
    if limits.is_object() {
        return (number(&limits["max"]), number(&limits["mean"]));
    }
    // Chains have theirs in a sentence: "... max 2 levels, mean 0.05 ...".
    let sentence = text(&index["how_to_compare"]["chains"]);
    let after = |word: &str| {
        let rest = sentence.split(word).nth(1).unwrap_or_else(|| panic!("no `{word}` in: {sentence}"));
        let digits: String = rest.trim_start().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        digits.trim_end_matches('.').parse().expect("a number")
    };
    (after("max "), after("mean "))
}

fn check(name: &str, ours: &[u8], truth: &[u8], (max, mean): (f64, f64)) {
    assert_eq!(ours.len(), truth.len(), "{name}");
    let differences: Vec<f64> = ours.iter().zip(truth).map(|(&a, &b)| f64::from(a.abs_diff(b))).collect();
    let worst = differences.iter().copied().fold(0.0, f64::max);
    let average = differences.iter().sum::<f64>() / differences.len() as f64;
    assert!(worst <= max && average <= mean, "{name}: max {worst}, mean {average}; allowed {max}, {mean}");
}

/// An image on its way through a chain: planar pixels and their width.
struct Planar {
    pixels: Vec<u8>,
    width: usize,
}

impl Planar {
    fn of(image: ArrayView3<'_, u8>) -> Self {
        let pixels = (0..3).flat_map(|channel| image.index_axis(Axis(2), channel).iter().copied().collect::<Vec<_>>());
        Self { pixels: pixels.collect(), width: image.dim().1 }
    }

    fn interleaved(&self) -> Array3<u8> {
        let plane = self.pixels.len() / 3;
        let (height, width) = (plane / self.width, self.width);
        Array3::from_shape_fn((height, width, 3), |(y, x, channel)| self.pixels[channel * plane + y * width + x])
    }
}

/// Applies an entry, one operation or a chain of them, to one image.
fn run(image: &Array3<u8>, entry: &Value) -> Vec<u8> {
    let mut work = Planar::of(image.view());
    match entry["steps"].as_array() {
        Some(steps) => steps.iter().for_each(|step| apply(&mut work, step)),
        None => apply(&mut work, entry),
    }
    work.interleaved().into_raw_vec_and_offset().0
}

fn apply(work: &mut Planar, step: &Value) {
    let factor = || number(&step["factor"]) as f32;
    match text(&step["op"]) {
        "adjust_brightness" => brightness(&mut work.pixels, factor()),
        "adjust_contrast" => contrast(&mut work.pixels, factor()),
        "adjust_saturation" => saturation(&mut work.pixels, factor()),
        "adjust_hue" => rotate_hue(&mut work.pixels, factor()),
        "to_grayscale" => grayscale(&mut work.pixels),
        "solarize" => solarize(&mut work.pixels, step["threshold"].as_u64().unwrap_or(128) as u8),
        "blur" | "PIL GaussianBlur" => {
            blur(&mut work.pixels, work.width, number(&step["sigma"]) as f32, &mut BlurScratch::default());
        }
        "hflip" => work.pixels.chunks_exact_mut(work.width).for_each(<[u8]>::reverse),
        "resized_crop" => crop(work, step),
        op => panic!("unknown operation `{op}`"),
    }
}

fn crop(work: &mut Planar, step: &Value) {
    let [top, left, height, width] = match step["box"].as_array() {
        Some(numbers) => std::array::from_fn(|place| size(&numbers[place])),
        None => ["top_i", "left_j", "height_h", "width_w"].map(|key| size(&step[key])),
    };
    let interpolation = match text(&step["interpolation"]) {
        "bilinear" => Interpolation::Bilinear,
        "bicubic" => Interpolation::Bicubic,
        other => panic!("unknown interpolation `{other}`"),
    };
    let side = size(&step["size"]);
    let mut out = vec![0; 3 * side * side];
    let crop = CropBox { top, left, height, width };
    let image = work.interleaved();
    // Mirrored twice, so that the mirrored way of writing is checked too.
    let resized = ResizedCrop { crop, side, interpolation, flip: true };
    resized.write(image.view(), &mut ResizeScratch::default(), &mut out);
    out.chunks_exact_mut(side).for_each(<[u8]>::reverse);
    *work = Planar { pixels: out, width: side };
}
