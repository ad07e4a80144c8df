//! Files as tensors, mapped into memory: what is not looked at is never read, and what was read the system may forget.
#![expect(unsafe_code, reason = "a mapped file is memory that other programs can change")]

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::MmapOptions;
use tch::{Kind, Tensor};

use crate::ffi::{self, ShimError};

/// A file as memory, private to this process: writing into a tensor on it changes the tensor and never the file.
///
/// The memory belongs to the tensors made of it, so they may outlive this value; what is read counts as the system's
/// cache of the file, not as memory of the process, so a file may be larger than the machine's memory.
///
/// Whoever writes files that are mapped makes them under another name and renames them. Somebody who truncates a file
/// while it is mapped ends this process, as would a program whose own file is overwritten.
#[derive(Debug)]
pub struct MappedFile {
    /// uint8, contiguous, on the CPU.
    bytes: Tensor,
}

impl MappedFile {
    /// Maps a file, which must not be empty.
    ///
    /// # Errors
    /// When it cannot be opened or the system refuses to map it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // Private pages may be written, so that no operator of libtorch can end the process; no room is set aside for
        // that, because nobody does.
        // SAFETY: the map holds plain bytes, of which every value is valid, and only libtorch looks at them. It is
        // private: what is written here goes to copies of the pages. Others change the file only against the rule above.
        let map = unsafe { MmapOptions::new().no_reserve_swap().map_copy(&file) }?;
        if map.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is empty"));
        }
        Ok(Self { bytes: ffi::bytes_of_owner(map).map_err(io::Error::other)? })
    }

    /// Bytes of the file.
    pub fn len(&self) -> usize {
        self.bytes.numel()
    }

    /// Whether the file is empty, which none that was opened is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the bytes from `offset` on.
    ///
    /// # Errors
    /// When the file ends before the buffer is full.
    pub fn copy_to(&self, offset: usize, buffer: &mut [u8]) -> io::Result<()> {
        let part =
            self.part(offset, buffer.len()).map_err(|reason| io::Error::new(io::ErrorKind::UnexpectedEof, reason))?;
        part.f_copy_data_u8(buffer, buffer.len()).map_err(io::Error::other)
    }

    /// A tensor of numbers that lie in the file from `offset` on, without a gap, least significant byte first: on the
    /// file's memory, or a copy where `offset` is no multiple of a number's size.
    ///
    /// # Errors
    /// When the file ends before them.
    pub fn tensor(&self, offset: usize, sizes: &[i64], kind: Kind) -> Result<Tensor, ShimError> {
        let count = sizes.iter().try_fold(1usize, |count, &size| count.checked_mul(usize::try_from(size).ok()?));
        let length = count.and_then(|count| count.checked_mul(kind.elt_size_in_bytes()));
        let length = length.ok_or_else(|| ShimError(format!("{sizes:?} are no sizes")))?;
        let bytes = self.part(offset, length)?;
        let is_aligned = offset.is_multiple_of(kind.elt_size_in_bytes());
        let bytes = if is_aligned { Ok(bytes) } else { bytes.f_to_dtype(Kind::Uint8, false, true) };
        let numbers = bytes.and_then(|bytes| bytes.f_view_dtype(kind)).and_then(|numbers| numbers.f_view(sizes));
        numbers.map_err(|error| ShimError(error.to_string()))
    }

    fn part(&self, offset: usize, length: usize) -> Result<Tensor, ShimError> {
        if offset.checked_add(length).is_none_or(|end| end > self.len()) {
            let text = format!("bytes {offset} to {} of a file of {}", offset.saturating_add(length), self.len());
            return Err(ShimError(text));
        }
        self.bytes.f_narrow(0, offset as i64, length as i64).map_err(|error| ShimError(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with the numbers 0, 1, ... as float32 behind 8 bytes.
    fn numbers(count: usize) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers");
        let bytes: Vec<u8> = (0..count).flat_map(|number| (number as f32).to_le_bytes()).collect();
        std::fs::write(&path, [&[7u8; 8][..], &bytes].concat()).unwrap();
        (folder, path)
    }

    #[test]
    fn tensors_on_a_file_outlive_the_map_and_never_write_to_it() {
        let (_folder, path) = numbers(3000);
        let before = std::fs::read(&path).unwrap();
        let map = MappedFile::open(&path).unwrap();
        assert_eq!((map.len(), map.is_empty()), (before.len(), false));
        let mut tensor = map.tensor(8, &[1000, 3], Kind::Float).unwrap();
        let row = tensor.get(999);
        drop(map);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Vec::<f32>::try_from(&row).unwrap(), [2997.0, 2998.0, 2999.0]);
        tensor += 1.0;
        assert_eq!(Vec::<f32>::try_from(&row).unwrap(), [2998.0, 2999.0, 3000.0]);

        let (_folder, path) = numbers(3000);
        let _ = MappedFile::open(&path).unwrap().tensor(8, &[3000], Kind::Float).unwrap().fill_(0.5);
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn numbers_that_are_not_aligned_are_copied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers");
        let bytes: Vec<u8> = [1.5f64, -2.0].iter().flat_map(|number| number.to_le_bytes()).collect();
        std::fs::write(&path, [&[7u8; 3][..], &bytes].concat()).unwrap();
        let tensor = MappedFile::open(&path).unwrap().tensor(3, &[2], Kind::Double).unwrap();
        assert_eq!(Vec::<f64>::try_from(&tensor).unwrap(), [1.5, -2.0]);
    }

    #[test]
    fn what_the_file_does_not_hold_is_refused() {
        let (folder, path) = numbers(4);
        let map = MappedFile::open(&path).unwrap();
        let mut bytes = [0; 4];
        map.copy_to(12, &mut bytes).unwrap();
        assert_eq!(f32::from_le_bytes(bytes), 1.0);
        assert!(map.copy_to(21, &mut bytes).unwrap_err().to_string().contains("bytes 21 to 25 of a file of 24"));
        let refused = |offset, sizes: &[i64]| map.tensor(offset, sizes, Kind::Float).unwrap_err().to_string();
        assert!(refused(8, &[5]).contains("bytes 8 to 28 of a file of 24"));
        for sizes in [&[-1][..], &[i64::MAX, 2], &[i64::MAX]] {
            assert!(refused(8, sizes).contains("sizes") || refused(8, sizes).contains("bytes 8 to"), "{sizes:?}");
        }
        assert_eq!(map.tensor(8, &[0, 7], Kind::Float).unwrap().size(), [0, 7]);
        assert!(MappedFile::open(&folder.path().join("nowhere")).is_err());
        std::fs::write(&path, "").unwrap();
        assert_eq!(MappedFile::open(&path).unwrap_err().to_string(), "the file is empty");
    }
}
