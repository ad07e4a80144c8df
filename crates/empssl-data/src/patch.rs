//! One image to one augmented patch: the constants of a recipe, the draw of a patch's parameters, their application.

use std::cell::RefCell;

use ndarray::ArrayView3;
use serde::{Deserialize, Serialize};

use crate::augment::blur::{BlurScratch, blur};
use crate::augment::colour::{brightness, contrast, grayscale, saturation, solarize};
use crate::augment::hue::rotate_hue;
use crate::augment::resize::{CropBox, Interpolation, ResizeScratch, ResizedCrop};
use crate::error::DataError;
use crate::grid::PatchGrid;
use crate::maths;
use crate::rng::{Purpose, Stream};

/// Every constant of an augmentation recipe (tsb0601/EMP-SSL `dataset/aug.py:116-138` and `dataset/aug4img.py:57-69`).
///
/// The steps are applied in the order of the fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchConfig {
    /// Side s of a patch in pixels.
    pub side: usize,
    /// Smallest and largest share of the image's area that a crop covers.
    pub crop_scale: [f64; 2],
    /// Smallest and largest ratio of a crop's width to its height, drawn uniformly in the logarithm.
    pub crop_ratio: [f64; 2],
    /// How the crop is resized to the side; antialiased either way.
    pub interpolation: Interpolation,
    /// Probability of mirroring left and right.
    pub flip_p: f64,
    /// Probability of the colour jitter, its four parts in random order.
    pub jitter_p: f64,
    /// Jitter strength v: brightness is multiplied by a factor from max(0, 1 - v) to 1 + v; 0 leaves the step out.
    pub brightness: f64,
    /// Jitter strength of the contrast, likewise.
    pub contrast: f64,
    /// Jitter strength of the saturation, likewise.
    pub saturation: f64,
    /// Jitter strength v of the hue: it is rotated by -v to v turns; 0 leaves the step out.
    pub hue: f64,
    /// Probability of removing the colour.
    pub grayscale_p: f64,
    /// Probability of the blur.
    pub blur_p: f64,
    /// Smallest and largest standard deviation of the blur, in pixels of the patch.
    pub blur_sigma: [f64; 2],
    /// Probability of solarisation.
    pub solarize_p: f64,
    /// Solarisation inverts the values that are at least this.
    pub solarize_threshold: u8,
}

impl PatchConfig {
    /// The recipe of CIFAR-10 and CIFAR-100: always a 16x16 crop of a 32x32 image, enlarged to 32x32.
    pub fn cifar32() -> Self {
        Self {
            side: 32,
            crop_scale: [0.25, 0.25],
            crop_ratio: [1.0, 1.0],
            interpolation: Interpolation::Bilinear,
            flip_p: 0.5,
            jitter_p: 0.8,
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            hue: 0.2,
            grayscale_p: 0.2,
            blur_p: 0.1,
            blur_sigma: [0.1, 2.0],
            solarize_p: 0.1,
            solarize_threshold: 128,
        }
    }

    /// The recipe of ImageNet: a quarter of the area with sides between 3:4 and 4:3, resized to 224x224.
    pub fn imagenet224() -> Self {
        Self { side: 224, crop_ratio: [3.0 / 4.0, 4.0 / 3.0], interpolation: Interpolation::Bicubic, ..Self::cifar32() }
    }

    fn check(&self) -> Result<(), DataError> {
        if self.side == 0 || self.side > Self::MAX_SIDE {
            let expected = format!("a side from 1 to {} pixels", Self::MAX_SIDE);
            return Err(DataError::setting("side", self.side, expected));
        }
        check_range("crop_scale", self.crop_scale, f64::MIN_POSITIVE, 1.0)?;
        check_range("crop_ratio", self.crop_ratio, 0.01, 100.0)?;
        check_range("blur_sigma", self.blur_sigma, f64::MIN_POSITIVE, 100.0)?;
        for (key, strength, max) in [
            ("brightness", self.brightness, 10.0),
            ("contrast", self.contrast, 10.0),
            ("saturation", self.saturation, 10.0),
            ("hue", self.hue, 0.5),
        ] {
            check_number(key, strength, max, "a strength")?;
        }
        for (key, probability) in [
            ("flip_p", self.flip_p),
            ("jitter_p", self.jitter_p),
            ("grayscale_p", self.grayscale_p),
            ("blur_p", self.blur_p),
            ("solarize_p", self.solarize_p),
        ] {
            check_number(key, probability, 1.0, "a probability")?;
        }
        Ok(())
    }

    /// Larger patches are surely a mistake, and would overflow the sums of the blur.
    const MAX_SIDE: usize = 4096;
}

fn check_number(key: &'static str, value: f64, max: f64, what: &str) -> Result<(), DataError> {
    let is_good = (0.0..=max).contains(&value);
    if is_good { Ok(()) } else { Err(DataError::setting(key, value, format!("{what} from 0 to {max}"))) }
}

fn check_range(key: &'static str, [low, high]: [f64; 2], min: f64, max: f64) -> Result<(), DataError> {
    let is_good = min <= low && low <= high && high <= max;
    let min = if min == f64::MIN_POSITIVE { "above 0".to_owned() } else { format!("from {min}") };
    let expected = || format!("two numbers, the smaller first, {min} to {max}");
    if is_good { Ok(()) } else { Err(DataError::setting(key, format!("[{low}, {high}]"), expected())) }
}

/// The address of a patch: its random numbers depend on this and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PatchKey {
    /// The seed of the run.
    pub seed: u64,
    /// The pass over the data.
    pub epoch: u64,
    /// The index of the image, or a digest of its pixels.
    pub image: u64,
    /// Which of the image's n patches.
    pub patch: u32,
}

/// One part of the colour jitter with its factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Adjust {
    /// See [`brightness`].
    Brightness(f32),
    /// See [`contrast`].
    Contrast(f32),
    /// See [`saturation`].
    Saturation(f32),
    /// See [`rotate_hue`].
    Hue(f32),
}

/// What was drawn for one patch: applying it involves no chance.
#[derive(Clone, Debug, PartialEq)]
pub struct PatchParams {
    /// The part of the image that is resized to the patch.
    pub crop: CropBox,
    /// Whether it is mirrored.
    pub flip: bool,
    /// The parts of the jitter in the order of their application.
    pub jitter: [Option<Adjust>; 4],
    /// Whether the colour is removed.
    pub grayscale: bool,
    /// The standard deviation of the blur, in pixels of the patch.
    pub blur: Option<f32>,
    /// The threshold of the solarisation.
    pub solarize: Option<u8>,
}

impl PatchParams {
    /// A crop that is resized and otherwise left as it is.
    pub fn plain(crop: CropBox) -> Self {
        Self { crop, flip: false, jitter: [None; 4], grayscale: false, blur: None, solarize: None }
    }
}

/// Makes patches of images by a recipe.
#[derive(Clone, Debug)]
pub struct PatchSampler {
    config: PatchConfig,
    /// Logarithms of the crop's ratios.
    log_ratio: [f64; 2],
}

/// Working memory of a thread, so that a patch allocates nothing.
#[derive(Default)]
struct Scratch {
    resize: ResizeScratch,
    blur: BlurScratch,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl PatchSampler {
    /// Checks the recipe.
    ///
    /// # Errors
    /// When a number is out of its range or NaN; the message names the key.
    pub fn new(config: &PatchConfig) -> Result<Self, DataError> {
        config.check()?;
        Ok(Self { config: config.clone(), log_ratio: config.crop_ratio.map(maths::ln) })
    }

    /// The side s of the patches in pixels.
    pub fn side(&self) -> usize {
        self.config.side
    }

    /// Writes the patch of `image` (`[height, width, 3]`) that `key` addresses to `out`, planar: `[3, s, s]`.
    ///
    /// # Panics
    /// When the image is empty or has other than three channels, or `out` has not 3 s s bytes.
    pub fn sample(&self, image: ArrayView3<'_, u8>, key: PatchKey, out: &mut [u8]) {
        let (height, width, _) = image.dim();
        self.apply(image, &self.draw(height, width, key), out);
    }

    /// Writes the whole of `image`, resized to s x s without regard to its proportions, to `out`; no augmentation.
    ///
    /// # Panics
    /// As [`PatchSampler::sample`].
    pub fn whole(&self, image: ArrayView3<'_, u8>, out: &mut [u8]) {
        let (height, width, _) = image.dim();
        self.apply(image, &PatchParams::plain(CropBox::whole(height, width)), out);
    }

    /// Writes patch number `patch` of a fixed `grid` to `out`; no augmentation but the mirroring of the grid.
    ///
    /// The crop covers the recipe's share of the area, at the recipe's ratio of width to height: of each range the
    /// middle, that of the ratio in the logarithm (a quarter and a square for both published recipes). It is cut to the
    /// image where that is too narrow.
    ///
    /// # Panics
    /// As [`PatchSampler::sample`].
    pub fn grid(&self, image: ArrayView3<'_, u8>, grid: &PatchGrid, patch: usize, out: &mut [u8]) {
        let (height, width, _) = image.dim();
        let plain = PatchParams::plain(self.grid_crop(height, width, grid, patch));
        self.apply(image, &PatchParams { flip: grid.is_mirrored(patch), ..plain }, out);
    }

    fn grid_crop(&self, height: usize, width: usize, grid: &PatchGrid, patch: usize) -> CropBox {
        let area = (height * width) as f64 * self.config.crop_scale.iter().sum::<f64>() / 2.0;
        let ratio = maths::exp(self.log_ratio.iter().sum::<f64>() / 2.0);
        let within = |side: f64, most: usize| (side.sqrt().round_ties_even() as usize).clamp(1, most);
        grid.crop(patch, (height, width), (within(area / ratio, height), within(area * ratio, width)))
    }

    /// Draws the parameters of the patch that `key` addresses, for an image of the given size.
    pub fn draw(&self, height: usize, width: usize, key: PatchKey) -> PatchParams {
        let config = &self.config;
        let mut stream = Stream::new(key.seed, Purpose::Patch, key.epoch, key.image, key.patch);
        let crop = self.draw_crop(height, width, &mut stream);
        let flip = stream.chance(config.flip_p);
        let jitter = if stream.chance(config.jitter_p) { self.draw_jitter(&mut stream) } else { [None; 4] };
        let grayscale = stream.chance(config.grayscale_p);
        let blur = stream.chance(config.blur_p).then(|| {
            let [low, high] = config.blur_sigma;
            stream.uniform(low, high) as f32
        });
        let solarize = stream.chance(config.solarize_p).then_some(config.solarize_threshold);
        PatchParams { crop, flip, jitter, grayscale, blur, solarize }
    }

    /// torchvision's `RandomResizedCrop.get_params`: ten attempts at a rectangle that fits, then the largest central
    /// one of an admissible ratio.
    fn draw_crop(&self, height: usize, width: usize, stream: &mut Stream) -> CropBox {
        let area = (height * width) as f64;
        for _ in 0..10 {
            let target = area * stream.uniform(self.config.crop_scale[0], self.config.crop_scale[1]);
            let ratio = maths::exp(stream.uniform(self.log_ratio[0], self.log_ratio[1]));
            let w = (target * ratio).sqrt().round_ties_even() as usize;
            let h = (target / ratio).sqrt().round_ties_even() as usize;
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let (top, left) = (stream.below(height - h + 1), stream.below(width - w + 1));
                return CropBox { top, left, height: h, width: w };
            }
        }
        central_crop(height, width, self.config.crop_ratio)
    }

    /// torchvision's `ColorJitter.get_params`: four factors and the order of the four steps.
    fn draw_jitter(&self, stream: &mut Stream) -> [Option<Adjust>; 4] {
        let mut factor = |strength: f64, centre: f64, lowest: f64| {
            let drawn = stream.uniform((centre - strength).max(lowest), centre + strength) as f32;
            (strength > 0.0).then_some(drawn)
        };
        let PatchConfig { brightness, contrast, saturation, hue, .. } = self.config;
        let mut steps = [
            factor(brightness, 1.0, 0.0).map(Adjust::Brightness),
            factor(contrast, 1.0, 0.0).map(Adjust::Contrast),
            factor(saturation, 1.0, 0.0).map(Adjust::Saturation),
            factor(hue, 0.0, -0.5).map(Adjust::Hue),
        ];
        stream.shuffle(&mut steps);
        steps
    }

    /// Writes the patch that `params` describe to `out`, planar: `[3, s, s]`.
    ///
    /// # Panics
    /// When the crop is empty or leaves the image, or `out` has not 3 s s bytes.
    pub fn apply(&self, image: ArrayView3<'_, u8>, params: &PatchParams, out: &mut [u8]) {
        SCRATCH.with_borrow_mut(|scratch| {
            let PatchConfig { side, interpolation, .. } = self.config;
            let PatchParams { crop, flip, .. } = *params;
            ResizedCrop { crop, side, interpolation, flip }.write(image, &mut scratch.resize, out);
            params.jitter.iter().flatten().for_each(|step| step.apply(out));
            if params.grayscale {
                grayscale(out);
            }
            if let Some(sigma) = params.blur {
                blur(out, side, sigma, &mut scratch.blur);
            }
            if let Some(threshold) = params.solarize {
                solarize(out, threshold);
            }
        });
    }
}

impl Adjust {
    /// Applies the step to planar pixels.
    pub fn apply(self, pixels: &mut [u8]) {
        match self {
            Self::Brightness(factor) => brightness(pixels, factor),
            Self::Contrast(factor) => contrast(pixels, factor),
            Self::Saturation(factor) => saturation(pixels, factor),
            Self::Hue(factor) => rotate_hue(pixels, factor),
        }
    }
}

/// The largest central rectangle whose ratio of width to height is within the bounds.
fn central_crop(height: usize, width: usize, [low, high]: [f64; 2]) -> CropBox {
    let ratio = width as f64 / height as f64;
    let (h, w) = if ratio < low {
        ((width as f64 / low).round_ties_even() as usize, width)
    } else if ratio > high {
        (height, (height as f64 * high).round_ties_even() as usize)
    } else {
        (height, width)
    };
    let (h, w) = (h.clamp(1, height), w.clamp(1, width));
    CropBox { top: (height - h) / 2, left: (width - w) / 2, height: h, width: w }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;
    use proptest::prelude::*;

    use super::*;

    /// A range: its name, its place, and a value beyond its bounds.
    type RangeCase = (&'static str, Field<[f64; 2]>, [f64; 2]);

    /// Picks a field out of a recipe.
    type Field<T> = fn(&mut PatchConfig) -> &mut T;

    fn refusal(change: impl Fn(&mut PatchConfig)) -> String {
        let mut config = PatchConfig::cifar32();
        change(&mut config);
        PatchSampler::new(&config).unwrap_err().to_string()
    }

    fn key(patch: u32) -> PatchKey {
        PatchKey { seed: 1, epoch: 2, image: 3, patch }
    }

    fn image() -> Array3<u8> {
        Array3::from_shape_fn((32, 32, 3), |(y, x, channel)| (y * 7 + x * 3 + channel * 40) as u8)
    }

    #[test]
    fn the_published_recipes_are_valid() {
        for config in [PatchConfig::cifar32(), PatchConfig::imagenet224()] {
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<PatchConfig>(&json).unwrap(), config);
            assert_eq!(PatchSampler::new(&config).unwrap().side(), config.side);
        }
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let mut json = serde_json::to_value(PatchConfig::cifar32()).unwrap();
        json["sharpness"] = 1.0.into();
        let message = serde_json::from_value::<PatchConfig>(json).unwrap_err().to_string();
        assert!(message.contains("`sharpness`"), "{message}");
    }

    #[test]
    fn sides_of_zero_and_beyond_all_measure_are_refused() {
        assert_eq!(refusal(|config| config.side = 0), "`side` is 0, expected a side from 1 to 4096 pixels");
        assert!(refusal(|config| config.side = 4097).starts_with("`side` is 4097"));
    }

    #[test]
    fn probabilities_outside_zero_to_one_are_refused() {
        let probabilities: [(&str, Field<f64>); 5] = [
            ("flip_p", |config| &mut config.flip_p),
            ("jitter_p", |config| &mut config.jitter_p),
            ("grayscale_p", |config| &mut config.grayscale_p),
            ("blur_p", |config| &mut config.blur_p),
            ("solarize_p", |config| &mut config.solarize_p),
        ];
        for (key, field) in probabilities {
            for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
                let message = refusal(|config| *field(config) = bad);
                assert_eq!(message, format!("`{key}` is {bad}, expected a probability from 0 to 1"));
            }
        }
    }

    #[test]
    fn impossible_strengths_are_refused() {
        let strengths: [(&str, f64, Field<f64>); 4] = [
            ("brightness", 10.0, |config| &mut config.brightness),
            ("contrast", 10.0, |config| &mut config.contrast),
            ("saturation", 10.0, |config| &mut config.saturation),
            ("hue", 0.5, |config| &mut config.hue),
        ];
        for (key, max, field) in strengths {
            for bad in [-0.1, max + 0.01, f64::NAN] {
                let message = refusal(|config| *field(config) = bad);
                assert_eq!(message, format!("`{key}` is {bad}, expected a strength from 0 to {max}"));
            }
        }
    }

    #[test]
    fn impossible_ranges_are_refused() {
        let ranges: [RangeCase; 3] = [
            ("crop_scale", |config| &mut config.crop_scale, [0.25, 1.01]),
            ("crop_ratio", |config| &mut config.crop_ratio, [0.001, 1.0]),
            ("blur_sigma", |config| &mut config.blur_sigma, [0.1, 101.0]),
        ];
        for (key, field, beyond) in ranges {
            for bad in [beyond, [0.5, 0.4], [0.0, 0.5], [-0.5, 0.5], [f64::NAN, 0.5], [0.5, f64::NAN]] {
                let message = refusal(|config| *field(config) = bad);
                let [low, high] = bad;
                assert!(message.starts_with(&format!("`{key}` is [{low}, {high}], expected two numbers")), "{message}");
            }
        }
    }

    #[test]
    fn a_patch_depends_on_its_whole_address_and_on_nothing_else() {
        let sampler = PatchSampler::new(&PatchConfig::cifar32()).unwrap();
        let sample = |key| {
            let mut out = vec![0; 3 * 32 * 32];
            sampler.sample(image().view(), key, &mut out);
            out
        };
        let base = key(4);
        let others = [
            PatchKey { seed: 9, ..base },
            PatchKey { epoch: 9, ..base },
            PatchKey { image: 9, ..base },
            PatchKey { patch: 9, ..base },
        ];
        let first = sample(base);
        assert!(others.into_iter().all(|other| sample(other) != first));
        assert_eq!(sample(base), first);
    }

    #[test]
    fn steps_follow_the_published_order() {
        let sampler = PatchSampler::new(&PatchConfig::cifar32()).unwrap();
        let crop = CropBox { top: 3, left: 5, height: 16, width: 16 };
        let params = PatchParams {
            crop,
            flip: true,
            jitter: [Some(Adjust::Hue(0.1)), None, Some(Adjust::Contrast(1.3)), None],
            grayscale: true,
            blur: Some(0.9),
            solarize: Some(100),
        };
        let (mut ours, mut expected) = (vec![0; 3 * 32 * 32], vec![0; 3 * 32 * 32]);
        sampler.apply(image().view(), &params, &mut ours);

        sampler.apply(image().view(), &PatchParams::plain(crop), &mut expected);
        expected.chunks_exact_mut(32).for_each(<[u8]>::reverse);
        rotate_hue(&mut expected, 0.1);
        contrast(&mut expected, 1.3);
        grayscale(&mut expected);
        blur(&mut expected, 32, 0.9, &mut BlurScratch::default());
        solarize(&mut expected, 100);
        assert_eq!(ours, expected);
    }

    #[test]
    fn steps_of_no_strength_and_of_no_probability_are_never_drawn() {
        let none =
            PatchConfig { flip_p: 0.0, grayscale_p: 0.0, blur_p: 0.0, solarize_p: 0.0, ..PatchConfig::cifar32() };
        let only_hue = PatchConfig { jitter_p: 1.0, brightness: 0.0, contrast: 0.0, saturation: 0.0, ..none.clone() };
        let sampler = PatchSampler::new(&only_hue).unwrap();
        for patch in 0..100 {
            let params = sampler.draw(32, 32, key(patch));
            let steps: Vec<_> = params.jitter.iter().flatten().collect();
            assert!(matches!(steps[..], [Adjust::Hue(_)]), "{params:?}");
            assert_eq!(PatchParams { jitter: [None; 4], ..params }, PatchParams::plain(params.crop));
        }
        let sampler = PatchSampler::new(&PatchConfig { jitter_p: 0.0, ..none }).unwrap();
        assert!((0..100).all(|patch| sampler.draw(32, 32, key(patch)).jitter == [None; 4]));
    }

    #[test]
    fn where_no_crop_fits_the_largest_central_one_is_taken() {
        let config = PatchConfig { crop_scale: [1.0, 1.0], crop_ratio: [0.5, 2.0], ..PatchConfig::cifar32() };
        let sampler = PatchSampler::new(&config).unwrap();
        let crop = |height, width| sampler.draw(height, width, key(0)).crop;
        assert_eq!(crop(10, 50), CropBox { top: 0, left: 15, height: 10, width: 20 });
        assert_eq!(crop(50, 10), CropBox { top: 15, left: 0, height: 20, width: 10 });
        let square = PatchSampler::new(&PatchConfig { crop_ratio: [1.0, 1.0], ..config }).unwrap();
        assert_eq!(square.draw(9, 9, key(0)).crop, CropBox::whole(9, 9));
        assert_eq!(central_crop(1, 1000, [0.5, 2.0]), CropBox { top: 0, left: 499, height: 1, width: 2 });
        assert_eq!(central_crop(12, 11, [0.5, 2.0]), CropBox::whole(12, 11));
    }

    #[test]
    fn grid_patches_are_plain_crops_of_the_recipe_s_size() {
        let sampler = PatchSampler::new(&PatchConfig { crop_scale: [0.2, 0.3], ..PatchConfig::cifar32() }).unwrap();
        let grid = PatchGrid::new(18, true).unwrap();
        let (mut ours, mut expected) = (vec![0; 3 * 32 * 32], vec![0; 3 * 32 * 32]);
        for (patch, top, left, flip) in [(0, 0, 0, false), (5, 8, 16, false), (10, 0, 8, true), (17, 16, 16, true)] {
            sampler.grid(image().view(), &grid, patch, &mut ours);
            let crop = CropBox { top, left, height: 16, width: 16 };
            sampler.apply(image().view(), &PatchParams { flip, ..PatchParams::plain(crop) }, &mut expected);
            assert_eq!(ours, expected, "patch {patch}");
        }
    }

    #[test]
    fn grid_crops_have_the_middle_ratio_and_are_cut_to_narrow_images() {
        let corner = |config: PatchConfig, height, width| {
            let grid = PatchGrid::new(4, false).unwrap();
            let crop = PatchSampler::new(&config).unwrap().grid_crop(height, width, &grid, 3);
            assert_eq!((crop.top + crop.height, crop.left + crop.width), (height, width));
            (crop.height, crop.width)
        };
        assert_eq!(corner(PatchConfig::cifar32(), 32, 32), (16, 16));
        assert_eq!(corner(PatchConfig::imagenet224(), 375, 500), (217, 217));
        assert_eq!(corner(PatchConfig { crop_ratio: [4.0, 4.0], ..PatchConfig::cifar32() }, 32, 32), (8, 32));
        assert_eq!(corner(PatchConfig::cifar32(), 3, 300), (3, 15));
        assert_eq!(corner(PatchConfig::cifar32(), 1, 1), (1, 1));
    }

    proptest! {
        #[test]
        fn crops_stay_within_the_image(
            (height, width) in (1_usize..400, 1_usize..400),
            (small, large) in (0.001_f64..=1.0, 0.0_f64..=1.0),
            (flat, tall) in (0.01_f64..=100.0, 1.0_f64..=100.0),
            patch in any::<u32>(),
        ) {
            let crop_scale = [small, small + (1.0 - small) * large];
            let crop_ratio = [flat, (flat * tall).min(100.0)];
            let config = PatchConfig { crop_scale, crop_ratio, ..PatchConfig::cifar32() };
            let crop = PatchSampler::new(&config).unwrap().draw(height, width, key(patch)).crop;
            prop_assert!(crop.height >= 1 && crop.top + crop.height <= height, "{crop:?}");
            prop_assert!(crop.width >= 1 && crop.left + crop.width <= width, "{crop:?}");
        }
    }

    #[test]
    fn the_smallest_image_gives_a_patch() {
        for config in [PatchConfig::cifar32(), PatchConfig::imagenet224()] {
            let sampler = PatchSampler::new(&config).unwrap();
            let mut out = vec![0; 3 * config.side * config.side];
            let config = PatchParams::plain(sampler.draw(1, 1, key(0)).crop);
            sampler.apply(Array3::from_elem((1, 1, 3), 77).view(), &config, &mut out);
            assert!(out.iter().all(|&value| value == 77));
        }
    }
}
