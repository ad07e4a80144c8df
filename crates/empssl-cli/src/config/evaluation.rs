//! `[evaluation]` of a recipe: what features are taken from, and how they are scored.

use clap::ValueEnum;
use empssl_data::{PatchGrid, View};
use empssl_eval::{KnnConfig, LinearProbe, LinearProbeConfig, WeightedKnn};
pub(crate) use empssl_report::report::ScoredOn;
use serde::{Deserialize, Serialize};

use super::check::{in_section, must_be};
use super::scores::ScoresSection;
use crate::error::CliError;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EvaluationSection {
    /// What the table of scores is from.
    pub(crate) view: EvalView,
    /// Patches whose features are averaged for each image; 1 for the whole image.
    pub(crate) n_patches: usize,
    /// Images a batch when features are extracted.
    pub(crate) batch_size: usize,
    /// At most so many labelled training images; a larger number means all.
    pub(crate) labelled_images: usize,
    pub(crate) scored_on: ScoredOn,
    pub(crate) probe: LinearProbeConfig,
    pub(crate) knn: KnnConfig,
    /// Accuracy against the patches of an image; a recipe without it has no such curve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) curve: Option<CurveSection>,
    /// More scores; a recipe without it has only those that need no setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scores: Option<ScoresSection>,
}

/// What the encoder sees of an image when its features are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EvalView {
    /// Random patches under the full training augmentation, as published; by the seed of the run.
    Published,
    /// Patches in fixed places, without any change of colour.
    Grid,
    /// Half as many places, each as it is and mirrored.
    GridFlip,
    /// The whole image, resized to the side of a patch.
    Whole,
}

impl EvalView {
    /// In the order of the report.
    pub(crate) const ALL: [Self; 4] = [Self::Published, Self::Grid, Self::GridFlip, Self::Whole];

    /// What the loader makes of it.
    pub(crate) fn view(self) -> View {
        match self {
            Self::Published => View::Augmented,
            Self::Grid => View::Grid { flip: false },
            Self::GridFlip => View::Grid { flip: true },
            Self::Whole => View::Whole,
        }
    }

    /// The word in recipes, reports and names of files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Grid => "grid",
            Self::GridFlip => "grid-flip",
            Self::Whole => "whole",
        }
    }

    /// Whether the first patches of many are the patches that few would be. Random patches are drawn one after the
    /// other; a lattice of few places is another lattice.
    pub(crate) fn begins_alike(self) -> bool {
        self == Self::Published
    }

    /// Refuses numbers of patches that an image has not in this view; `key` is the key in full.
    pub(crate) fn check_patches(self, key: &str, n_patches: usize) -> Result<(), CliError> {
        let refuse = |rule: &str| Err(impossible(key, n_patches, rule));
        match self {
            _ if n_patches == 0 => refuse("at least one patch an image is needed"),
            Self::Whole if n_patches != 1 => refuse("the whole image is one view, so it must be 1"),
            Self::Grid | Self::GridFlip => match PatchGrid::new(n_patches, self == Self::GridFlip) {
                Err(reason) => refuse(&format!("the patches form no lattice ({reason})")),
                Ok(_) => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

/// Which points the curve of accuracy against the patches of an image has: for each view the numbers of patches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CurveSection {
    /// Points of one pass over the largest number.
    pub(crate) published: Vec<usize>,
    /// Each is a pass of its own, over another lattice.
    pub(crate) grid: Vec<usize>,
    pub(crate) grid_flip: Vec<usize>,
    /// Whether the whole image is a point.
    pub(crate) whole: bool,
    pub(crate) probes: Vec<CurveProbe>,
}

/// One pass of an encoder over the labelled images, whose features are kept over so many patches each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EvalPass {
    pub(crate) view: EvalView,
    /// Increasing, at least one.
    pub(crate) counts: Vec<usize>,
}

impl EvalPass {
    /// That of raw pixels: every image once, as a whole.
    pub(crate) fn of_pixels() -> Self {
        Self { view: EvalView::Whole, counts: vec![1] }
    }

    /// Patches of an image that go through the encoder.
    pub(crate) fn n_patches(&self) -> usize {
        self.counts.iter().copied().max().unwrap_or(1)
    }

    /// Whether the other pass keeps everything of this one. A lattice has one number of patches, so no other is in it.
    pub(crate) fn is_part_of(&self, other: &Self) -> bool {
        self.view == other.view && self.counts.iter().all(|count| other.counts.contains(count))
    }
}

/// How a point of the curve is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CurveProbe {
    Linear,
    Knn,
}

impl CurveSection {
    /// The numbers of patches of a view.
    pub(crate) fn counts(&self, view: EvalView) -> &[usize] {
        match view {
            EvalView::Published => &self.published,
            EvalView::Grid => &self.grid,
            EvalView::GridFlip => &self.grid_flip,
            EvalView::Whole if self.whole => &[1],
            EvalView::Whole => &[],
        }
    }

    /// The passes that give its points, in the order of the report; each lattice is one of its own.
    pub(crate) fn passes(&self) -> Vec<EvalPass> {
        let passes = EvalView::ALL.into_iter().flat_map(|view| {
            let counts = self.counts(view);
            let together = if view.begins_alike() { counts.len() } else { 1 };
            counts.chunks(together.max(1)).map(move |counts| EvalPass { view, counts: counts.to_vec() })
        });
        passes.collect()
    }

    fn check(&self) -> Result<(), CliError> {
        for view in EvalView::ALL {
            let (key, counts) = (format!("evaluation.curve.{}", view.name().replace('-', "_")), self.counts(view));
            counts.iter().try_for_each(|&count| view.check_patches(&key, count))?;
            if let Some(pair) = counts.windows(2).find(|pair| pair[0] >= pair[1]) {
                return Err(impossible(&key, pair[1], "the numbers of patches must increase"));
            }
        }
        Ok(())
    }
}

impl EvaluationSection {
    /// The pass that the rows of an encoder are from.
    pub(crate) fn row_pass(&self) -> EvalPass {
        EvalPass { view: self.view, counts: vec![self.n_patches] }
    }

    /// The same of the trained encoder, with those points of the curve that lie on its way.
    pub(crate) fn trained_pass(&self) -> EvalPass {
        let mut pass = self.row_pass();
        if let Some(curve) = self.curve.as_ref().filter(|_| self.view.begins_alike()) {
            pass.counts.extend(curve.counts(self.view));
            pass.counts.sort_unstable();
            pass.counts.dedup();
        }
        pass
    }

    /// Every pass of the trained encoder.
    pub(crate) fn trained_passes(&self) -> Vec<EvalPass> {
        let first = self.trained_pass();
        let others = self.curve.iter().flat_map(CurveSection::passes).filter(|pass| !pass.is_part_of(&first));
        let others: Vec<_> = others.collect();
        [vec![first], others].concat()
    }

    /// Refuses what is impossible with any images.
    pub(super) fn check(&self) -> Result<(), CliError> {
        self.view.check_patches("evaluation.n_patches", self.n_patches)?;
        if self.batch_size == 0 {
            return Err(impossible("evaluation.batch_size", 0, "at least one image a batch is needed"));
        }
        if self.labelled_images == 0 {
            return Err(impossible("evaluation.labelled_images", 0, "a probe needs labelled images"));
        }
        LinearProbe::new(&self.probe, 0).map_err(|error| in_section("evaluation.probe", error))?;
        WeightedKnn::new(&self.knn).map_err(|error| in_section("evaluation.knn", error))?;
        self.scores.iter().try_for_each(ScoresSection::check)?;
        self.curve.iter().try_for_each(CurveSection::check)?;
        self.check_labelled(self.labelled_images)
    }

    /// Refuses a probe whose batches so many labelled images do not fill.
    pub(crate) fn check_labelled(&self, n_images: usize) -> Result<(), CliError> {
        let batch = self.probe.batch_size;
        if batch <= n_images as i64 {
            return Ok(());
        }
        let (key, rule) = ("evaluation.probe.batch_size", "at most the number of labelled training images");
        Err(CliError::Recipe(must_be(key, rule, format!("{batch} with {n_images} images"))))
    }
}

fn impossible(key: &str, value: usize, rule: &str) -> CliError {
    CliError::Recipe(format!("{key} = {value} is not possible: {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(view: EvalView, n_patches: usize, curve: Option<CurveSection>) -> EvaluationSection {
        let config = crate::config::RunConfig::parse(&[include_str!("../../../../configs/base.toml")], &[]).unwrap();
        EvaluationSection { view, n_patches, curve, ..config.evaluation }
    }

    #[test]
    fn random_patches_share_a_pass_and_every_lattice_has_its_own() {
        let pass = |view, counts: &[usize]| EvalPass { view, counts: counts.to_vec() };
        let curve = CurveSection {
            published: vec![1, 2, 4],
            grid: vec![4, 9],
            grid_flip: Vec::new(),
            whole: true,
            probes: vec![CurveProbe::Knn],
        };
        let [published, grid, whole] = [EvalView::Published, EvalView::Grid, EvalView::Whole];
        let usual = section(published, 8, Some(curve.clone()));
        assert_eq!(usual.row_pass(), pass(published, &[8]));
        let others = [pass(grid, &[4]), pass(grid, &[9]), pass(whole, &[1])];
        assert_eq!(usual.trained_passes(), [&[pass(published, &[1, 2, 4, 8])], &others[..]].concat());
        // The lattice that is scored is not passed over twice.
        let by_grid = section(grid, 9, Some(curve));
        let others = [pass(published, &[1, 2, 4]), pass(grid, &[4]), pass(whole, &[1])];
        assert_eq!(by_grid.trained_passes(), [&[pass(grid, &[9])], &others[..]].concat());
        assert_eq!(section(published, 8, None).trained_passes(), [pass(published, &[8])]);
    }

    #[test]
    fn a_view_has_the_numbers_of_patches_that_an_image_has_in_it() {
        let refused = |view: EvalView, n| view.check_patches("key", n).err().map(|error| error.to_string());
        for (view, good, bad) in [
            (EvalView::Published, vec![1, 3, 128], vec![0]),
            (EvalView::Grid, vec![1, 2, 4, 16], vec![0, 3, 7]),
            (EvalView::GridFlip, vec![2, 4, 8], vec![0, 1, 3]),
            (EvalView::Whole, vec![1], vec![0, 2]),
        ] {
            good.iter().for_each(|&n| assert_eq!(refused(view, n), None));
            bad.iter()
                .for_each(|&n| assert!(refused(view, n).unwrap().starts_with(&format!("key = {n} is not")), "{n}"));
        }
    }

    #[test]
    fn a_curve_goes_up_and_its_words_are_those_of_recipes() {
        let curve = |published: &[usize], grid: &[usize], whole| CurveSection {
            published: published.to_vec(),
            grid: grid.to_vec(),
            grid_flip: vec![2],
            whole,
            probes: vec![CurveProbe::Knn],
        };
        curve(&[1, 2, 4, 20], &[1, 4], true).check().unwrap();
        let refused = |curve: CurveSection| curve.check().unwrap_err().to_string();
        assert_eq!(
            refused(curve(&[1, 4, 4], &[], false)),
            "evaluation.curve.published = 4 is not possible: the numbers of patches must increase"
        );
        assert!(refused(curve(&[], &[5], false)).starts_with("evaluation.curve.grid = 5 is not possible: the patches"));
        assert_eq!([true, false].map(|whole| curve(&[], &[], whole).counts(EvalView::Whole).len()), [1, 0]);
        for view in EvalView::ALL {
            assert_eq!(serde_json::to_value(view).unwrap(), view.name());
        }
    }
}
