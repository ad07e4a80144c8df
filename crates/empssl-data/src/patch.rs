//! One image to one augmented patch: the constants of a recipe, the draw of a patch's parameters, their application.

use std::cell::RefCell;

use ndarray::ArrayView3;
use serde::{Deserialize, Serialize};

use crate::augment::blur::{BlurScratch, blur};
use crate::augment::colour::{brightness, contrast, grayscale, saturation, solarize};
use crate::augment::hue::rotate_hue;
use crate::augment::resample::{CropBox, Interpolation, ResizeScratch, resized_crop};
use crate::error::DataError;
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
        Self {
            side: 224,
            crop_ratio: [3.0 / 4.0, 4.0 / 3.0],
            interpolation: Interpolation::Bicubic,
            ..Self::cifar32()
        }
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
    /// The index of the image.
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

    /// The recipe.
    pub fn config(&self) -> &PatchConfig {
        &self.config
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

    /// torchvision's `RandomResizedCrop.get_params`: ten attempts at a rectangle that fits, then the largest central one
    /// of an admissible ratio.
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
            resized_crop(image, params.crop, side, interpolation, params.flip, &mut scratch.resize, out);
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
