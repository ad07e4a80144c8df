//! One pass over a split by several processes: batches are dealt out in turn, and rank 0 sees them all, in their order.
//!
//! ```text
//! rank 0    batch 0 ──┐       batch 3 ──┐
//! rank 1    batch 1 ──┼─ round 0        ├─ round 1    rank 0 ──► sink: batch 0, 1, 2, 3, ...
//! rank 2    batch 2 ──┘       (none)  ──┘
//! ```
//!
//! A batch is computed whole by one rank, as one process would, so its features have the same bits. They travel as bytes
//! while the next batch is computed.

use empssl_data::{DataError, PatchBatch};
use empssl_torch::processes::{Pending, ProcessGroup};
use tch::{Device, Kind, Tensor};

use super::extractor::FeatureExtractor;
use super::pass::{BankOptions, ImageFeatures, Kept, RETURNED, Sink, walk};
use crate::copies::{integers, reals};
use crate::error::EvalError;

/// Bytes of an index and of a label in front of the features of an image.
const INTEGER: i64 = 8;

/// [`walk`] by all ranks of a group over a split of `n_images`, which is cut into batches of one size but for the last:
/// rank r has the batches r, r + world, r + 2 world, and so on, and each is given all else alike.
///
/// On rank 0 the batches of all ranks come to `sink`, in their order; on the others none does. Returned are the seconds of
/// the slowest rank.
///
/// Memory: that of [`walk`], and of the features of two batches; on rank 0 of two batches of every rank.
///
/// # Errors
/// As [`walk`]; [`EvalError::Shape`] when a rank has other batches than it should; [`EvalError::Group`] when a rank is
/// lost. A rank that fails leaves the others waiting until it tells them, or ends.
pub fn walk_among(
    group: &ProcessGroup,
    extractor: &dyn FeatureExtractor,
    batches: impl IntoIterator<Item = Result<PatchBatch, DataError>>,
    kept: &Kept,
    options: &BankOptions,
    n_images: usize,
    sink: &mut Sink<'_>,
) -> Result<Vec<f64>, EvalError> {
    let mut rounds = Rounds { group, n_images, form: None, begun: 0, travelling: None };
    let seconds = walk(extractor, batches, kept, options, &mut |batch| rounds.begin(Some(batch), sink))?;
    rounds.finish(sink)?;
    let slowest = Tensor::from_slice(&seconds);
    group.largest(&slowest)?;
    Ok(reals(&slowest))
}

/// In each round every rank sends the features of one batch to rank 0, or, in the last, none.
struct Rounds<'a> {
    group: &'a ProcessGroup,
    n_images: usize,
    /// Known to all once the first batches are.
    form: Option<Form>,
    begun: usize,
    travelling: Option<Travelling>,
}

/// What every rank sends: so many rows of so many bytes, one for each image.
#[derive(Clone, Copy)]
struct Form {
    rows: usize,
    row_bytes: i64,
}

/// A round that has begun.
struct Travelling {
    round: usize,
    pending: Pending,
    own: Option<ImageFeatures>,
}

impl Rounds<'_> {
    /// Begins the next round with this rank's batch, and ends the one before.
    fn begin(&mut self, own: Option<ImageFeatures>, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        let (packed, found) = (own.as_ref().map(pack), own.as_ref().map_or(0, |batch| batch.indices.len()));
        let form = self.form(found, packed.as_ref())?;
        let round = self.begun;
        let expected = self.images(form, round, self.group.rank());
        if found != expected {
            let what = "the images of a batch that was dealt out".to_owned();
            return Err(EvalError::Shape { what, expected: expected.to_string(), found: found.to_string() });
        }
        let pending = self.group.begin_gather_at(&form.padded(packed.as_ref())?, 0)?;
        self.begun += 1;
        match self.travelling.replace(Travelling { round, pending, own }) {
            Some(before) => self.end(form, before, sink),
            None => Ok(()),
        }
    }

    /// Takes part in the rounds for which this rank has no batch, and ends the last.
    fn finish(&mut self, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        let form = self.form(0, None)?;
        while self.begun < self.n_rounds(form) {
            self.begin(None, sink)?;
        }
        self.travelling.take().map_or(Ok(()), |last| self.end(form, last, sink))
    }

    /// The form that all ranks agree on: that of rank 0's first batch, which is as large as any.
    fn form(&mut self, rows: usize, packed: Option<&Tensor>) -> Result<Form, EvalError> {
        if let Some(form) = self.form {
            return Ok(form);
        }
        let own = [rows as i64, packed.map_or(0, |packed| packed.size()[1])];
        let largest = Tensor::from_slice(&own);
        self.group.largest(&largest)?;
        let largest = integers(&largest);
        let form = Form { rows: largest[0] as usize, row_bytes: largest[1] };
        self.form = Some(form);
        Ok(form)
    }

    fn n_rounds(&self, form: Form) -> usize {
        if form.rows == 0 { 0 } else { self.n_images.div_ceil(form.rows).div_ceil(self.group.world()) }
    }

    /// The images of a rank in a round; none of one that has no batch left.
    fn images(&self, form: Form, round: usize, rank: usize) -> usize {
        let before = (round * self.group.world() + rank).saturating_mul(form.rows);
        self.n_images.saturating_sub(before).min(form.rows)
    }

    /// Waits for a round, and on rank 0 hands its batches on.
    fn end(&self, form: Form, travelling: Travelling, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        let Travelling { round, pending, own } = travelling;
        let all = pending.wait()?;
        // Rank 0 has a batch in every round.
        let Some(own) = own.filter(|_| self.group.rank() == 0) else { return Ok(()) };
        for rank in 0..self.group.world() {
            let images = self.images(form, round, rank);
            if images > 0 {
                sink(unpack(&all.get(rank as i64).narrow(0, 0, images as i64), &own))?;
            }
        }
        Ok(())
    }
}

impl Form {
    /// Packed rows `[b, bytes]` with zeros after them, `[rows, bytes]`.
    fn padded(self, packed: Option<&Tensor>) -> Result<Tensor, EvalError> {
        let rows = Tensor::zeros([self.rows as i64, self.row_bytes], (Kind::Uint8, Device::Cpu));
        if let Some(packed) = packed {
            let b = packed.size()[0];
            EvalError::check_sizes(RETURNED, &packed.size(), &[b, self.row_bytes])?;
            rows.narrow(0, 0, b).copy_(packed);
        }
        Ok(rows)
    }
}

/// One row of bytes for each image, `[b, bytes]`: its index, its label, its features.
fn pack(batch: &ImageFeatures) -> Tensor {
    let b = batch.indices.len() as i64;
    let indices: Vec<i64> = batch.indices.iter().map(|&index| index as i64).collect();
    let column = |numbers: &[i64]| Tensor::from_slice(numbers).view([b, 1]).view_dtype(Kind::Uint8);
    let labels = batch.labels.clone().unwrap_or_else(|| vec![0; indices.len()]);
    let means = batch.means.iter().flatten();
    let means = means.map(|mean| mean.detach().to_device(Device::Cpu).contiguous().view_dtype(Kind::Uint8));
    let columns: Vec<Tensor> = [column(&indices), column(&labels)].into_iter().chain(means).collect();
    Tensor::cat(&columns, 1)
}

/// The features that were packed into rows `[b, bytes]`, in the form of `like`.
fn unpack(rows: &Tensor, like: &ImageFeatures) -> ImageFeatures {
    let mut at = 0;
    let mut next = |bytes: i64, kind: Kind| {
        // A copy of its own begins where a number may begin.
        let numbers = rows.narrow(1, at, bytes).copy().view_dtype(kind);
        at += bytes;
        numbers
    };
    let indices = integers(&next(INTEGER, Kind::Int64)).into_iter().map(|index| index as usize).collect();
    let labels = integers(&next(INTEGER, Kind::Int64));
    let mut mean = |like: &Tensor| next(like.size()[1] * like.kind().elt_size_in_bytes() as i64, like.kind());
    let means = like.means.iter().map(|counts| counts.iter().map(&mut mean).collect()).collect();
    ImageFeatures { labels: like.labels.as_ref().map(|_| labels), indices, means, batches_to_come: None }
}

#[cfg(test)]
mod tests;
