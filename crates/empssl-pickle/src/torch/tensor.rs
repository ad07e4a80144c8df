//! A tensor as a view of a storage: checked against it once, then gathered.

/// The most axes of a tensor; convolutions have four.
const MAX_AXES: usize = 8;

/// The type of a tensor's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// float64
    F64,
    /// float32
    F32,
    /// float16
    F16,
    /// bfloat16
    Bf16,
    /// Signed whole numbers of 64 bits.
    I64,
    /// Signed whole numbers of 32 bits.
    I32,
    /// Signed whole numbers of 16 bits.
    I16,
    /// Signed whole numbers of 8 bits.
    I8,
    /// Unsigned whole numbers of 8 bits.
    U8,
    /// True or false, a byte each.
    Bool,
}

impl Element {
    /// The type of a storage of this class of the module `torch`.
    pub(super) fn of_storage(class: &[u8]) -> Option<Self> {
        let element = match class.strip_suffix(b"Storage")? {
            b"Double" => Self::F64,
            b"Float" => Self::F32,
            b"Half" => Self::F16,
            b"BFloat16" => Self::Bf16,
            b"Long" => Self::I64,
            b"Int" => Self::I32,
            b"Short" => Self::I16,
            b"Char" => Self::I8,
            b"Byte" => Self::U8,
            b"Bool" => Self::Bool,
            _ => return None,
        };
        Some(element)
    }

    /// Bytes of a number.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

/// Numbers of a storage, in the order of a tensor's axes; all of them lie within the storage.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    /// Which storage.
    pub(super) storage: usize,
    /// The first number.
    offset: usize,
    /// Size and step of each axis, in numbers.
    axes: Vec<(usize, usize)>,
}

impl View {
    /// Checks that a view lies within `length` numbers.
    pub(super) fn new(
        storage: usize,
        length: usize,
        offset: usize,
        sizes: &[usize],
        steps: &[usize],
    ) -> Result<Self, String> {
        if sizes.len() != steps.len() || sizes.len() > MAX_AXES {
            return Err(format!("a tensor of {} axes and {} strides", sizes.len(), steps.len()));
        }
        let shown = || format!("a tensor of size {sizes:?}, strides {steps:?} and offset {offset}");
        let beyond = || format!("{} leads out of its storage of {length} numbers", shown());
        let numel = sizes.iter().try_fold(1_usize, |numel, &size| numel.checked_mul(size)).ok_or_else(beyond)?;
        let last = sizes
            .iter()
            .zip(steps)
            .try_fold(offset, |last, (&size, &step)| last.checked_add(size.saturating_sub(1).checked_mul(step)?));
        match last {
            _ if numel == 0 => {}
            Some(last) if last < length => {}
            _ => return Err(beyond()),
        }
        if numel > length {
            return Err(format!("{} has more numbers than its storage of {length}", shown()));
        }
        Ok(Self { storage, offset, axes: sizes.iter().copied().zip(steps.iter().copied()).collect() })
    }

    /// How many numbers it has.
    pub(super) fn numel(&self) -> usize {
        self.axes.iter().map(|&(size, _)| size).product()
    }

    /// Sizes of the axes.
    pub(super) fn shape(&self) -> Vec<usize> {
        self.axes.iter().map(|&(size, _)| size).collect()
    }

    /// The numbers in row-major order, out of a storage of as many bytes as its numbers of `width` bytes need.
    pub(super) fn gathered(&self, storage: &[u8], width: usize) -> Vec<u8> {
        let count = self.numel();
        if self.is_contiguous() && count > 0 {
            return storage[self.offset * width..][..count * width].to_vec();
        }
        let mut bytes = Vec::with_capacity(count * width);
        let mut index = vec![0; self.axes.len()];
        for _ in 0..count {
            let place = self.axes.iter().zip(&index).fold(self.offset, |place, (&(_, step), i)| place + i * step);
            bytes.extend_from_slice(&storage[place * width..][..width]);
            for (axis, i) in self.axes.iter().zip(&mut index).rev() {
                *i = (*i + 1) % axis.0;
                if *i > 0 {
                    break;
                }
            }
        }
        bytes
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.axes.iter().rev().all(|&(size, step)| {
            let fits = size == 1 || step == expected;
            expected *= size;
            fits
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(offset: usize, sizes: &[usize], steps: &[usize]) -> Result<Vec<u8>, String> {
        let storage: Vec<u8> = (0..24).flat_map(|number: u16| number.to_le_bytes()).collect();
        let view = View::new(0, 24, offset, sizes, steps)?;
        assert_eq!(view.shape(), sizes);
        Ok(view.gathered(&storage, 2).chunks_exact(2).map(|number| number[0]).collect())
    }

    #[test]
    fn views_are_gathered_in_row_major_order() {
        assert_eq!(gathered(3, &[2, 3], &[3, 1]).unwrap(), [3, 4, 5, 6, 7, 8]);
        assert_eq!(gathered(0, &[3, 2], &[1, 3]).unwrap(), [0, 3, 1, 4, 2, 5]);
        assert_eq!(gathered(23, &[1, 1], &[99, 7]).unwrap(), [23]);
        assert_eq!(gathered(5, &[2, 2, 2], &[0, 8, 1]).unwrap(), [5, 6, 13, 14, 5, 6, 13, 14]);
        assert_eq!(gathered(7, &[], &[]).unwrap(), [7]);
        assert_eq!(gathered(99, &[0, 3], &[3, 1]).unwrap(), [0_u8; 0]);
    }

    #[test]
    fn views_that_leave_their_storage_are_refused() {
        for (offset, sizes, steps) in [
            (24, vec![], vec![]),
            (0, vec![25], vec![1]),
            (1, vec![24], vec![1]),
            (0, vec![2], vec![24]),
            (0, vec![2], vec![usize::MAX]),
            (usize::MAX, vec![2], vec![1]),
            (0, vec![usize::MAX, 2], vec![1, 1]),
            (0, vec![1 << 40], vec![0]),
        ] {
            let refusal = gathered(offset, &sizes, &steps).unwrap_err();
            assert!(refusal.contains("storage of 24"), "{refusal}");
        }
        assert!(gathered(0, &[1, 2], &[1]).unwrap_err().contains("2 axes and 1 strides"));
        assert!(gathered(0, &[1; 9], &[1; 9]).unwrap_err().contains("9 axes"));
    }
}
