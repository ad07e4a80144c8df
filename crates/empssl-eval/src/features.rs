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

    /// Refuses a test bank that cannot come from the same encoder and data set as this training bank.
    pub(crate) fn check_test(&self, test: &Self) -> Result<(), EvalError> {
        if self.signature() == test.signature() {
            return Ok(());
        }
        let (train, expected) = (self.name.clone(), self.signature());
        Err(EvalError::BanksDiffer { train, test: test.name.clone(), expected, found: test.signature() })
    }

    /// What a training and a test bank have in common.
    pub(crate) fn signature(&self) -> String {
        let (width, n_classes) = (self.width(), self.n_classes);
        let (kind, device) = (self.features.kind(), self.features.device());
        format!("{width} features of kind {kind:?} on {device:?} and {n_classes} classes")
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
    let shape: Vec<i64> = batch.patches.shape().iter().map(|&size| size as i64).collect();
    let bytes = match batch.patches.as_slice() {
        Some(bytes) => Tensor::from_slice(bytes),
        None => Tensor::from_slice(&batch.patches.iter().copied().collect::<Vec<u8>>()),
    };
    bytes.view(&shape[..]).to_device(device)
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
