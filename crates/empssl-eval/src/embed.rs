//! Features of images that need no labels, batch by batch.

use empssl_data::{DataError, PatchBatch};
use tch::Tensor;

use crate::error::EvalError;
use crate::features::{BankOptions, FeatureExtractor, first_non_finite_row, mean_over_patches, to_device};

/// Hands the features of `batches` to `sink`, batch after batch, and keeps none: a set of any size can be embedded.
///
/// The features `[b, h]` of b images are on the device of the encoder, each the mean over the patches of its image, as
/// in a [`FeatureBank`](crate::FeatureBank); with them come the indices of the images in their data set. Labels are not
/// looked at, and neither is [`BankOptions::n_classes`].
///
/// # Errors
/// [`EvalError::Setting`] for impossible settings, [`EvalError::Data`] when a batch cannot be read, [`EvalError::Shape`]
/// when the extractor does not return a row for each patch, [`EvalError::NonFinite`] with the number of the row, and
/// whatever the sink returns.
pub fn embed<E: From<EvalError>>(
    extractor: &dyn FeatureExtractor,
    batches: impl IntoIterator<Item = Result<PatchBatch, DataError>>,
    options: &BankOptions,
    sink: &mut dyn FnMut(&[usize], &Tensor) -> Result<(), E>,
) -> Result<(), E> {
    options.check()?;
    let _guard = tch::no_grad_guard();
    let mut done = 0;
    for batch in batches {
        let batch = batch.map_err(EvalError::from)?;
        let features = mean_over_patches(extractor, &to_device(&batch, options.device), options)?;
        if let Some(row) = first_non_finite_row(&features) {
            return Err(EvalError::NonFinite { bank: "images".to_owned(), row: done + row }.into());
        }
        done += features.size()[0];
        sink(&batch.indices, &features)?;
    }
    Ok(())
}

/// All features `[images, h]` of `batches` at once; `progress` is told the number of images done.
///
/// # Errors
/// As [`embed`], and [`EvalError::EmptyBank`] without an image.
pub fn embed_all(
    extractor: &dyn FeatureExtractor,
    batches: impl IntoIterator<Item = Result<PatchBatch, DataError>>,
    options: &BankOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<Tensor, EvalError> {
    let (mut parts, mut done) = (Vec::new(), 0);
    embed(extractor, batches, options, &mut |images, features| {
        parts.push(features.shallow_clone());
        done += images.len();
        progress(done);
        Ok::<(), EvalError>(())
    })?;
    if parts.is_empty() {
        return Err(EvalError::EmptyBank { bank: "images".to_owned() });
    }
    Ok(Tensor::cat(&parts, 0))
}

#[cfg(test)]
mod tests {
    use ndarray::Array5;
    use tch::{Device, Kind};

    use super::*;
    use crate::features::{FeatureBank, pixels};
    use crate::testing::refusal;

    type Batches = Vec<Result<PatchBatch, DataError>>;

    /// Seven images in batches of three.
    fn batches(labelled: bool) -> Batches {
        let bytes =
            Array5::from_shape_fn((2, 7, 3, 4, 4), |(n, b, c, y, x)| (n * 91 + b * 37 + c * 11 + y * 5 + x) as u8);
        let chunks = bytes.axis_chunks_iter(ndarray::Axis(1), 3).zip([vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
        let batch = |(chunk, indices): (ndarray::ArrayView5<'_, u8>, Vec<usize>)| {
            PatchBatch::new(chunk.to_owned(), labelled.then(|| vec![0; indices.len()]), indices)
        };
        chunks.map(batch).collect()
    }

    fn options() -> BankOptions {
        BankOptions { n_classes: 1, device: Device::Cpu, kind: Kind::Float, patches_per_call: 2 }
    }

    #[test]
    fn images_without_labels_have_the_features_of_a_bank() {
        let bank = FeatureBank::build("bank", &pixels, batches(true), &options(), &mut |_| ()).unwrap();
        let mut told = Vec::new();
        let all = embed_all(&pixels, batches(false), &options(), &mut |done| told.push(done)).unwrap();
        assert_eq!((all, told), (bank.features().shallow_clone(), vec![3, 6, 7]));
        let mut seen = Vec::new();
        let mut sink = |images: &[usize], rows: &Tensor| {
            seen.push((images.to_vec(), rows.size()));
            Ok::<(), EvalError>(())
        };
        embed(&pixels, batches(false), &options(), &mut sink).unwrap();
        assert_eq!(seen[2], (vec![6], vec![1, 48]));
    }

    #[test]
    fn what_cannot_be_embedded_is_refused() {
        let all = |batches: Batches, options: &BankOptions| embed_all(&pixels, batches, options, &mut |_| ());
        let none = BankOptions { patches_per_call: 0, ..options() };
        assert!(refusal(all(batches(false), &none)).starts_with("`patches_per_call` must be"));
        assert!(refusal(all(Vec::new(), &options())).contains("`images` holds no image"));
        let broken = |patches: &Tensor| {
            let rows = pixels(patches);
            &rows / rows.sum_dim_intlist(1, true, Kind::Float).ge(-40.0)
        };
        let message = refusal(embed_all(&broken, batches(false), &options(), &mut |_| ()));
        assert!(message.contains("the bank `images` are not finite, first in row"), "{message}");
        let stops = &mut |_: &[usize], _: &Tensor| Err(EvalError::EmptyBank { bank: "full".to_owned() });
        assert!(refusal(embed(&pixels, batches(false), &options(), stops)).contains("`full`"));
    }
}
