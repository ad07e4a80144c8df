//! What the features are taken from and how they are scored: `[evaluation]` of a recipe.

use empssl_data::PatchGrid;
use empssl_report::report::{Probe, ScoredOn, View};
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::knn::{KnnConfig, WeightedKnn};
use crate::probe::{FewLabels, LinearProbe, LinearProbeConfig, LogisticProbe, LogisticProbeConfig, ProbePrecision};

/// Settings of a [`Protocol`](super::Protocol).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// What the table of scores is from.
    pub view: View,
    /// Patches whose features are averaged for each image; 1 for the whole image.
    pub n_patches: usize,
    /// Images a batch when features are extracted.
    pub batch_size: usize,
    /// At most so many labelled training images; a larger number means all.
    pub labelled_images: usize,
    /// Which images are scored.
    pub scored_on: ScoredOn,
    /// The published linear probe.
    pub probe: LinearProbeConfig,
    /// The nearest neighbours.
    pub knn: KnnConfig,
    /// Accuracy against the patches of an image; without it there is no such curve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curve: Option<CurveConfig>,
    /// More scores; without it there are only those that need no setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<ScoresConfig>,
}

/// Which points the curve of accuracy against the patches of an image has: for each view the numbers of patches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurveConfig {
    /// Points of one pass over the largest number.
    pub published: Vec<usize>,
    /// Each is a pass of its own, over another lattice.
    pub grid: Vec<usize>,
    /// The same with half as many places, each mirrored too.
    pub grid_flip: Vec<usize>,
    /// Whether the whole image is a point.
    pub whole: bool,
    /// How each point is scored: the published linear probe, the neighbours, or both.
    pub probes: Vec<Probe>,
}

/// What is scored beside the published probe and vote, and how often.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoresConfig {
    /// First layers and orders that the published probe is fitted with; its score is the mean.
    pub probe_seeds: usize,
    /// Precision of the probe that needs no settings.
    pub optimum_precision: ProbePrecision,
    /// Its most iterations.
    pub optimum_iterations: usize,
    /// Shares of the training images that have labels.
    pub few_shares: Vec<f64>,
    /// How often each is drawn.
    pub few_seeds: usize,
}

/// One pass of an encoder over the labelled images, whose features are kept over so many patches each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalPass {
    /// What the encoder sees.
    pub view: View,
    /// Increasing, at least one.
    pub counts: Vec<usize>,
}

/// What the loader makes of a view.
pub fn loader_view(view: View) -> empssl_data::View {
    match view {
        View::Published => empssl_data::View::Augmented,
        View::Grid => empssl_data::View::Grid { flip: false },
        View::GridFlip => empssl_data::View::Grid { flip: true },
        View::Whole => empssl_data::View::Whole,
    }
}

/// Whether the first patches of many are the patches that few would be. Random patches are drawn one after the other; a
/// lattice of few places is another lattice.
pub fn is_nested(view: View) -> bool {
    view == View::Published
}

/// Refuses numbers of patches that an image has not in this view.
fn check_patches(key: &str, view: View, n_patches: usize) -> Result<(), EvalError> {
    let refuse = |rule: &str| impossible(key, n_patches, rule);
    match view {
        _ if n_patches == 0 => refuse("at least one patch an image is needed"),
        View::Whole if n_patches != 1 => refuse("the whole image is one view, so it must be 1"),
        View::Grid | View::GridFlip => match PatchGrid::new(n_patches, view == View::GridFlip) {
            Err(reason) => refuse(&format!("the patches form no lattice ({reason})")),
            Ok(_) => Ok(()),
        },
        _ => Ok(()),
    }
}

fn impossible(key: &str, value: usize, rule: &str) -> Result<(), EvalError> {
    Err(EvalError::Impossible { key: key.to_owned(), value, rule: rule.to_owned() })
}

impl EvalPass {
    /// That of raw pixels: every image once, as a whole.
    pub fn of_pixels() -> Self {
        Self { view: View::Whole, counts: vec![1] }
    }

    /// Patches of an image that go through the encoder.
    pub fn n_patches(&self) -> usize {
        self.counts.iter().copied().max().unwrap_or(1)
    }

    /// Whether the other pass keeps everything of this one. A lattice has one number of patches, so no other is in it.
    pub(super) fn is_part_of(&self, other: &Self) -> bool {
        self.view == other.view && self.counts.iter().all(|count| other.counts.contains(count))
    }
}

impl CurveConfig {
    /// The numbers of patches of a view.
    fn counts(&self, view: View) -> &[usize] {
        match view {
            View::Published => &self.published,
            View::Grid => &self.grid,
            View::GridFlip => &self.grid_flip,
            View::Whole if self.whole => &[1],
            View::Whole => &[],
        }
    }

    /// The passes that give its points, in the order of the report; each lattice is one of its own.
    pub(super) fn passes(&self) -> Vec<EvalPass> {
        let passes = View::ALL.into_iter().flat_map(|view| {
            let counts = self.counts(view);
            let together = if is_nested(view) { counts.len() } else { 1 };
            counts.chunks(together.max(1)).map(move |counts| EvalPass { view, counts: counts.to_vec() })
        });
        passes.collect()
    }

    fn check(&self) -> Result<(), EvalError> {
        for view in View::ALL {
            let (key, counts) = (format!("curve.{}", view.name().replace('-', "_")), self.counts(view));
            counts.iter().try_for_each(|&count| check_patches(&key, view, count))?;
            if let Some(pair) = counts.windows(2).find(|pair| pair[0] >= pair[1]) {
                return impossible(&key, pair[1], "the numbers of patches must increase");
            }
        }
        self.probes.iter().try_for_each(|&probe| {
            let on_curves = matches!(probe, Probe::Linear | Probe::Knn);
            EvalError::check(on_curves, "curve.probes", "\"linear\" or \"knn\"", format!("\"{}\"", probe.name()))
        })
    }
}

impl ScoresConfig {
    /// Settings of the probe that needs none of its own.
    pub(super) fn optimum(&self) -> LogisticProbeConfig {
        LogisticProbeConfig { precision: self.optimum_precision, max_iterations: self.optimum_iterations }
    }

    /// Refuses what the scores would refuse, before anything is trained.
    fn check(&self) -> Result<(), EvalError> {
        let key = |key: &str| {
            let key = format!("scores.{key}");
            move |error: EvalError| error.renamed(|_| key)
        };
        LogisticProbe::new(&self.optimum(), 0).map_err(key("optimum_iterations"))?;
        for &share in &self.few_shares {
            FewLabels::new(&self.optimum(), share, &[0]).map_err(key("few_shares"))?;
        }
        let at_least_1 = |key: &str, n: usize| EvalError::check(n >= 1, key, "at least 1", n);
        at_least_1("scores.probe_seeds", self.probe_seeds)?;
        if self.few_shares.is_empty() { Ok(()) } else { at_least_1("scores.few_seeds", self.few_seeds) }
    }
}

impl EvaluationConfig {
    /// The pass that the rows of a network are from.
    pub fn row_pass(&self) -> EvalPass {
        EvalPass { view: self.view, counts: vec![self.n_patches] }
    }

    /// The same of the trained encoder, with those points of the curve that lie on its way.
    pub(super) fn trained_pass(&self) -> EvalPass {
        let mut pass = self.row_pass();
        if let Some(curve) = self.curve.as_ref().filter(|_| is_nested(self.view)) {
            pass.counts.extend(curve.counts(self.view));
            pass.counts.sort_unstable();
            pass.counts.dedup();
        }
        pass
    }

    /// Every pass of the trained encoder.
    pub fn trained_passes(&self) -> Vec<EvalPass> {
        let first = self.trained_pass();
        let others = self.curve.iter().flat_map(CurveConfig::passes).filter(|pass| !pass.is_part_of(&first));
        let others: Vec<_> = others.collect();
        [vec![first], others].concat()
    }

    /// Patches of each image that go through a network: the untrained one, and the trained one.
    pub fn patches_an_image(&self) -> usize {
        self.row_pass().n_patches() + self.trained_passes().iter().map(EvalPass::n_patches).sum::<usize>()
    }

    /// Refuses what is impossible with any images.
    ///
    /// # Errors
    /// [`EvalError::Impossible`] and [`EvalError::Setting`].
    pub fn check(&self) -> Result<(), EvalError> {
        check_patches("n_patches", self.view, self.n_patches)?;
        if self.batch_size == 0 {
            return impossible("batch_size", 0, "at least one image a batch is needed");
        }
        if self.labelled_images == 0 {
            return impossible("labelled_images", 0, "a probe needs labelled images");
        }
        let within = |section: &'static str| move |e: EvalError| e.renamed(|key| format!("{section}.{key}"));
        LinearProbe::new(&self.probe, 0).map_err(within("probe"))?;
        WeightedKnn::new(&self.knn).map_err(within("knn"))?;
        self.scores.iter().try_for_each(ScoresConfig::check)?;
        self.curve.iter().try_for_each(CurveConfig::check)?;
        self.check_labelled(self.labelled_images)
    }

    /// Refuses a probe whose batches so many labelled images do not fill.
    ///
    /// # Errors
    /// [`EvalError::Setting`].
    pub fn check_labelled(&self, n_images: usize) -> Result<(), EvalError> {
        let (batch, rule) = (self.probe.batch_size, "at most the number of labelled training images");
        let found = format!("{batch} with {n_images} images");
        EvalError::check(batch <= n_images as i64, "probe.batch_size", rule, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(view: View, n_patches: usize, curve: Option<CurveConfig>) -> EvaluationConfig {
        EvaluationConfig {
            view,
            n_patches,
            batch_size: 100,
            labelled_images: 1000,
            scored_on: ScoredOn::Test,
            probe: LinearProbeConfig::published(),
            knn: KnnConfig::published(),
            curve,
            scores: None,
        }
    }

    #[test]
    fn random_patches_share_a_pass_and_every_lattice_has_its_own() {
        let pass = |view, counts: &[usize]| EvalPass { view, counts: counts.to_vec() };
        let curve = CurveConfig {
            published: vec![1, 2, 4],
            grid: vec![4, 9],
            grid_flip: Vec::new(),
            whole: true,
            probes: vec![Probe::Knn],
        };
        let [published, grid, whole] = [View::Published, View::Grid, View::Whole];
        let usual = config(published, 8, Some(curve.clone()));
        assert_eq!(usual.row_pass(), pass(published, &[8]));
        let others = [pass(grid, &[4]), pass(grid, &[9]), pass(whole, &[1])];
        assert_eq!(usual.trained_passes(), [&[pass(published, &[1, 2, 4, 8])], &others[..]].concat());
        // The lattice that is scored is not passed over twice.
        let by_grid = config(grid, 9, Some(curve));
        let others = [pass(published, &[1, 2, 4]), pass(grid, &[4]), pass(whole, &[1])];
        assert_eq!(by_grid.trained_passes(), [&[pass(grid, &[9])], &others[..]].concat());
        assert_eq!(config(published, 8, None).trained_passes(), [pass(published, &[8])]);
    }

    #[test]
    fn a_view_has_the_numbers_of_patches_that_an_image_has_in_it() {
        let refused = |view: View, n| check_patches("key", view, n).err().map(|error| error.to_string());
        for (view, good, bad) in [
            (View::Published, vec![1, 3, 128], vec![0]),
            (View::Grid, vec![1, 2, 4, 16], vec![0, 3, 7]),
            (View::GridFlip, vec![2, 4, 8], vec![0, 1, 3]),
            (View::Whole, vec![1], vec![0, 2]),
        ] {
            good.iter().for_each(|&n| assert_eq!(refused(view, n), None));
            bad.iter()
                .for_each(|&n| assert!(refused(view, n).unwrap().starts_with(&format!("`key` = {n} is not")), "{n}"));
        }
    }

    #[test]
    fn a_curve_goes_up_and_its_words_are_those_of_recipes() {
        let curve = |published: &[usize], grid: &[usize], whole| CurveConfig {
            published: published.to_vec(),
            grid: grid.to_vec(),
            grid_flip: vec![2],
            whole,
            probes: vec![Probe::Knn, Probe::Linear],
        };
        curve(&[1, 2, 4, 20], &[1, 4], true).check().unwrap();
        let refused = |curve: CurveConfig| curve.check().unwrap_err().to_string();
        assert_eq!(
            refused(curve(&[1, 4, 4], &[], false)),
            "`curve.published` = 4 is not possible: the numbers of patches must increase"
        );
        assert!(refused(curve(&[], &[5], false)).starts_with("`curve.grid` = 5 is not possible: the patches"));
        let few = CurveConfig { probes: vec![Probe::FewLabels], ..curve(&[1], &[], false) };
        assert_eq!(refused(few), "`curve.probes` must be \"linear\" or \"knn\", found \"few-labels\"");
        assert_eq!([true, false].map(|whole| curve(&[], &[], whole).counts(View::Whole).len()), [1, 0]);
    }
}
