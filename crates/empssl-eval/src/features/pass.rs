//! One pass over the images of a split: every patch through the encoder once, and means over the first of them on the way.

use std::time::{Duration, Instant};

use empssl_data::{DataError, PatchBatch};
use empssl_torch::device::synchronize;
use tch::{Device, Kind, Tensor};

use super::extractor::FeatureExtractor;
use crate::error::EvalError;

/// How features are computed.
#[derive(Clone, Debug)]
pub struct BankOptions {
    /// Number of classes of the data set, whether or not each has an image.
    pub n_classes: i64,
    /// Where the encoder is, and a bank in memory will be.
    pub device: Device,
    /// Kind of the patches handed to the extractor; the features have the kind of what it returns.
    pub kind: Kind,
    /// Most patches in one call of the extractor, which bounds the memory of its activations; a call takes whole sets
    /// of one patch of each image of a batch, at least one.
    pub patches_per_call: i64,
}

impl BankOptions {
    pub(crate) fn check(&self) -> Result<(), EvalError> {
        EvalError::check(self.n_classes >= 1, "n_classes", "at least 1", self.n_classes)?;
        EvalError::check(self.patches_per_call >= 1, "patches_per_call", "at least 1", self.patches_per_call)
    }
}

/// What is kept of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which outputs of the extractor, by name.
    pub outputs: Vec<String>,
    /// Over how many patches the features are averaged: one mean for each number, over the first so many patches of
    /// each image; increasing.
    pub counts: Vec<i64>,
}

impl Kept {
    /// The scored output of an extractor, averaged over so many patches.
    pub fn scored(extractor: &dyn FeatureExtractor, counts: &[i64]) -> Self {
        Self {
            outputs: extractor.outputs().first().map(|name| (*name).to_owned()).into_iter().collect(),
            counts: counts.to_vec(),
        }
    }

    fn check(&self, extractor: &dyn FeatureExtractor) -> Result<(), EvalError> {
        let offered = extractor.outputs();
        if let Some(unknown) = self.outputs.iter().find(|name| !offered.contains(&name.as_str())) {
            let offered = offered.iter().map(|name| (*name).to_owned()).collect();
            return Err(EvalError::UnknownOutput { wanted: unknown.clone(), offered });
        }
        EvalError::check(!self.outputs.is_empty(), "outputs", "at least one", "none")?;
        let increasing = self.counts.first() >= Some(&1) && self.counts.windows(2).all(|pair| pair[0] < pair[1]);
        EvalError::check(
            increasing,
            "counts",
            "increasing numbers of patches, at least 1",
            format!("{:?}", self.counts),
        )
    }

    /// The most patches that a mean is over; 0 for no mean at all.
    pub(super) fn most(&self) -> i64 {
        self.counts.last().copied().unwrap_or(0)
    }
}

/// The features of one batch of images.
#[derive(Debug)]
pub struct ImageFeatures {
    /// The class of every image `[b]`; `None` for images without labels.
    pub labels: Option<Vec<i64>>,
    /// The index of every image in the data set that was walked, `[b]`.
    pub indices: Vec<usize>,
    /// For each output of [`Kept`], for each of its counts, the mean `[b, width]`, on the device of the encoder.
    pub means: Vec<Vec<Tensor>>,
}

/// Who takes the features of a pass, batch by batch.
pub type Sink<'a> = dyn FnMut(ImageFeatures) -> Result<(), EvalError> + 'a;

/// Runs every patch of `batches` through the encoder and averages over the patches of each image (arXiv 2304.03977,
/// "bag of features"; tsb0601/EMP-SSL `evaluate.py:86-88`), no normalisation before or after; each batch goes to `sink`.
///
/// The order of the batches is kept. Patches travel to the device as bytes and become `x / 127.5 - 1` there.
/// Sums are in float64, so a mean over the first m patches is to rounding that of a pass over m patches alone, however
/// the patches are spread over calls.
///
/// Returns for each count of [`Kept`] the seconds that features of so many patches took: the encoder's up to there, and
/// of the time that patches were waited for the share of so many.
///
/// Memory: one batch of bytes, its sums, and the activations of [`BankOptions::patches_per_call`] patches.
///
/// # Errors
/// [`EvalError::Data`] when a batch cannot be read, [`EvalError::Shape`] when the extractor does not return a row of the
/// same width for each patch or a batch has fewer patches than a mean is over, [`EvalError::UnknownOutput`],
/// [`EvalError::Setting`], and whatever the sink returns.
pub fn extract_features(
    extractor: &dyn FeatureExtractor,
    batches: impl IntoIterator<Item = Result<PatchBatch, DataError>>,
    kept: &Kept,
    options: &BankOptions,
    sink: &mut Sink<'_>,
) -> Result<Vec<f64>, EvalError> {
    options.check()?;
    kept.check(extractor)?;
    let _guard = tch::no_grad_guard();
    let mut clock = Clock::new(kept);
    let mut asked = Instant::now();
    for batch in batches {
        let batch = batch?;
        clock.waited += asked.elapsed();
        let means = running_means(extractor, &to_device(&batch, options.device), kept, options, &mut clock)?;
        let labels = batch.labels.as_ref().map(|labels| labels.iter().copied().map(i64::from).collect());
        let indices = batch.indices.clone();
        // The buffer goes back to the loader before the features are put where they belong.
        drop(batch);
        sink(ImageFeatures { labels, indices, means })?;
        asked = Instant::now();
    }
    Ok(clock.seconds(kept))
}

/// What the features took.
struct Clock {
    waited: Duration,
    /// By the encoder, up to each count.
    computed: Vec<Duration>,
}

impl Clock {
    fn new(kept: &Kept) -> Self {
        Self { waited: Duration::ZERO, computed: vec![Duration::ZERO; kept.counts.len()] }
    }

    fn seconds(&self, kept: &Kept) -> Vec<f64> {
        let share = |count: i64| self.waited.as_secs_f64() * count as f64 / kept.most() as f64;
        kept.counts.iter().zip(&self.computed).map(|(&count, time)| time.as_secs_f64() + share(count)).collect()
    }
}

/// The scored output of bytes `[n, b, 3, s, s]`, averaged over all n patches, `[b, width]`: what [`extract_features`] gives for them.
pub(crate) fn mean_over_patches(
    extractor: &dyn FeatureExtractor,
    bytes: &Tensor,
    options: &BankOptions,
) -> Result<Tensor, EvalError> {
    let kept = Kept::scored(extractor, &[bytes.size()[0]]);
    let mut means = running_means(extractor, bytes, &kept, options, &mut Clock::new(&kept))?;
    Ok(means.remove(0).remove(0))
}

/// The bytes of a batch as a tensor `[n, b, 3, s, s]` on the device.
pub(crate) fn to_device(batch: &PatchBatch, device: Device) -> Tensor {
    let shape: Vec<i64> = batch.patches().shape().iter().map(|&size| size as i64).collect();
    Tensor::from_data_size(batch.bytes(), &shape, Kind::Uint8).to_device(device)
}

/// Means `[b, width]` over the first patches of bytes `[n, b, 3, s, s]`, for each output and count.
fn running_means(
    extractor: &dyn FeatureExtractor,
    bytes: &Tensor,
    kept: &Kept,
    options: &BankOptions,
    clock: &mut Clock,
) -> Result<Vec<Vec<Tensor>>, EvalError> {
    let (n, b) = (bytes.size()[0], bytes.size()[1]);
    if n < kept.most() {
        let expected = format!("[at least {}, b, 3, s, s]", kept.most());
        return Err(EvalError::Shape {
            what: "the patches of a batch".to_owned(),
            expected,
            found: format!("{:?}", bytes.size()),
        });
    }
    let (per_call, began) = ((options.patches_per_call / b.max(1)).max(1), Instant::now());
    let mut means: Vec<Vec<Tensor>> = kept.outputs.iter().map(|_| Vec::with_capacity(kept.counts.len())).collect();
    let (mut sums, mut done) = (Vec::new(), 0);
    for (at, &count) in kept.counts.iter().enumerate() {
        while done < count {
            let take = per_call.min(count - done);
            let kinds = add_patches(extractor, &bytes.narrow(0, done, take), kept, options, &mut sums)?;
            done += take;
            if done == count {
                sums.iter()
                    .zip(kinds)
                    .zip(&mut means)
                    .for_each(|((sum, kind), means)| means.push((sum / count).to_kind(kind)));
            }
        }
        // Work is done when the device says so, not when it was asked for.
        synchronize(options.device)?;
        clock.computed[at] += began.elapsed();
    }
    Ok(means)
}

/// Adds the features of bytes `[n, b, 3, s, s]` to the float64 sums `[b, width]`, in one call of the extractor; returns
/// the kinds that it gave.
fn add_patches(
    extractor: &dyn FeatureExtractor,
    bytes: &Tensor,
    kept: &Kept,
    options: &BankOptions,
    sums: &mut Vec<Tensor>,
) -> Result<Vec<Kind>, EvalError> {
    let (n, b) = (bytes.size()[0], bytes.size()[1]);
    let wanted: Vec<&str> = kept.outputs.iter().map(String::as_str).collect();
    let given = extractor.extract(&(bytes.flatten(0, 1).to_kind(options.kind) / 127.5 - 1.0), &wanted);
    EvalError::check(given.len() == wanted.len(), "outputs", "as many as were wanted of the extractor", given.len())?;
    let mut parts = Vec::with_capacity(given.len());
    for features in &given {
        let shape = features.size();
        if shape.len() != 2 || shape[0] != n * b {
            let expected = format!("[{}, h]", n * b);
            return Err(EvalError::Shape { what: RETURNED.to_owned(), expected, found: format!("{shape:?}") });
        }
        parts.push(features.reshape([n, b, shape[1]]).sum_dim_intlist(0, false, Kind::Double));
    }
    if sums.is_empty() {
        *sums = parts;
    } else {
        for (sum, part) in sums.iter_mut().zip(parts) {
            EvalError::check_sizes(RETURNED, &part.size(), &sum.size())?;
            *sum += part;
        }
    }
    Ok(given.iter().map(Tensor::kind).collect())
}

/// What messages call the result of [`FeatureExtractor::extract`].
pub(super) const RETURNED: &str = "the features that the extractor returned";

#[cfg(test)]
mod tests;
