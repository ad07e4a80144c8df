//! What this crate refuses.

use std::fmt;
use std::path::PathBuf;

use tch::Kind;

/// Why a network could not be built, fed, loaded or saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A size that no network can have.
    #[error("`{key}` must be at least 1, found {found}")]
    Config {
        /// The name of the field.
        key: &'static str,
        /// What it is.
        found: i64,
    },
    /// A type that weights are not kept in.
    #[error("weights are kept in float32 or float64, found {found:?}")]
    Kind {
        /// The type asked for.
        found: Kind,
    },
    /// Rounded products of something that is not float32.
    #[error("bf16 products need weights in float32, found {found:?}")]
    Bf16 {
        /// The type of the weights.
        found: Kind,
    },
    /// Input that the network cannot take.
    #[error("the network takes {expected}, found {found}")]
    Input {
        /// Shape and type it takes.
        expected: String,
        /// Shape and type it was given.
        found: String,
    },
    /// Weights of another network.
    #[error("these weights do not fit the network: {0}")]
    State(StateMismatch),
    /// A file that cannot be opened or read.
    #[error("cannot read weights from {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that is not what it should be.
    #[error("{} is not a readable safetensors file: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do where that is known.
        reason: String,
    },
    /// A file of another program that is refused.
    #[error("{} cannot be imported: {reason}", path.display())]
    Import {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do where that is known.
        reason: String,
    },
    /// Weights that are far fewer than their network has.
    #[error("the network that these weights are of has {needed} numbers, and the file holds {held}")]
    TooFew {
        /// Of the network.
        needed: i64,
        /// Of the file.
        held: usize,
    },
    /// A weight that is infinite or no number.
    #[error("`{key}` holds numbers that are not finite")]
    NotFinite {
        /// The tensor's name.
        key: String,
    },
    /// A file that cannot be written.
    #[error("cannot write weights to {}: {source}", path.display())]
    Write {
        /// The file that was to be made; a file of that name that was there before is untouched.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Tensors that a weights file cannot hold.
    #[error("cannot write `{key}` to a weights file: {reason}")]
    Unwritable {
        /// The tensor's name.
        key: String,
        /// Why not.
        reason: String,
    },
}

/// Every difference between the keys of a network and those it was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateMismatch {
    /// Keys of the network that were not given.
    pub missing: Vec<String>,
    /// Keys that the network does not have.
    pub unexpected: Vec<String>,
    /// Keys that were given more than once.
    pub repeated: Vec<String>,
    /// Key, expected and found form, of tensors of another shape, or whole numbers where others belong and vice versa.
    pub unlike: Vec<(String, String, String)>,
}

impl StateMismatch {
    /// Whether there is no difference.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for StateMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unlike = self.unlike.iter().map(|(key, expected, found)| format!("{key} ({expected}, found {found})"));
        let parts = [
            ("missing", self.missing.clone()),
            ("unexpected", self.unexpected.clone()),
            ("given twice", self.repeated.clone()),
            ("of another form", unlike.collect()),
        ];
        let named = parts.iter().filter(|(_, keys)| !keys.is_empty());
        let named: Vec<_> = named.map(|(what, keys)| format!("{what}: {}", keys.join(", "))).collect();
        f.write_str(&named.join("; "))
    }
}
