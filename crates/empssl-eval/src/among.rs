//! One process alone, or one of several that share the work of a score.

use empssl_torch::processes::ProcessGroup;
use tch::Tensor;

use crate::copies::integers;
use crate::error::EvalError;

/// Who shares the work of a score: pieces are dealt out in turn, and counts are added up over all ranks.
///
/// A piece is the same whoever computes it, and counts are integers, so the number of ranks changes no score.
#[derive(Clone, Copy, Debug, Default)]
pub struct Among<'a>(Option<&'a ProcessGroup>);

impl<'a> Among<'a> {
    /// This process does everything.
    pub const ALONE: Self = Self(None);

    /// The ranks of `group`, each of which must ask for the same score of the same banks.
    pub fn ranks(group: &'a ProcessGroup) -> Self {
        Self(Some(group))
    }

    /// The pieces of this process out of 0, 1, 2, ...: which is the first, and from one to the next.
    pub(crate) fn hand(self) -> (usize, usize) {
        self.0.map_or((0, 1), |group| (group.rank(), group.world()))
    }

    /// Counts of all ranks, added up.
    pub(crate) fn sum(self, counts: Vec<i64>) -> Result<Vec<i64>, EvalError> {
        let Some(group) = self.0 else { return Ok(counts) };
        let sums = Tensor::from_slice(&counts);
        group.sum(&sums)?;
        Ok(integers(&sums))
    }
}
