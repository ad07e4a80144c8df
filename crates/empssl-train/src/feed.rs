//! How patches get from the loader to the device: on CUDA, those of the next step travel while this one is computed.
//!
//! ```text
//!               batch k + 1 from the workers     copy k + 1 begins      step k is asked for
//! host          ---- Feed::next_turn ----------- Feed::patches -------- Trainer ------- Feed::next_turn ...
//! copy stream   copy k   |                              copy k + 1   |
//! computing     ...........step k - 1  |  (after copy k)  step k ..................  |  (after copy k + 1) ...
//! ```
//!
//! **Invariant:** a buffer goes back to the workers only after its copy is done, however the run ends.
//! **Invariant:** a step reads its patches only after they have arrived, and the host does not wait for that.
//!
//! A CPU has nobody who could copy meanwhile; there a batch is handed through, and made one after the other.

use empssl_data::{BatchMemory, DataError, PatchBatch, PatchBuffer};
use empssl_torch::{Completion, Event, PinnedBytes, Stream, Upload};
use tch::{Device, Tensor};

use crate::error::TrainError;
use crate::source::{patches_on, sizes};

/// The patches of a run's steps, in order.
///
/// For each step, [`Feed::next_turn`] waits until its patches can be had and [`Feed::patches`] makes them a tensor of the
/// device. On CUDA the waiting is for the patches of the step after, which are sent ahead: beside those of the step in
/// hand the device holds those of the next, and of every step that the host is further ahead of the device.
pub struct Feed<'a>(Road<'a, CopyStream>);

/// The right to the patches of one step.
pub struct Turn<D: Completion = Event> {
    /// The epoch the step belongs to.
    pub epoch: u64,
    /// Side of a patch, s.
    pub side: usize,
    patches: Patches<D>,
}

/// Where the patches of a turn are.
enum Patches<D: Completion> {
    /// On the host, to be copied to this device.
    Here(PatchBatch, Device),
    /// On their way. A refusal is told when it is their turn, as if they had not been sent ahead.
    Sent(Result<Upload<PatchBatch, D>, TrainError>),
}

impl<'a> Feed<'a> {
    /// The patches of `batches` on `device`.
    pub(crate) fn new(batches: impl Iterator<Item = Made> + 'a, device: Device) -> Result<Self, TrainError> {
        let batches: Batches<'a> = Box::new(batches);
        Ok(Self(match device {
            Device::Cuda(_) => Road::Ahead(Box::new(Ahead::new(batches, CopyStream(Stream::new(device)?)))),
            _ => Road::Straight(batches, device),
        }))
    }

    /// Waits for the loader; `None` after the last step and after an error.
    ///
    /// # Errors
    /// When the patches of the turn could not be made.
    pub fn next_turn(&mut self) -> Option<Result<Turn, TrainError>> {
        self.0.next_turn()
    }

    /// The patches of a turn, `[n, b, 3, s, s]` in bytes, for what this thread asks the device to do from now on.
    ///
    /// # Errors
    /// When device memory runs out, or the device failed.
    ///
    /// # Panics
    /// On the CPU, when memory runs out; [`empssl_torch::catch`] makes an error of it.
    pub fn patches(&mut self, turn: Turn) -> Result<Tensor, TrainError> {
        self.0.patches(turn)
    }
}

/// The batches as the loader makes them, each with its epoch.
type Batches<'a> = Box<dyn Iterator<Item = Made> + 'a>;
type Made = Result<(u64, PatchBatch), TrainError>;

/// How batches reach the device.
enum Road<'a, C: Carrier> {
    /// Each is copied when its step begins.
    Straight(Batches<'a>, Device),
    /// Each is copied during the step before its own.
    Ahead(Box<Ahead<Batches<'a>, C>>),
}

impl<C: Carrier> Road<'_, C> {
    fn next_turn(&mut self) -> Option<Result<Turn<C::Done>, TrainError>> {
        match self {
            Self::Straight(batches, device) => {
                let turn = |(epoch, batch)| Turn { epoch, side: side(&batch), patches: Patches::Here(batch, *device) };
                batches.next().map(|made| made.map(turn))
            }
            Self::Ahead(ahead) => ahead.next_turn(),
        }
    }

    fn patches(&mut self, turn: Turn<C::Done>) -> Result<Tensor, TrainError> {
        if let Self::Ahead(ahead) = self {
            ahead.send();
        }
        match turn.patches {
            Patches::Here(batch, device) => Ok(patches_on(&batch, device)),
            Patches::Sent(upload) => Ok(upload?.into_tensor()?),
        }
    }
}

fn side(batch: &PatchBatch) -> usize {
    batch.patches().dim().4
}

/// Brings batches to a device without waiting for them to arrive.
trait Carrier {
    /// Tells when a batch has arrived.
    type Done: Completion;

    /// Asks for a copy of the patches.
    fn begin(&self, batch: PatchBatch) -> Result<Upload<PatchBatch, Self::Done>, TrainError>;
}

/// A stream of a CUDA device that does nothing but copy patches.
struct CopyStream(Stream);

impl Carrier for CopyStream {
    type Done = Event;

    fn begin(&self, batch: PatchBatch) -> Result<Upload<PatchBatch, Event>, TrainError> {
        let sizes = sizes(&batch);
        Ok(self.0.upload(batch, &sizes)?)
    }
}

/// Sends each batch before the step of the one before it is asked for.
struct Ahead<B, C: Carrier> {
    batches: B,
    carrier: C,
    /// The batch after the one that was sent.
    made: Option<Made>,
    sent: Option<Result<Turn<C::Done>, TrainError>>,
}

impl<B: Iterator<Item = Made>, C: Carrier> Ahead<B, C> {
    fn new(batches: B, carrier: C) -> Self {
        Self { batches, carrier, made: None, sent: None }
    }

    /// The batch that was sent, its buffer back with the workers; and waits for the one to be sent next.
    fn next_turn(&mut self) -> Option<Result<Turn<C::Done>, TrainError>> {
        if self.sent.is_none() {
            self.made = self.made.take().or_else(|| self.batches.next());
            self.send();
        }
        let mut sent = self.sent.take()?;
        if let Ok(turn) = &mut sent {
            // Before the workers are waited for, because they may need this buffer.
            turn.release();
            self.made = self.batches.next();
        }
        Some(sent)
    }

    /// Sends the batch that is there.
    fn send(&mut self) {
        let send = |(epoch, batch)| {
            let side = side(&batch);
            Turn { epoch, side, patches: Patches::Sent(self.carrier.begin(batch)) }
        };
        self.sent = self.made.take().map(|made| made.map(send));
    }
}

impl<D: Completion> Turn<D> {
    /// Gives the buffer back. It was sent a step ago, so the copy is done but for the first, and nobody waits.
    fn release(&mut self) {
        if let Patches::Sent(Ok(upload)) = &mut self.patches
            && let Err(error) = upload.release()
        {
            self.patches = Patches::Sent(Err(error.into()));
        }
    }
}

/// Memory that a CUDA device reads by itself.
pub(crate) struct PinnedMemory;

impl BatchMemory for PinnedMemory {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn PatchBuffer>, DataError> {
        match PinnedBytes::new(bytes) {
            Ok(buffer) => Ok(Box::new(buffer)),
            Err(error) => {
                let reason = format!("the GPU needs it page-locked, and it could not be had ({error})");
                Err(DataError::NoMemory { bytes, reason })
            }
        }
    }
}

#[cfg(test)]
mod tests;
