//! Feature banks: one row of features for each image, the mean over the image's patches.

use empssl_data::{DataError, PatchBatch};
use tch::{Device, Kind, Tensor};

use crate::error::EvalError;

/// Rows whose finiteness is checked at once; bounds the memory of the check.
const ROWS_AT_ONCE: i64 = 4096;

/// A frozen encoder, seen from outside: every function from patches to rows of features is one.
pub trait FeatureExtractor {
    /// Maps normalised patches `[N, 3, s, s]`, values in `[-1, 1]`, to features `[N, h]`, row by row.
    ///
    /// It is called without gradient tracking and must be in evaluation mode: a row may depend on its patch alone.
    fn extract(&self, patches: &Tensor) -> Tensor;
}

impl<F: Fn(&Tensor) -> Tensor> FeatureExtractor for F {
    fn extract(&self, patches: &Tensor) -> Tensor {
        self(patches)
    }
}

/// The extractor that does nothing: the pixels of the network's input, `[N, 3, s, s]` to `[N, 3 s s]`.
///
/// With whole images as patches it gives the "raw pixels" that an encoder has to beat.
pub fn pixels(patches: &Tensor) -> Tensor {
    patches.flatten(1, -1)
}

/// How [`FeatureBank::build`] computes.
#[derive(Clone, Debug)]
pub struct BankOptions {
    /// Number of classes of the data set, whether or not each has an image.
    pub n_classes: i64,
    /// Where the encoder is and the bank will be.
    pub device: Device,
    /// Kind of the patches handed to the extractor; the bank has the kind of what it returns.
    pub kind: Kind,
    /// Most patches in one call of the extractor, which bounds the memory of its activations; a call takes whole sets
    /// of one patch of each image of a batch, at least one.
    pub patches_per_call: i64,
}

impl BankOptions {
    fn check(&self) -> Result<(), EvalError> {
        EvalError::check(self.n_classes >= 1, "n_classes", "at least 1", self.n_classes)?;
        EvalError::check(self.patches_per_call >= 1, "patches_per_call", "at least 1", self.patches_per_call)
    }
}

/// Labelled features of a set of images, checked: at least one image, finite features, labels within the classes.
///
/// In the reference the features and labels are lists filled by `evaluate.py`; probe and kNN take a bank and know no
/// encoder.
#[derive(Debug)]
pub struct FeatureBank {
    name: String,
    features: Tensor,
    labels: Tensor,
    n_classes: i64,
}

impl FeatureBank {
    /// A bank of given features `[images, h]`, floating-point, and labels `[images]`, 64-bit integers below `n_classes`.
    ///
    /// The `name` ("train", "test") is what messages call it. The labels move to the device of the features.
    ///
    /// # Errors
    /// [`EvalError::EmptyBank`], [`EvalError::Shape`], [`EvalError::Setting`] for no classes,
    /// [`EvalError::LabelOutOfRange`] and [`EvalError::NonFinite`].
    pub fn new(name: &str, features: &Tensor, labels: &Tensor, n_classes: i64) -> Result<Self, EvalError> {
        EvalError::check(n_classes >= 1, "n_classes", "at least 1", n_classes)?;
        let bank = name.to_owned();
        check_tensors(name, features, labels)?;
        if let Some((row, label)) = first_label_outside(labels, n_classes) {
            return Err(EvalError::LabelOutOfRange { bank, row, label, n_classes });
        }
        if let Some(row) = first_non_finite_row(features) {
            return Err(EvalError::NonFinite { bank, row });
        }
        let (features, labels) = (features.detach(), labels.to_device(features.device()));
        Ok(Self { name: bank, features, labels, n_classes })
    }

    /// Runs every patch of `batches` through the encoder and averages over the patches of each image (arXiv 2304.03977,
    /// "bag of features"; tsb0601/EMP-SSL `evaluate.py:86-88`): no normalisation before or after.
    ///
    /// Rows and labels keep the order of the batches. Patches travel to the device as bytes and become `x / 127.5 - 1`
    /// there. `progress` is told the number of images done after each batch.
    ///
    /// Memory: the bank itself, one batch of bytes, and the activations of [`BankOptions::patches_per_call`] patches.
    ///
    /// # Errors
    /// [`EvalError::Data`] when a batch cannot be read, [`EvalError::Unlabelled`], [`EvalError::Shape`] when the
    /// extractor does not return a row of the same width for each patch, and all of [`FeatureBank::new`].
    pub fn build(
        name: &str,
        extractor: &dyn FeatureExtractor,
        batches: impl IntoIterator<Item = Result<PatchBatch, DataError>>,
        options: &BankOptions,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self, EvalError> {
        options.check()?;
        let _guard = tch::no_grad_guard();
        let (mut rows, mut labels) = (Rows::default(), Vec::new());
        let mut batches = batches.into_iter();
        while let Some(batch) = batches.next() {
            let batch = batch?;
            let own = batch.labels.as_ref().ok_or_else(|| EvalError::Unlabelled { bank: name.to_owned() })?;
            let features = mean_over_patches(extractor, &to_device(&batch, options.device), options)?;
            rows.push(&features, batches.size_hint().1)?;
            labels.extend(own.iter().copied().map(i64::from));
            progress(labels.len());
        }
        let features = rows.finish().ok_or_else(|| EvalError::EmptyBank { bank: name.to_owned() })?;
        Self::new(name, &features, &Tensor::from_slice(&labels), options.n_classes)
    }

    /// What messages call the bank.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Features `[images, h]`.
    pub fn features(&self) -> &Tensor {
        &self.features
    }

    /// Labels `[images]`, 64-bit integers, on the device of the features.
    pub fn labels(&self) -> &Tensor {
        &self.labels
    }

    /// Number of classes of the data set.
    pub fn n_classes(&self) -> i64 {
        self.n_classes
    }

    /// Number of images, at least one.
    pub fn n_images(&self) -> i64 {
        self.features.size()[0]
    }

    /// Feature width h.
    pub fn width(&self) -> i64 {
        self.features.size()[1]
    }

    /// The classes that no image of the bank has.
    ///
    /// A training bank may lack classes, as small labelled subsets do. Test images of such a class are scored like all
    /// others and can hardly be right; whoever reports the score should say so.
    pub fn absent_classes(&self) -> Vec<i64> {
        let counts = self.labels.bincount(None::<Tensor>, self.n_classes);
        Vec::try_from(counts.eq(0).nonzero().flatten(0, -1)).unwrap_or_default()
    }

    /// What this bank, as a training bank, asks of a test bank.
    pub(crate) fn signature(&self) -> Signature {
        let (kind, device) = (self.features.kind(), self.features.device());
        let (width, n_classes) = (self.width(), self.n_classes);
        let form = format!("{width} features of kind {kind:?} on {device:?} and {n_classes} classes");
        Signature { bank: self.name.clone(), form }
    }
}

/// A training bank's name and form, kept by what was made from it.
#[derive(Clone, Debug)]
pub(crate) struct Signature {
    bank: String,
    form: String,
}

impl Signature {
    /// Refuses a test bank that cannot come from the same encoder and data set.
    pub(crate) fn check(&self, test: &FeatureBank) -> Result<(), EvalError> {
        let Signature { bank, form: found } = test.signature();
        if found == self.form {
            return Ok(());
        }
        let (train, expected) = (self.bank.clone(), self.form.clone());
        Err(EvalError::BanksDiffer { train, test: bank, expected, found })
    }
}

fn check_tensors(name: &str, features: &Tensor, labels: &Tensor) -> Result<(), EvalError> {
    let shape = features.size();
    let fault = |what: &str, expected: String, found: String| {
        Err(EvalError::Shape { what: format!("the {what} of the bank `{name}`"), expected, found })
    };
    if shape.len() != 2 {
        return fault("features", "[images, h]".to_owned(), format!("{shape:?}"));
    }
    if shape[0] == 0 {
        return Err(EvalError::EmptyBank { bank: name.to_owned() });
    }
    if shape[1] == 0 || !features.is_floating_point() {
        let found = format!("{:?} of {shape:?}", features.kind());
        return fault("features", "floating-point and at least one wide".to_owned(), found);
    }
    if labels.size() != shape[..1] || labels.kind() != Kind::Int64 {
        let found = format!("{:?} of {:?}", labels.kind(), labels.size());
        return fault("labels", format!("Int64 of {:?}", &shape[..1]), found);
    }
    Ok(())
}

fn first_label_outside(labels: &Tensor, n_classes: i64) -> Option<(i64, i64)> {
    let outside = labels.lt(0).logical_or(&labels.ge(n_classes)).nonzero();
    let row = (outside.size()[0] > 0).then(|| outside.int64_value(&[0, 0]))?;
    Some((row, labels.int64_value(&[row])))
}

fn first_non_finite_row(features: &Tensor) -> Option<i64> {
    let n_rows = features.size()[0];
    (0..n_rows).step_by(ROWS_AT_ONCE as usize).find_map(|start| {
        let rows = features.narrow(0, start, ROWS_AT_ONCE.min(n_rows - start));
        let bad = rows.isfinite().all_dim(1, false).logical_not().nonzero();
        (bad.size()[0] > 0).then(|| start + bad.int64_value(&[0, 0]))
    })
}

/// The bytes of a batch as a tensor `[n, b, 3, s, s]` on the device.
fn to_device(batch: &PatchBatch, device: Device) -> Tensor {
    let shape: Vec<i64> = batch.patches().shape().iter().map(|&size| size as i64).collect();
    Tensor::from_data_size(batch.bytes(), &shape, Kind::Uint8).to_device(device)
}

/// Mean features `[b, h]` of bytes `[n, b, 3, s, s]`, a few patch numbers at a time.
fn mean_over_patches(
    extractor: &dyn FeatureExtractor,
    bytes: &Tensor,
    options: &BankOptions,
) -> Result<Tensor, EvalError> {
    let (n, b) = (bytes.size()[0], bytes.size()[1]);
    let per_call = (options.patches_per_call / b).max(1);
    let part = |start| sum_over_patches(extractor, &bytes.narrow(0, start, per_call.min(n - start)), options.kind);
    let mut sum = part(0)?;
    for start in (per_call..n).step_by(per_call as usize) {
        let next = part(start)?;
        EvalError::check_sizes(RETURNED, &next.size(), &sum.size())?;
        sum += next;
    }
    Ok(sum / n)
}

/// Sum `[b, h]` of the features of bytes `[n, b, 3, s, s]`, in one call of the extractor.
fn sum_over_patches(extractor: &dyn FeatureExtractor, bytes: &Tensor, kind: Kind) -> Result<Tensor, EvalError> {
    let (n, b) = (bytes.size()[0], bytes.size()[1]);
    let features = extractor.extract(&(bytes.flatten(0, 1).to_kind(kind) / 127.5 - 1.0));
    let shape = features.size();
    if shape.len() != 2 || shape[0] != n * b {
        let expected = format!("[{}, h]", n * b);
        return Err(EvalError::Shape { what: RETURNED.to_owned(), expected, found: format!("{shape:?}") });
    }
    Ok(features.reshape([n, b, shape[1]]).sum_dim_intlist(0, false, None))
}

/// What messages call the result of [`FeatureExtractor::extract`].
const RETURNED: &str = "the features that the extractor returned";

/// A growing `[rows, h]` tensor; with a known number of blocks it is allocated once, so that a bank that fills the
/// memory is never held twice.
#[derive(Default)]
struct Rows {
    storage: Option<Tensor>,
    filled: i64,
}

impl Rows {
    /// Appends a block `[b, h]`; at most `to_come` blocks of its size follow, if that is known.
    fn push(&mut self, block: &Tensor, to_come: Option<usize>) -> Result<(), EvalError> {
        let shape = block.size();
        let b = shape[0];
        let spare = to_come.map_or(self.filled, |blocks| b * blocks as i64);
        let storage = match self.storage.take() {
            Some(storage) if storage.size()[0] >= self.filled + b => storage,
            outgrown => self.grown(outgrown, self.filled + b + spare, block),
        };
        EvalError::check_sizes(RETURNED, &shape, &[b, storage.size()[1]])?;
        storage.narrow(0, self.filled, b).copy_(block);
        (self.storage, self.filled) = (Some(storage), self.filled + b);
        Ok(())
    }

    /// Room for `n_rows` rows like those of `block`, beginning with the ones already there.
    fn grown(&self, outgrown: Option<Tensor>, n_rows: i64, block: &Tensor) -> Tensor {
        let width = outgrown.as_ref().unwrap_or(block).size()[1];
        let storage = Tensor::empty([n_rows, width], (block.kind(), block.device()));
        if let Some(outgrown) = outgrown {
            storage.narrow(0, 0, self.filled).copy_(&outgrown.narrow(0, 0, self.filled));
        }
        storage
    }

    /// The rows pushed, if any.
    fn finish(self) -> Option<Tensor> {
        Some(self.storage?.narrow(0, 0, self.filled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PRECISIONS, numbers, refusal, values};
    use empssl_data::{
        LoaderConfig, OnBadImage, OpenOptions, Order, PatchConfig, PatchLoader, PatchSampler, Split, View,
    };
    use empssl_golden::{Family, assert_close};
    use ndarray::Array5;
    use std::cell::Cell;

    const OPTIONS: BankOptions =
        BankOptions { n_classes: 4, device: Device::Cpu, kind: Kind::Double, patches_per_call: 6 };

    /// `n` patches of one pixel and 3 channels for each label; the bytes count up.
    fn batch(n: usize, labels: &[u32]) -> PatchBatch {
        let shape = (n, labels.len(), 3, 1, 1);
        let mut byte = 0u8;
        let patches = Array5::from_shape_simple_fn(shape, || {
            byte = byte.wrapping_add(7);
            byte
        });
        PatchBatch::new(patches, Some(labels.to_vec()), (0..labels.len()).collect()).unwrap()
    }

    fn build(batches: Vec<PatchBatch>, options: &BankOptions) -> Result<FeatureBank, EvalError> {
        FeatureBank::build("train", &pixels, batches.into_iter().map(Ok), options, &mut |_| {})
    }

    #[test]
    fn golden_features_are_averaged_over_the_patches() {
        let Some(family) = Family::open("knn") else { return };
        let about = &family.index["chunk_avg"];
        let Some(file) = about["file"].as_str() else { return };
        let tensors = family.tensors(file);
        let (n, b) = (about["n_chunks"].as_u64().unwrap() as usize, about["batch"].as_u64().unwrap() as usize);
        for ((kind, precision), patches_per_call) in PRECISIONS.into_iter().zip([1, 3 * b as i64]) {
            let (rows, seen) = (numbers(&tensors, "x", kind), Cell::new(0));
            let extractor =
                |patches: &Tensor| rows.narrow(0, seen.replace(seen.get() + patches.size()[0]), patches.size()[0]);
            let options = BankOptions { kind, patches_per_call, ..OPTIONS };
            let batches = [Ok(batch(n, &vec![0; b]))];
            let bank = FeatureBank::build("golden", &extractor, batches, &options, &mut |_| {}).unwrap();
            let tolerance = about["tolerance"][precision].as_f64().unwrap();
            assert_close("mean", &values(bank.features()), &tensors.get("mean").f64(), tolerance);
        }
    }

    #[test]
    fn bytes_become_numbers_from_minus_one_to_one() {
        let patches = Array5::from_shape_vec((1, 1, 3, 1, 1), vec![0, 51, 255]).unwrap();
        let batch = PatchBatch::new(patches, Some(vec![0]), vec![0]).unwrap();
        let bank = build(vec![batch], &OPTIONS).unwrap();
        assert_close("pixels", &values(bank.features()), &[-1.0, -0.6, 1.0], 1e-15);
    }

    #[test]
    fn rows_follow_the_images_whatever_the_batches_and_calls() {
        // The whole set as one batch of 5, and the same as batches of 2, 2 and 1.
        let whole = batch(3, &[0, 1, 2, 3, 0]);
        let part = |from: usize, to: usize| {
            let patches = whole.patches().slice_axis(ndarray::Axis(1), (from..to).into()).to_owned();
            let labels = whole.labels.as_ref().map(|labels| labels[from..to].to_vec());
            PatchBatch::new(patches, labels, (from..to).collect()).unwrap()
        };
        let parts = vec![part(0, 2), part(2, 4), part(4, 5)];
        let expected: Vec<f64> = (0..5)
            .flat_map(|image| (0..3).map(move |channel| (image, channel)))
            .map(|(image, channel)| {
                let bytes = (0..3).map(|patch| f64::from(whole.patches()[[patch, image, channel, 0, 0]]));
                bytes.map(|byte| byte / 127.5 - 1.0).sum::<f64>() / 3.0
            })
            .collect();
        let mut done = Vec::new();
        // No hint of the number of batches: the bank has to grow.
        let mut parts = parts.into_iter();
        let unknown = std::iter::from_fn(|| parts.next().map(Ok));
        let options = BankOptions { patches_per_call: 4, ..OPTIONS };
        let grown = FeatureBank::build("grown", &pixels, unknown, &options, &mut |n| done.push(n)).unwrap();
        for bank in [grown, build(vec![batch(3, &[0, 1, 2, 3, 0])], &OPTIONS).unwrap()] {
            assert_close(bank.name(), &values(bank.features()), &expected, 1e-14);
            assert_eq!(values(bank.labels()), [0.0, 1.0, 2.0, 3.0, 0.0]);
            assert_eq!((bank.n_images(), bank.width(), bank.n_classes()), (5, 3, 4));
        }
        assert_eq!(done, [2, 4, 5]);
    }

    #[test]
    fn whole_images_of_a_loader_become_rows_in_their_order() {
        let options =
            OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
        let images = empssl_data::open(&options, Split::Test).unwrap().subset(&[5, 900, 17, 3, 1999]).unwrap();
        let loader = LoaderConfig {
            n_patches: 1,
            batch_size: 2,
            view: View::Whole,
            order: Order::Sequential,
            drop_last: false,
            seed: 0,
            epoch: 0,
            first_batch: 0,
            rank: 0,
            world: 1,
            n_workers: 2,
            prefetch: 1,
        };
        let sampler = PatchSampler::new(&PatchConfig::cifar32()).unwrap();
        let loader = PatchLoader::new(&images, &sampler, &loader).unwrap();
        let options = BankOptions { n_classes: images.class_names().len() as i64, ..OPTIONS };
        let bank = FeatureBank::build("test", &pixels, loader, &options, &mut |_| {}).unwrap();
        for row in 0..5 {
            let image = images.image(row).unwrap();
            let planar = image.view().permuted_axes([2, 0, 1]);
            let expected: Vec<f64> = planar.iter().map(|&byte| f64::from(byte) / 127.5 - 1.0).collect();
            assert_close("pixels", &values(&bank.features().get(row as i64)), &expected, 1e-15);
            assert_eq!(bank.labels().int64_value(&[row as i64]), i64::from(images.labels().unwrap()[row]));
        }
    }

    #[test]
    fn the_encoder_sees_bounded_calls_and_leaves_no_graph() {
        let scale = Tensor::from_slice(&[2.0]).set_requires_grad(true);
        let largest = Cell::new(0);
        let extractor = |patches: &Tensor| {
            largest.set(largest.get().max(patches.size()[0]));
            pixels(patches) * &scale
        };
        let options = BankOptions { patches_per_call: 9, ..OPTIONS };
        let batches = [Ok(batch(7, &[0, 1, 2]))];
        let bank = FeatureBank::build("train", &extractor, batches, &options, &mut |_| {}).unwrap();
        assert_eq!(largest.get(), 9);
        assert!(!bank.features().requires_grad());
    }

    #[test]
    fn absent_classes_are_named() {
        let bank = build(vec![batch(1, &[2, 0, 2])], &OPTIONS).unwrap();
        assert_eq!(bank.absent_classes(), [1, 3]);
    }

    #[test]
    fn refuses_images_that_cannot_be_scored() {
        let mut unlabelled = batch(1, &[0]);
        unlabelled.labels = None;
        let message = refusal(build(vec![unlabelled], &OPTIONS));
        assert!(message.starts_with("the images of the bank `train` have no labels, and a score is"), "{message}");
        let message = refusal(build(vec![], &OPTIONS));
        assert_eq!(message, "the bank `train` holds no image, so there is nothing to score");
        let message = refusal(build(vec![batch(1, &[0, 1]), batch(1, &[3, 4])], &OPTIONS));
        assert_eq!(message, "the bank `train` gives image 3 the label 4, but there are 4 classes, counted from 0");
    }

    #[test]
    fn an_error_of_the_loader_ends_the_bank() {
        let batches = [Ok(batch(1, &[0])), Err(DataError::LoaderStopped { batch: 1 })];
        let result = FeatureBank::build("train", &pixels, batches, &OPTIONS, &mut |_| {});
        assert_eq!(refusal(result), DataError::LoaderStopped { batch: 1 }.to_string());
    }

    #[test]
    fn refuses_extractors_that_lose_or_change_rows() {
        let built = |extractor: &dyn FeatureExtractor, batches: Vec<PatchBatch>| {
            refusal(FeatureBank::build("train", extractor, batches.into_iter().map(Ok), &OPTIONS, &mut |_| {}))
        };
        let fewer = |patches: &Tensor| pixels(patches).narrow(0, 0, 1);
        let message = built(&fewer, vec![batch(2, &[0, 1])]);
        assert_eq!(message, "the features that the extractor returned must be [4, h], found [1, 3]");
        let square = |patches: &Tensor| patches.shallow_clone();
        assert!(built(&square, vec![batch(1, &[0])]).ends_with("must be [1, h], found [1, 3, 1, 1]"));
        let calls = Cell::new(0);
        let wider = |patches: &Tensor| pixels(patches).repeat([1, calls.replace(calls.get() + 1) + 1]);
        assert!(built(&wider, vec![batch(1, &[0]), batch(1, &[0])]).ends_with("must be [1, 3], found [1, 6]"));
        calls.set(0);
        assert!(built(&wider, vec![batch(9, &[0])]).ends_with("must be [1, 3], found [1, 6]"));
    }

    #[test]
    fn refuses_features_that_are_not_finite_and_names_the_first_row() {
        let labels = Tensor::zeros([9000], (Kind::Int64, Device::Cpu));
        for (value, row) in [(f64::NAN, 0), (f64::INFINITY, 4099), (f64::NEG_INFINITY, 8999)] {
            let features = Tensor::zeros([9000, 2], (Kind::Double, Device::Cpu));
            let _ = features.get(row).fill_(value);
            let _ = features.get(8999).fill_(value);
            let message = refusal(FeatureBank::new("test", &features, &labels, 1));
            let expected = format!("the features of the bank `test` are not finite, first in row {row}: ");
            assert!(message.starts_with(&expected), "{message}");
        }
    }

    #[test]
    fn refuses_tensors_of_the_wrong_shape_or_kind() {
        let zeros = |shape: &[i64], kind| Tensor::zeros(shape, (kind, Device::Cpu));
        let refused = |features: &Tensor, labels: &Tensor| refusal(FeatureBank::new("x", features, labels, 2));
        let (features, labels) = (zeros(&[3, 2], Kind::Float), zeros(&[3], Kind::Int64));
        let start = "the features of the bank `x` must be ";
        assert_eq!(refused(&zeros(&[3], Kind::Float), &labels), format!("{start}[images, h], found [3]"));
        let message = refused(&zeros(&[3, 2], Kind::Int64), &labels);
        assert_eq!(message, format!("{start}floating-point and at least one wide, found Int64 of [3, 2]"));
        assert!(refused(&zeros(&[3, 0], Kind::Float), &labels).ends_with("found Float of [3, 0]"));
        assert!(refused(&zeros(&[0, 2], Kind::Float), &labels).contains("`x` holds no image"));
        let message = refused(&features, &zeros(&[2], Kind::Int64));
        assert_eq!(message, "the labels of the bank `x` must be Int64 of [3], found Int64 of [2]");
        assert!(refused(&features, &zeros(&[3], Kind::Float)).ends_with("found Float of [3]"));
        let negative = Tensor::from_slice(&[0i64, -1, 0]);
        assert!(refused(&features, &negative).starts_with("the bank `x` gives image 1 the label -1, but"));
    }

    #[test]
    fn refuses_options_without_meaning() {
        for (key, options) in [
            ("n_classes", BankOptions { n_classes: 0, ..OPTIONS }),
            ("patches_per_call", BankOptions { patches_per_call: 0, ..OPTIONS }),
        ] {
            let message = refusal(build(vec![batch(1, &[0])], &options));
            assert_eq!(message, format!("`{key}` must be at least 1, found 0"));
        }
    }
}
