//! Rows of features on their way to a file that is whole or not there.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use empssl_eval::features::npy;
use empssl_torch::{SafetensorsWriter, TensorSpec, WholeFile};
use tch::{Device, Kind, Tensor};

use crate::args::{RowsFile, RowsForm};
use crate::error::CliError;

/// What is known of the rows before the first is there.
pub(super) struct About {
    pub(super) n_rows: usize,
    pub(super) width: i64,
    /// What they are of, for files that have room for it.
    pub(super) text: [(&'static str, String); 4],
}

/// Writes rows as they come, and the names of their images.
pub(super) struct RowsWriter {
    path: PathBuf,
    rows: Rows,
    /// In a file of their own, where the form has no place for them.
    names: Option<Growing>,
}

enum Rows {
    /// A header, and the numbers or lines.
    Plain(Growing),
    Safetensors(SafetensorsWriter),
}

impl RowsWriter {
    pub(super) fn create(out: &RowsFile, about: About) -> Result<Self, CliError> {
        let header = match out.form {
            RowsForm::Npy => npy::header(Kind::Float, &[about.n_rows as i64, about.width])?,
            RowsForm::Safetensors => Vec::new(),
            RowsForm::Csv => csv_header(&about),
        };
        let rows = match out.form {
            RowsForm::Safetensors => Rows::Safetensors(safetensors(&out.path, about)?),
            _ => {
                let mut file = Growing::create(&out.path)?;
                file.append(&header)?;
                Rows::Plain(file)
            }
        };
        let names = match out.form {
            RowsForm::Csv => None,
            _ => Some(Growing::create(&out.path.with_extension("paths.txt"))?),
        };
        Ok(Self { path: out.path.clone(), rows, names })
    }

    /// Appends a row `[b, width]` for each image.
    pub(super) fn push(&mut self, images: &[&Path], features: &Tensor) -> Result<(), CliError> {
        let failed = |error: &dyn std::fmt::Display| CliError::file("cannot write", &self.path, error);
        if let Some(names) = &mut self.names {
            for image in images {
                names.append(line_of(image).map_err(|reason| names.failed(reason))?.as_bytes())?;
            }
        }
        let width = features.size()[1] as usize;
        let features = features.to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
        let rows = match &mut self.rows {
            Rows::Safetensors(writer) => return writer.append(0, &features).map_err(|error| failed(&error)),
            Rows::Plain(rows) => rows,
        };
        let numbers = Vec::<f32>::try_from(features.flatten(0, -1)).map_err(|error| failed(&error))?;
        match self.names {
            Some(_) => rows.append(&numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()),
            None => {
                let lines = images.iter().zip(numbers.chunks(width)).map(|(image, row)| csv_line(image, row));
                rows.append(lines.collect::<String>().as_bytes())
            }
        }
    }

    /// Gives the files their names and returns these.
    pub(super) fn finish(self) -> Result<Vec<PathBuf>, CliError> {
        // The rows come last: whoever sees them finds their names.
        let names = self.names.map(Growing::finish).transpose()?;
        match self.rows {
            Rows::Plain(rows) => drop(rows.finish()?),
            Rows::Safetensors(writer) => {
                writer.finish(None).map_err(|error| CliError::file("cannot write", &self.path, error))?;
            }
        }
        Ok([Some(self.path), names].into_iter().flatten().collect())
    }
}

/// The line of an image in a file of names.
fn line_of(image: &Path) -> Result<String, String> {
    let name = image.to_string_lossy();
    match name.contains(['\n', '\r']) {
        true => Err(format!("the name {name:?} has a line break; rename the file, or write a .csv file")),
        false => Ok(format!("{name}\n")),
    }
}

fn safetensors(path: &Path, about: About) -> Result<SafetensorsWriter, CliError> {
    let size = vec![about.n_rows as i64, about.width];
    let features = TensorSpec { name: "features".to_owned(), kind: Kind::Float, size };
    let text = about.text.into_iter().map(|(key, text)| (key.to_owned(), text)).collect();
    let writer = SafetensorsWriter::create(path, vec![features], text);
    writer.map_err(|error| CliError::file("cannot write", path, error))
}

fn csv_header(about: &About) -> Vec<u8> {
    let mut line = "path".to_owned();
    for column in 0..about.width {
        // Writing to a string cannot fail.
        let _ = write!(line, ",{column}");
    }
    (line + "\n").into_bytes()
}

/// The name, quoted where it has to be, and as many digits as tell each number from its neighbours.
fn csv_line(image: &Path, numbers: &[f32]) -> String {
    let name = image.to_string_lossy();
    let mut line = match name.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", name.replace('"', "\"\"")),
        false => name.into_owned(),
    };
    for number in numbers {
        let _ = write!(line, ",{number}");
    }
    line + "\n"
}

/// A file that grows under another name.
struct Growing {
    path: PathBuf,
    file: BufWriter<WholeFile>,
}

impl Growing {
    fn create(path: &Path) -> Result<Self, CliError> {
        let file = WholeFile::create(path).map_err(|error| CliError::file("cannot write", path, error))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file) })
    }

    fn failed(&self, reason: impl std::fmt::Display) -> CliError {
        CliError::file("cannot write", &self.path, reason)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.file.write_all(bytes).map_err(|error| self.failed(error))
    }

    fn finish(self) -> Result<PathBuf, CliError> {
        let finished = self.file.into_inner().map_err(io::IntoInnerError::into_error).and_then(WholeFile::persist);
        finished.map_err(|error| CliError::file("cannot write", &self.path, error))?;
        Ok(self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn about() -> About {
        let text = [("recipe", "smoke"), ("step", "4"), ("features", "features"), ("view", "the whole image")];
        About { n_rows: 3, width: 2, text: text.map(|(key, value)| (key, value.to_owned())) }
    }

    /// Three rows written in two pieces.
    fn written(folder: &Path, name: &str, images: [&str; 3]) -> Result<Vec<PathBuf>, CliError> {
        let out: RowsFile = folder.join(name).to_str().unwrap().parse().unwrap();
        let mut writer = RowsWriter::create(&out, about())?;
        let images = images.map(Path::new);
        writer.push(&images[..2], &Tensor::from_slice(&[1.5f32, -0.1, 1e-7, 3.0]).view([2, 2]))?;
        assert!(!out.path.exists(), "nothing half done has a final name");
        writer.push(&images[2..], &Tensor::from_slice(&[4.0f64, 0.5]).view([1, 2]))?;
        writer.finish()
    }

    const NUMBERS: [f32; 6] = [1.5, -0.1, 1e-7, 3.0, 4.0, 0.5];

    fn numbers(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
    }

    #[test]
    fn numpy_gets_its_header_and_the_names_lie_beside() {
        let folder = tempfile::tempdir().unwrap();
        let files = written(folder.path(), "x.npy", ["a.png", "d/b.png", "c, d.png"]).unwrap();
        assert_eq!(files, [folder.path().join("x.npy"), folder.path().join("x.paths.txt")]);
        let bytes = fs::read(&files[0]).unwrap();
        assert_eq!((&bytes[..8], u16::from_le_bytes([bytes[8], bytes[9]])), (&b"\x93NUMPY\x01\x00"[..], 118));
        let header = std::str::from_utf8(&bytes[10..128]).unwrap();
        assert!(header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }"), "{header}");
        assert!(header.ends_with(" \n"));
        assert_eq!(numbers(&bytes[128..]), NUMBERS);
        assert_eq!(fs::read_to_string(&files[1]).unwrap(), "a.png\nd/b.png\nc, d.png\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn safetensors_hold_one_tensor_and_what_it_is_of() {
        let folder = tempfile::tempdir().unwrap();
        let files = written(folder.path(), "x.safetensors", ["a", "b", "c"]).unwrap();
        let file = empssl_model::weights::read(&files[0]).unwrap();
        let (name, features) = &file.tensors[0];
        assert_eq!((name.as_str(), features.size(), file.tensors.len()), ("features", vec![3, 2], 1));
        assert_eq!(Vec::<f32>::try_from(features.flatten(0, -1)).unwrap(), NUMBERS);
        assert_eq!((file.metadata["step"].as_str(), file.metadata["view"].as_str()), ("4", "the whole image"));
    }

    #[test]
    fn a_table_quotes_names_and_keeps_every_digit() {
        let folder = tempfile::tempdir().unwrap();
        let files = written(folder.path(), "x.csv", ["a.png", "b, c.png", "d \"e\"\n.png"]).unwrap();
        assert_eq!(files.len(), 1);
        let text = fs::read_to_string(&files[0]).unwrap();
        let expected = "path,0,1\na.png,1.5,-0.1\n\"b, c.png\",0.0000001,3\n\"d \"\"e\"\"\n.png\",4,0.5\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let error = written(folder.path(), "x.npy", ["a", "b", "c\nd"]).unwrap_err().to_string();
        assert!(error.contains("x.paths.txt") && error.contains("\"c\\nd\" has a line break"), "{error}");
        let error = written(&folder.path().join("absent"), "x.csv", ["a", "b", "c"]).unwrap_err().to_string();
        assert!(error.starts_with("cannot write") && error.contains("absent/x.csv"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        for name in ["x", "x.txt", "x.NPY", ".npy"] {
            let refusal = name.parse::<RowsFile>().unwrap_err();
            assert_eq!(refusal, "name a file that ends in .npy, .safetensors or .csv", "{name}");
        }
    }
}
