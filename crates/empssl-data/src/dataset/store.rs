//! Where the pixels are: decoded in memory, or in files that are decoded when asked for.

use std::path::{Path, PathBuf};

use ndarray::{Array3, ArrayView3, CowArray, Ix3};

use super::decode::{decode_image, dimensions};
use super::fingerprint::Hasher;
#[cfg(feature = "archives")]
use super::zip::Archive;
use crate::error::DataError;

/// The images of a split.
#[derive(Debug)]
pub(crate) enum Store {
    /// Records of one size, as generated or as read from record files.
    Records {
        /// All pixels, image after image, each `[side, side, 3]`.
        pixels: Vec<u8>,
        /// Height and width of every image.
        side: usize,
    },
    /// Image files.
    Files {
        /// The folder that the hash takes the paths relative to.
        root: PathBuf,
        /// Where the bytes of the files are.
        source: FileSource,
        /// The files.
        files: Vec<ImageFile>,
        /// All images decoded, if they are small.
        decoded: Option<Vec<Array3<u8>>>,
    },
}

/// Where the bytes of image files are.
#[derive(Clone, Debug)]
pub(crate) enum FileSource {
    /// In files of their own.
    Disk,
    /// In an archive, whose path their paths begin with.
    #[cfg(feature = "archives")]
    Zip(std::sync::Arc<Archive>),
}

impl FileSource {
    /// The bytes of a file.
    pub(crate) fn read(&self, path: &Path) -> Result<Vec<u8>, DataError> {
        match self {
            Self::Disk => std::fs::read(path).map_err(|error| DataError::io(path, error)),
            #[cfg(feature = "archives")]
            Self::Zip(archive) => archive.read(path),
        }
    }

    /// The pixels of an image file, `[height, width, 3]`.
    pub(crate) fn decode(&self, path: &Path) -> Result<Array3<u8>, DataError> {
        decode_image(&self.read(path)?).map_err(|reason| bad(path, reason))
    }

    /// The (width, height) in the header of an image file.
    pub(crate) fn dimensions(&self, path: &Path) -> Result<(u32, u32), DataError> {
        let dimensions = match self {
            Self::Disk => {
                let file = std::fs::File::open(path).map_err(|error| DataError::io(path, error))?;
                dimensions(std::io::BufReader::new(file))
            }
            #[cfg(feature = "archives")]
            Self::Zip(archive) => dimensions(std::io::Cursor::new(archive.read(path)?)),
        };
        dimensions.map_err(|reason| bad(path, reason))
    }
}

/// One image file.
#[derive(Clone, Debug)]
pub(crate) struct ImageFile {
    /// The file.
    pub(crate) path: PathBuf,
    /// Its size in bytes.
    pub(crate) bytes: u64,
}

impl Store {
    /// The number of images.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Records { pixels, side } => pixels.len() / (side * side * 3),
            Self::Files { files, .. } => files.len(),
        }
    }

    /// The pixels of image `row`, which must exist.
    pub(crate) fn image(&self, row: usize) -> Result<CowArray<'_, u8, Ix3>, DataError> {
        match self {
            Self::Records { pixels, side } => {
                let image = &pixels[row * side * side * 3..][..side * side * 3];
                Ok(ArrayView3::from_shape((*side, *side, 3), image)
                    .expect("the slice has the length of its shape")
                    .into())
            }
            Self::Files { decoded: Some(images), .. } => Ok(images[row].view().into()),
            Self::Files { files, source, .. } => source.decode(&files[row].path).map(CowArray::from),
        }
    }

    /// The file of image `row`, which must exist, if it has one.
    pub(crate) fn path(&self, row: usize) -> Option<&Path> {
        match self {
            Self::Files { files, .. } => Some(&files[row].path),
            _ => None,
        }
    }

    /// Adds the records' bytes, or the files' relative paths and sizes.
    pub(crate) fn hash_into(&self, hasher: &mut Hasher) {
        match self {
            Self::Records { pixels, side } => {
                hasher.number(*side as u64);
                hasher.bytes(pixels);
            }
            Self::Files { root, files, .. } => {
                for ImageFile { path, bytes } in files {
                    let relative = path.strip_prefix(root).unwrap_or(path);
                    relative.iter().for_each(|part| hasher.bytes(part.as_encoded_bytes()));
                    hasher.number(*bytes);
                }
            }
        }
    }
}

fn bad(path: &Path, reason: impl ToString) -> DataError {
    let reason = reason.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    DataError::BadImage { path: path.to_owned(), reason }
}
