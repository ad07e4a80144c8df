//! Which rows and points an encoder gets, from which features.

use std::cell::RefCell;
use std::path::PathBuf;

use empssl_report::report::View;

use super::*;
use crate::features::{BankOptions, BankSpec, Kept, pixels};
use crate::knn::KnnConfig;
use crate::probe::ProbePrecision;
use crate::testing::{OPTIONS, patches};

/// Features of generated patches, always the same ones.
struct Generated {
    folder: PathBuf,
    /// The patches and outputs of every pass.
    passes: Vec<(View, Vec<usize>, Vec<String>)>,
    scored: RefCell<Vec<Probe>>,
}

impl FeatureSource for Generated {
    type Error = EvalError;

    fn features(
        &mut self,
        encoder: &NamedEncoder<'_>,
        pass: &EvalPass,
        outputs: &[String],
    ) -> Result<BankFiles, EvalError> {
        self.passes.push((pass.view, pass.counts.clone(), outputs.to_vec()));
        let kept = Kept {
            outputs: vec![FEATURES.to_owned()],
            counts: pass.counts.iter().map(|&count| count as i64).collect(),
        };
        let file = |name: &str, n_images: u32| {
            let labels: Vec<u32> = (0..n_images).map(|image| image % 4).collect();
            let ids = (0..i64::from(n_images)).collect();
            let spec = BankSpec { identity: Default::default(), kept: kept.clone(), ids, n_classes: 4 };
            let path = self.folder.join(format!("{}-{}.{name}.safetensors", encoder.name, pass.view.name()));
            let options = BankOptions { kind: tch::Kind::Float, ..OPTIONS };
            let batches = [Ok(patches(pass.n_patches(), &labels))];
            BankFile::build(&path, name, &spec, encoder.extractor, batches, &options, &mut |_| {})
        };
        let (train, test) = (file("train", 24)?, file("test", 10)?);
        Ok(BankFiles { train, test, device: Device::Cpu, peaks: self.peaks()? })
    }

    fn peaks(&self) -> Result<PeakBytes, EvalError> {
        Ok(PeakBytes { host: Some(7), device: None })
    }

    fn scored(&self, row: &Row) {
        self.scored.borrow_mut().push(row.probe);
    }
}

fn config() -> EvaluationConfig {
    EvaluationConfig {
        view: View::Published,
        n_patches: 3,
        batch_size: 10,
        labelled_images: 24,
        scored_on: ScoredOn::Test,
        probe: LinearProbeConfig { batch_size: 8, epochs: 2, ..LinearProbeConfig::published() },
        knn: KnnConfig { k: vec![1, 20], temperature: 0.07 },
        curve: Some(CurveConfig {
            published: vec![1, 3],
            grid: vec![4],
            grid_flip: Vec::new(),
            whole: false,
            probes: vec![Probe::Linear, Probe::Knn],
        }),
        scores: Some(ScoresConfig {
            probe_seeds: 2,
            optimum_precision: ProbePrecision::Features,
            optimum_iterations: 50,
            few_shares: vec![0.5],
            few_seeds: 3,
        }),
    }
}

#[test]
fn every_encoder_gets_its_rows_and_the_trained_one_its_curve() {
    let (folder, config) = (tempfile::tempdir().unwrap(), config());
    config.check().unwrap();
    let source = Generated { folder: folder.path().to_owned(), passes: Vec::new(), scored: RefCell::new(Vec::new()) };
    let mut protocol = Protocol::new(&config, 5, source);
    let encoder = |encoder: Encoder| NamedEncoder {
        encoder,
        name: encoder.name().to_owned(),
        extractor: &pixels,
        checksum: None,
    };
    protocol.add_trained(&encoder(Encoder::Trained), &["backbone".to_owned()]).unwrap();
    protocol.add_baseline(&encoder(Encoder::Pixels)).unwrap();
    let of_network = [Probe::Linear, Probe::Knn, Probe::Knn, Probe::LinearOptimum, Probe::FewLabels];
    assert_eq!(*protocol.source.scored.borrow(), [&of_network[..], &of_network[..4]].concat());

    let [linear, twenty, one, _, few] = &protocol.rows[..5] else { panic!("{:?}", protocol.rows) };
    assert_eq!((linear.n_seeds, linear.n_train, linear.n_test), (2, 24, 10));
    assert!(linear.top1_deviation.is_some() && linear.chosen_on_test.is_some());
    assert_eq!((twenty.setting.as_str(), one.setting.as_str()), ("cosine, k 20, T 0.07", "cosine, k 1, T 0.07"));
    assert_eq!((few.n_seeds, few.n_train), (3, 12));
    assert!(protocol.rows[5].setting.contains("the best of [0.03, 0.003, 0.0003] on the test images"));
    assert!(protocol.rows.iter().all(|row| row.peak_bytes.host == Some(7)));
    let epochs: Vec<_> = protocol.probe_curve.iter().map(|point| (point.encoder, point.epoch)).collect();
    assert_eq!(epochs, [(Encoder::Trained, 1), (Encoder::Trained, 2)]);

    // The points of one pass come from its files, and that of the rows is not scored again.
    let both = vec![FEATURES.to_owned(), "backbone".to_owned()];
    let only = vec![FEATURES.to_owned()];
    let passes =
        [(View::Published, vec![1, 3], both), (View::Grid, vec![4], only.clone()), (View::Whole, vec![1], only)];
    assert_eq!(protocol.source.passes, passes);
    let places: Vec<_> = protocol.test_curve.iter().map(|point| (point.view, point.n_patches, point.probe)).collect();
    let at = |view, n_patches| [(view, n_patches, Probe::Linear), (view, n_patches, Probe::Knn)];
    assert_eq!(places, [at(View::Published, 1), at(View::Published, 3), at(View::Grid, 4)].concat());
    assert_eq!([protocol.test_curve[2].top1, protocol.test_curve[3].top1], [linear.top1, twenty.top1]);
}

#[test]
fn held_out_images_have_no_best_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let config = EvaluationConfig { scored_on: ScoredOn::HeldOut, curve: None, scores: None, ..config() };
    let source = Generated { folder: folder.path().to_owned(), passes: Vec::new(), scored: RefCell::new(Vec::new()) };
    let mut protocol = Protocol::new(&config, 5, source);
    let (encoder, name) = (Encoder::Untrained, "untrained".to_owned());
    protocol.add_baseline(&NamedEncoder { encoder, name, extractor: &pixels, checksum: None }).unwrap();
    let linear = &protocol.rows[0];
    assert_eq!((linear.chosen_on_test, linear.n_seeds, linear.top1_deviation), (None, 1, None));
    assert_eq!((protocol.rows.len(), linear.scored_on), (4, ScoredOn::HeldOut));
}
