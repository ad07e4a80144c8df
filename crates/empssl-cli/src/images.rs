//! Which images a command works on, and which of them.

use std::path::{Path, PathBuf};

use empssl_data::options::DEFAULT_ROOT;
use empssl_data::rng::shuffled;
use empssl_data::{DataError, Dataset, ImageSet, OpenOptions, PatchSampler, Split, picture};
pub(crate) use empssl_eval::protocol::NO_EPOCH;
use serde::{Deserialize, Serialize};

use crate::args::{BadImage, ImageArgs};
use crate::config::{AUTO, Run, RunConfig};
use crate::error::CliError;

/// Images and patches of a picture.
const ROWS: usize = 8;
pub(crate) const PATCHES: u32 = 8;

/// Which images to open, from flags or from a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageSource {
    pub(crate) name: String,
    pub(crate) root: Option<PathBuf>,
    pub(crate) partial: bool,
    pub(crate) on_bad_image: BadImage,
}

impl ImageSource {
    pub(crate) fn new(name: &str, args: &ImageArgs) -> Result<Self, CliError> {
        let ImageArgs { data: root, partial, on_bad_image } = args.clone();
        let name = match name {
            AUTO => empssl_data::detect(root.as_deref().unwrap_or(Path::new(DEFAULT_ROOT)))?,
            name => name,
        };
        Ok(Self { name: name.to_owned(), root, partial, on_bad_image })
    }

    pub(crate) fn options(&self) -> OpenOptions {
        let Self { name, root, partial, on_bad_image } = self.clone();
        OpenOptions { name, root, partial, on_bad_image: on_bad_image.into() }
    }

    pub(crate) fn open(&self, split: Split) -> Result<Dataset, CliError> {
        empssl_data::open(&self.options(), split).map_err(|error| self.or_another(error))
    }

    /// Where a published set is missing and another set is there, that is what the user needs to know; any tree of
    /// images may be opened as a folder of one's own.
    fn or_another(&self, error: DataError) -> CliError {
        let is_published = ImageSet::named(&self.name).is_ok_and(|set| set.counts.is_some());
        let found = match (&error, &self.root) {
            (DataError::MissingFolder { .. }, Some(root)) if is_published => empssl_data::detect(root).ok(),
            _ => None,
        };
        match found {
            Some(found) if found != self.name => CliError::AnotherDataset { error, found },
            _ => error.into(),
        }
    }
}

/// The run by a recipe file with `KEY=VALUE` changes, on the images of `dataset`, else of the recipe.
pub(crate) fn run_of(
    recipe: &Path,
    changes: &[String],
    dataset: Option<&String>,
    images: &ImageArgs,
) -> Result<(Run, ImageSource), CliError> {
    let mut config = RunConfig::read(recipe, changes)?;
    let images = ImageSource::new(dataset.unwrap_or(&config.dataset), images)?;
    config.dataset.clone_from(&images.name);
    Ok((Run::new(config, Run::name_of(recipe))?, images))
}

/// A random share of `0..n`, in order: the same for every row, and for every run of the same seed.
pub(crate) fn share(n: usize, at_most: usize, seed: u64) -> Vec<usize> {
    if at_most >= n {
        return (0..n).collect();
    }
    let mut indices = shuffled(n, seed, NO_EPOCH);
    indices.truncate(at_most);
    indices.sort_unstable();
    indices
}

/// A few images of the set, chosen by the seed.
pub(crate) fn chosen(set: &Dataset, seed: u64) -> Vec<usize> {
    let mut indices = shuffled(set.len(), seed, NO_EPOCH);
    indices.truncate(ROWS);
    indices
}

/// Draws a few images of the set, each followed by its patches as the network sees them.
pub(crate) fn draw_patches(set: &Dataset, sampler: &PatchSampler, seed: u64, out: &Path) -> Result<(), CliError> {
    let grid = picture::patch_grid(set, sampler, &chosen(set, seed), PATCHES, seed)?;
    grid.save(out).map_err(|e| CliError::file("cannot write", out, e))
}
