//! Features as NumPy arrays: `numpy.load("features.npy")`.

use std::io::{self, Write};
use std::path::Path;

use empssl_torch::WholeFile;
use empssl_torch::safetensors::bytes_of;
use tch::{Kind, Tensor};

use crate::error::EvalError;

/// Bytes that are held at once.
const PIECE: i64 = 16 << 20;

/// Writes a tensor of float32, float64, 64-bit integers or bytes, piece by piece; the file is whole or not there.
///
/// # Errors
/// [`EvalError::Shape`] for numbers of another type, [`EvalError::Write`] when the folder or the disk refuses.
pub fn write(path: &Path, tensor: &Tensor) -> Result<(), EvalError> {
    let header = header(tensor.kind(), &tensor.size())?;
    write_all(path, &header, tensor).map_err(|source| EvalError::Write { path: path.to_owned(), source })
}

fn write_all(path: &Path, header: &[u8], tensor: &Tensor) -> io::Result<()> {
    let mut file = WholeFile::create(path)?;
    file.write_all(header)?;
    let flat = tensor.detach().contiguous().flatten(0, -1);
    let (count, at_once) = (flat.size()[0], PIECE / flat.kind().elt_size_in_bytes() as i64);
    for start in (0..count).step_by(at_once as usize) {
        file.write_all(&bytes_of(&flat.narrow(0, start, at_once.min(count - start)))?)?;
    }
    file.persist()
}

/// What stands in a file before the numbers of such a tensor, which follow row by row: the header of version 1.0, that is
/// magic, length, and a Python dictionary, filled up to a multiple of 64.
///
/// # Errors
/// [`EvalError::Shape`] for other numbers than [`write()`] takes.
pub fn header(kind: Kind, sizes: &[i64]) -> Result<Vec<u8>, EvalError> {
    let descr = match kind {
        Kind::Float => "<f4",
        Kind::Double => "<f8",
        Kind::Int64 => "<i8",
        Kind::Uint8 => "|u1",
        other => {
            let expected = "float32, float64, int64 or uint8".to_owned();
            return Err(EvalError::Shape {
                what: "an array for NumPy".to_owned(),
                expected,
                found: format!("{other:?}"),
            });
        }
    };
    let numbers: Vec<String> = sizes.iter().map(i64::to_string).collect();
    // A tuple of one number needs its comma.
    let comma = if sizes.len() == 1 { "," } else { "" };
    let shape = format!("({}{comma})", numbers.join(", "));
    let mut dictionary = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let length = (10 + dictionary.len() + 1).next_multiple_of(64) - 11;
    dictionary.push_str(&" ".repeat(length - dictionary.len()));
    dictionary.push('\n');
    Ok([b"\x93NUMPY\x01\x00", &(dictionary.len() as u16).to_le_bytes()[..], dictionary.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::testing::refusal;

    #[test]
    fn the_header_and_the_numbers_are_numpys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        write(&path, &Tensor::from_slice(&[1.5f32, -2.0, 3.0, 4.0, 5.0, 6.0]).view([3, 2]).tr()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 128 + 24);
        let text = String::from_utf8_lossy(&bytes[..128]).into_owned();
        assert!(
            text.contains("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }") && text.ends_with(" \n"),
            "{text}"
        );
        let numbers: Vec<f32> =
            bytes[128..].chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        assert_eq!(numbers, [1.5, 3.0, 5.0, -2.0, 4.0, 6.0]);
    }

    #[test]
    fn numpy_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let rows = Tensor::arange(5_000_000, (Kind::Int64, tch::Device::Cpu));
        write(&folder.path().join("a.npy"), &rows).unwrap();
        write(&folder.path().join("b.npy"), &Tensor::from_slice(&[0.25f64, 7.0]).view([1, 2, 1])).unwrap();
        let program = "import numpy as n; a = n.load('a.npy'); b = n.load('b.npy'); \
                       print((a == n.arange(5000000)).all(), a.dtype, b.shape, b.sum(), b.dtype)";
        let output = Command::new("python3").args(["-c", program]).current_dir(folder.path()).output();
        let Some(output) = output.ok().filter(|output| output.status.success()) else {
            eprintln!("skipped: python3 with numpy is not here");
            return;
        };
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "True int64 (1, 2, 1) 7.25 float64");
    }

    #[test]
    fn types_that_the_readers_may_lack_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let halves = Tensor::zeros([2], (Kind::BFloat16, tch::Device::Cpu));
        let message = refusal(write(&folder.path().join("a.npy"), &halves));
        assert_eq!(message, "an array for NumPy must be float32, float64, int64 or uint8, found BFloat16");
        assert!(refusal(write(&folder.path().join("no/a.npy"), &Tensor::from(1.0))).contains("no/a.npy"));
    }
}
