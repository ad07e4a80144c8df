//! One batch: the bytes of its patches and what is known about its images.

use std::fmt;

use ndarray::{Array5, ArrayView5, Dimension, Ix5};

use super::buffers::PooledBuffer;
use crate::error::DataError;

/// The patches of b images.
///
/// The bytes lie in a buffer of the loader's pool, which gets it back when the batch is dropped, and not before.
pub struct PatchBatch {
    /// The class of every image, `[b]`; `None` for images without labels.
    pub labels: Option<Vec<u32>>,
    /// The index of every image in the data set, `[b]`.
    pub indices: Vec<usize>,
    /// The shape of the patches, `[n, b, 3, s, s]`.
    pub(super) shape: Ix5,
    pub(super) buffer: PooledBuffer,
}

impl PatchBatch {
    /// A batch of given `patches`, `[n, b, 3, s, s]`, in memory of its own; each label and index belongs to one image.
    ///
    /// # Errors
    /// When the patches are not square and of three channels, or labels or indices are not one per image.
    pub fn new(patches: Array5<u8>, labels: Option<Vec<u32>>, indices: Vec<usize>) -> Result<Self, DataError> {
        let (_, b, channels, s, width) = patches.dim();
        if channels != 3 || s != width {
            let expected = "[n, b, 3, s, s]: three channels and square patches";
            return Err(DataError::setting("patches", format!("{:?}", patches.shape()), expected));
        }
        let counts = [("labels", labels.as_ref().map_or(b, Vec::len)), ("indices", indices.len())];
        if let Some((key, count)) = counts.into_iter().find(|&(_, count)| count != b) {
            return Err(DataError::setting(key, count, format!("one for each of the {b} images")));
        }
        let bytes = patches.as_standard_layout().iter().copied().collect();
        Ok(Self { labels, indices, shape: patches.raw_dim(), buffer: PooledBuffer::of(bytes) })
    }

    /// The patches, `[n, b, 3, s, s]`: the patch axis comes first, so that flattening the first two gives the
    /// patch-major rows that the network and the loss expect.
    pub fn patches(&self) -> ArrayView5<'_, u8> {
        ArrayView5::from_shape(self.shape, self.bytes()).expect("a slice as long as its shape")
    }

    /// The bytes of the patches in the order of [`PatchBatch::patches`], without a gap.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer.bytes()[..self.shape.size()]
    }
}

/// As [`PatchBatch::bytes`]; they stay where they are when the batch is moved.
impl AsRef<[u8]> for PatchBatch {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for PatchBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { labels, indices, shape, .. } = self;
        f.debug_struct("PatchBatch")
            .field("shape", shape)
            .field("labels", labels)
            .field("indices", indices)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(shape: [usize; 5]) -> Array5<u8> {
        let mut next = 0_u8;
        Array5::from_shape_simple_fn(shape, || {
            next = next.wrapping_add(1);
            next
        })
    }

    #[test]
    fn a_batch_of_an_array_is_that_array_whatever_its_strides() {
        let mut patches = counting([2, 3, 3, 4, 4]);
        patches.swap_axes(0, 1);
        let batch = PatchBatch::new(patches.clone(), Some(vec![7, 8]), vec![1, 2]).unwrap();
        assert_eq!(batch.patches(), patches);
        assert_eq!(batch.as_ref(), patches.iter().copied().collect::<Vec<_>>());
        assert!(format!("{batch:?}").contains("shape: [3, 2, 3, 4, 4]"));
    }

    #[test]
    fn arrays_that_are_no_batch_are_refused() {
        let refusal =
            |shape, labels, indices| PatchBatch::new(counting(shape), labels, indices).unwrap_err().to_string();
        for shape in [[1, 1, 4, 2, 2], [1, 1, 3, 2, 1]] {
            let message = refusal(shape, None, vec![0]);
            assert!(message.starts_with(&format!("`patches` is {shape:?}, expected [n, b, 3, s, s]")), "{message}");
        }
        let shape = [1, 2, 3, 1, 1];
        let message = refusal(shape, Some(vec![0]), vec![0, 1]);
        assert_eq!(message, "`labels` is 1, expected one for each of the 2 images");
        let message = refusal(shape, None, vec![0]);
        assert_eq!(message, "`indices` is 1, expected one for each of the 2 images");
    }
}
