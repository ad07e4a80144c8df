//! The tables of the paper: which recipes each is made of.

use clap::ValueEnum;

/// A table of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Table {
    /// One epoch, in the three readings of it: a cosine over one epoch, the first of two epochs, both of two
    OneEpoch,
    /// 1, 10 and 30 epochs with 20 and with 200 patches
    Main,
    /// Trained on one set, scored on the others that are given
    Transfer,
    /// Accuracy by the number of patches an image
    Patches,
    /// Seconds and memory of every recipe with a published figure
    Time,
}

/// Numbers of patches of the table `patches`, where none are asked for.
const PATCHES: [usize; 6] = [5, 10, 20, 50, 100, 200];

/// Patches of each image that BatchNorm sees at once in the table `patches`: as many as fit a card of 80 GB at 224 pixels,
/// and what the official code lets each of ten GPUs see of 200.
const AT_ONCE: usize = 20;

impl Table {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OneEpoch => "one-epoch",
            Self::Main => "main",
            Self::Transfer => "transfer",
            Self::Patches => "patches",
            Self::Time => "time",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::OneEpoch => "One epoch",
            Self::Main => "Epochs and patches",
            Self::Transfer => "Transfer to other sets",
            Self::Patches => "Patches an image",
            Self::Time => "Time and memory",
        }
    }

    /// Recipes it is made of, as far as a set has them.
    pub(crate) fn recipes(self) -> &'static [&'static str] {
        match self {
            Self::OneEpoch => &["one-epoch", "two-epochs", "one-epoch-200"],
            Self::Main => &["thirty-epochs", "thirty-epochs-200", "ten-epochs-200"],
            Self::Transfer | Self::Patches => &["one-epoch"],
            Self::Time => {
                &["one-epoch", "two-epochs", "one-epoch-200", "thirty-epochs", "thirty-epochs-200", "ten-epochs-200"]
            }
        }
    }

    /// Changes of a recipe, one list for each row of the table.
    pub(crate) fn variants(self, changes: &[String], patches: &[usize]) -> Vec<Vec<String>> {
        if self != Self::Patches {
            return vec![changes.to_vec()];
        }
        let counts = if patches.is_empty() { &PATCHES[..] } else { patches };
        counts.iter().map(|&n| in_parts(n).into_iter().chain(changes.iter().cloned()).collect()).collect()
    }
}

/// So many patches an image, at most [`AT_ONCE`] of them at once.
fn in_parts(n: usize) -> Vec<String> {
    let count = format!("training.n_patches={n}");
    match (1..=AT_ONCE).rev().find(|part| n.is_multiple_of(*part)) {
        Some(part) if part < n => vec![count, format!("training.memory={{ by-patches = {part} }}")],
        _ => vec![count],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_patches_go_through_in_equal_parts() {
        let memory = |n: usize| in_parts(n).get(1).cloned();
        assert_eq!([5, 10, 20].map(memory), [None, None, None]);
        let parts = |part: usize| Some(format!("training.memory={{ by-patches = {part} }}"));
        assert_eq!([50, 100, 200, 30].map(memory), [10, 20, 20, 15].map(parts));
        assert_eq!(Table::Patches.variants(&["a=1".to_owned()], &[4]), [["training.n_patches=4", "a=1"]]);
        assert_eq!(Table::Main.variants(&["a=1".to_owned()], &[4]), [["a=1"]]);
    }
}
