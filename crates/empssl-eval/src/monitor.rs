//! A score for an encoder that is still being trained, cheap enough to be taken again and again.

use empssl_data::{DataError, PatchBatch};
use tch::{Device, Tensor};

use crate::error::EvalError;
use crate::features::{BankOptions, FeatureBank, FeatureExtractor, mean_over_patches, to_device};
use crate::knn::{KnnConfig, WeightedKnn};
use crate::metrics::Accuracy;

/// How many parts the images are dealt into.
const PARTS: i64 = 5;

/// Labelled images, cut into patches once, on which an encoder is scored by weighted kNN as it changes.
///
/// The images are dealt into five parts. The class of each image is voted by its neighbours in the other four, so its
/// own label is held out and yet every image is scored. An image that was trained on without its label is no test
/// image, though: the score says how training goes, not how good its result is.
///
/// Memory: the bytes of the patches on the host, and during a score the features and the activations of
/// [`BankOptions::patches_per_call`] patches.
#[derive(Debug)]
pub struct KnnMonitor {
    /// Bytes `[n, images, 3, s, s]`, on the host.
    patches: Tensor,
    /// `[images]`
    labels: Tensor,
    /// The part of each image, `[images]`.
    parts: Tensor,
    knn: WeightedKnn,
    options: BankOptions,
}

impl KnnMonitor {
    /// Keeps the patches of `batches`. The images of each class are dealt in turn, so that every part has its share of
    /// every class in whatever order they come.
    ///
    /// # Errors
    /// [`EvalError::Setting`] for impossible settings and for fewer images than parts, [`EvalError::Data`] when a batch
    /// cannot be read, [`EvalError::Unlabelled`].
    pub fn new(
        batches: impl IntoIterator<Item = Result<PatchBatch, DataError>>,
        knn: &KnnConfig,
        options: BankOptions,
    ) -> Result<Self, EvalError> {
        options.check()?;
        let knn = WeightedKnn::new(knn)?;
        let (mut patches, mut labels) = (Vec::new(), Vec::new());
        for batch in batches {
            let batch = batch?;
            let own = batch.labels.as_ref().ok_or_else(|| EvalError::Unlabelled { bank: NAME.to_owned() })?;
            labels.extend(own.iter().copied().map(i64::from));
            patches.push(to_device(&batch, Device::Cpu));
        }
        EvalError::check(labels.len() as i64 >= PARTS, "images", "at least 5, one for each part", labels.len())?;
        let (patches, parts) = (Tensor::cat(&patches, 1), Tensor::from_slice(&dealt(&labels)));
        Ok(Self { patches, labels: Tensor::from_slice(&labels), parts, knn, options })
    }

    /// The number of labelled images.
    pub fn n_images(&self) -> i64 {
        self.labels.size()[0]
    }

    /// The number of patches of each image.
    pub fn n_patches(&self) -> i64 {
        self.patches.size()[0]
    }

    /// Scores the encoder as it is now, in percent of all images.
    ///
    /// # Errors
    /// [`EvalError::Shape`] when the extractor does not return a row for each patch, [`EvalError::NonFinite`],
    /// [`EvalError::LabelOutOfRange`].
    pub fn score(&self, extractor: &dyn FeatureExtractor) -> Result<Accuracy, EvalError> {
        let _guard = tch::no_grad_guard();
        let features = self.features(extractor)?;
        let mut sum = Accuracy { top1: 0.0, top5: 0.0 };
        for part in 0..PARTS {
            let held_out = self.parts.eq(part);
            let others = self.bank(&features, &held_out.logical_not())?;
            let scored = self.bank(&features, &held_out)?;
            let (accuracy, share) = (self.knn.score(&others, &scored)?, scored.n_images() as f64);
            sum = Accuracy { top1: sum.top1 + share * accuracy.top1, top5: sum.top5 + share * accuracy.top5 };
        }
        let images = self.n_images() as f64;
        Ok(Accuracy { top1: sum.top1 / images, top5: sum.top5 / images })
    }

    /// The features `[images, h]`, a few images at a time.
    fn features(&self, extractor: &dyn FeatureExtractor) -> Result<Tensor, EvalError> {
        let at_once = (self.options.patches_per_call / self.n_patches()).max(1);
        let rows = |start: i64| {
            let bytes = self.patches.narrow(1, start, at_once.min(self.n_images() - start));
            mean_over_patches(extractor, &bytes.to_device(self.options.device), &self.options)
        };
        let rows: Vec<Tensor> =
            (0..self.n_images()).step_by(at_once as usize).map(rows).collect::<Result<_, EvalError>>()?;
        Ok(Tensor::cat(&rows, 0))
    }

    /// The bank of the images that are `chosen`, `[images]` of yes and no.
    fn bank(&self, features: &Tensor, chosen: &Tensor) -> Result<FeatureBank, EvalError> {
        let rows = chosen.nonzero().flatten(0, -1);
        let features = features.index_select(0, &rows.to_device(features.device()));
        FeatureBank::new(NAME, &features, &self.labels.index_select(0, &rows), self.options.n_classes)
    }
}

/// The part of each image: sorted by class they are dealt in turn.
fn dealt(labels: &[i64]) -> Vec<i64> {
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by_key(|&image| labels[image]);
    let mut parts = vec![0; labels.len()];
    order.into_iter().zip((0..PARTS).cycle()).for_each(|(image, part)| parts[image] = part);
    parts
}

/// What messages call the images.
const NAME: &str = "monitor";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{refusal, values};
    use ndarray::Array5;
    use tch::Kind;

    const SIDE: usize = 4;

    /// Batches of three images in which a patch says by its colour whose class it is, and of which image it is by the
    /// second channel.
    fn batches(labels: &[u32], n: usize) -> Vec<Result<PatchBatch, DataError>> {
        let indices: Vec<usize> = (0..labels.len()).collect();
        let batch = |chunk: &[usize]| {
            let bytes =
                Array5::from_shape_fn((n, chunk.len(), 3, SIDE, SIDE), |(patch, image, channel, y, x)| match channel {
                    0 => (labels[chunk[image]] * 60 + 20) as u8,
                    1 => (chunk[image] * 7 + patch * 3 + y + x) as u8,
                    _ => 128,
                });
            let own = chunk.iter().map(|&index| labels[index]).collect();
            PatchBatch::new(bytes, Some(own), chunk.to_vec())
        };
        indices.chunks(3).map(batch).collect()
    }

    fn options(patches_per_call: i64) -> BankOptions {
        BankOptions { n_classes: 3, device: Device::Cpu, kind: Kind::Float, patches_per_call }
    }

    fn knn(k: i64) -> KnnConfig {
        KnnConfig { k: vec![k], temperature: 0.07 }
    }

    fn monitor(labels: &[u32], n: usize, k: i64, patches_per_call: i64) -> KnnMonitor {
        KnnMonitor::new(batches(labels, n), &knn(k), options(patches_per_call)).unwrap()
    }

    /// The mean of each channel.
    fn colour(patches: &Tensor) -> Tensor {
        patches.mean_dim([2i64, 3].as_slice(), false, Kind::Float)
    }

    /// The class alone, as an angle.
    fn class(patches: &Tensor) -> Tensor {
        let angle = colour(patches).narrow(1, 0, 1) * 2.0;
        Tensor::cat(&[angle.cos(), angle.sin()], 1)
    }

    /// Sees no difference.
    fn blind(patches: &Tensor) -> Tensor {
        class(patches).narrow(1, 0, 1).ones_like()
    }

    const LABELS: [u32; 17] = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2];

    #[test]
    fn every_part_has_its_share_of_every_class_in_whatever_order_they_come() {
        let sorted: Vec<i64> = (0..60).map(|image| image / 10).collect();
        let in_turn: Vec<i64> = (0..60).map(|image| image % 6).collect();
        for labels in [sorted, in_turn] {
            let parts = dealt(&labels);
            let count = |class: i64, part: i64| {
                labels.iter().zip(&parts).filter(|&(&label, &of)| (label, of) == (class, part)).count()
            };
            assert!((0..6).all(|class| (0..PARTS).all(|part| count(class, part) == 2)));
        }
        let mut alone = dealt(&[7, 3, 9, 6, 5]);
        alone.sort_unstable();
        assert_eq!(alone, [0, 1, 2, 3, 4], "classes of one image are spread");
    }

    #[test]
    fn a_perfect_encoder_scores_everything_and_a_blind_one_the_nearest_row() {
        let monitor = monitor(&LABELS, 2, 3, 100);
        assert_eq!((monitor.n_images(), monitor.n_patches()), (17, 2));
        assert_eq!(monitor.score(&class).unwrap().top1, 100.0);
        // All rows are alike: the first three of the other parts vote, which are of class 0.
        let blind = monitor.score(&blind).unwrap();
        assert!((blind.top1 - 100.0 * 6.0 / 17.0).abs() < 1e-9, "{blind:?}");
        assert_eq!(blind.top5, 100.0);
    }

    #[test]
    fn no_image_votes_for_itself() {
        // Every image is of a class of its own but for one pair, so only its twin could be right.
        let mut own: Vec<u32> = (0..10).collect();
        own[9] = 0;
        let options = BankOptions { n_classes: 10, ..options(7) };
        let monitor = KnnMonitor::new(batches(&own, 1), &knn(1), options).unwrap();
        let one_hot = |patches: &Tensor| {
            let index = (patches.select(1, 1).select(1, 0).select(1, 0) + 1.0) * 127.5 / 7.0;
            index.round().to_kind(Kind::Int64).remainder(9).one_hot(9).to_kind(Kind::Float)
        };
        assert!((monitor.score(&one_hot).unwrap().top1 - 20.0).abs() < 1e-9);
    }

    #[test]
    fn features_do_not_depend_on_how_many_patches_go_at_once() {
        let whole = monitor(&LABELS, 3, 3, 1000).features(&colour).unwrap();
        assert_eq!(whole.size(), [17, 3]);
        for at_once in [1, 2, 7, 12] {
            let parts = monitor(&LABELS, 3, 3, at_once).features(&colour).unwrap();
            let gap = values(&(&parts - &whole).abs().max()).remove(0);
            assert!(gap < 1e-6, "{at_once} at once: {gap}");
        }
    }

    #[test]
    fn a_score_is_the_same_each_time_and_follows_the_encoder() {
        let monitor = monitor(&LABELS, 2, 3, 4);
        let first = monitor.score(&colour).unwrap();
        assert_eq!(first, monitor.score(&colour).unwrap());
        assert_ne!(first, monitor.score(&blind).unwrap());
    }

    #[test]
    fn what_cannot_be_scored_is_refused() {
        let new = |batches, options| KnnMonitor::new(batches, &knn(3), options);
        let message = refusal(new(batches(&LABELS[..4], 1), options(4)));
        assert_eq!(message, "`images` must be at least 5, one for each part, found 4");
        assert!(refusal(new(batches(&LABELS, 1), options(0))).starts_with("`patches_per_call` must be"));
        let unlabelled = PatchBatch::new(Array5::zeros((1, 6, 3, SIDE, SIDE)), None, (0..6).collect());
        assert!(refusal(new(vec![unlabelled], options(4))).contains("`monitor` have no labels"));
        assert!(refusal(KnnMonitor::new(batches(&LABELS, 1), &knn(0), options(4))).starts_with("`k` must be"));
        let nan = monitor(&LABELS, 1, 3, 4).score(&|patches: &Tensor| colour(patches) * f64::NAN);
        assert!(refusal(nan).contains("`monitor` are not finite"));
        let flat = monitor(&LABELS, 1, 3, 4).score(&|patches: &Tensor| patches.flatten(0, -1));
        assert!(refusal(flat).starts_with("the features that the extractor returned must be"));
    }
}
