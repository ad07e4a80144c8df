//! How a data set is opened: which split, from where, and what to do with images that do not decode.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a data set is looked for when no folder is given, relative to the working folder.
pub const DEFAULT_ROOT: &str = "data";

/// The half of a data set to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What is learned from.
    Train,
    /// What is scored.
    Test,
}

impl Split {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Train, Self::Test];
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Test => "test",
        })
    }
}

/// What to do with a file that has the name of an image but does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBadImage {
    /// Refuse the set, or the batch, naming the file.
    Fail,
    /// Leave the file out and list it in [`crate::Dataset::skipped`].
    Skip,
}

/// How to open a data set.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The name of one of [`crate::SETS`].
    pub name: String,
    /// The folder of the set or, for sets that unpack to a folder of a known name, its parent; for sets that come as one
    /// archive, that archive or the folder it lies in; [`DEFAULT_ROOT`] when `None`. Ignored by the synthetic set.
    pub root: Option<PathBuf>,
    /// Accept fewer images than the official count.
    pub partial: bool,
    /// What to do with files that do not decode.
    pub on_bad_image: OnBadImage,
}

impl OpenOptions {
    /// Where the set is looked for.
    pub(crate) fn root(&self) -> &Path {
        self.root.as_deref().unwrap_or(Path::new(DEFAULT_ROOT))
    }
}
