//! A file's tensors, whatever wrote it.

use std::path::Path;

use empssl_pickle::torch::{self, Element};
use tch::{Kind, Tensor};

use crate::config::Stem;
use crate::state::State;
use crate::{ModelError, weights};

/// Named tensors and what lay beside them.
pub(super) struct Source {
    pub(super) tensors: State,
    /// Other keys of the file, where the weights were under one of their own.
    beside: Vec<String>,
    /// Classes and functions that were left as names.
    pub(super) foreign: Vec<String>,
    /// The stem, where the file says what no shape tells, as our own exports do.
    pub(super) stem: Option<Stem>,
}

impl Source {
    /// Whether PyTorch Lightning wrote the file.
    pub(super) fn is_lightning(&self) -> bool {
        self.beside.iter().any(|key| key == "pytorch-lightning_version")
    }

    #[cfg(test)]
    pub(super) fn of(tensors: State) -> Self {
        Self { tensors, beside: Vec::new(), foreign: Vec::new(), stem: None }
    }
}

/// The key of a safetensors file's metadata that names the stem.
const STEM: &str = "stem";

/// How safetensors files begin: the length of their header, which is below 2^24 in practice, then the header.
const HEADER: std::ops::Range<usize> = 5..9;

/// Reads a file of any known form, told by its bytes.
pub(super) fn read(path: &Path) -> Result<Source, ModelError> {
    let bytes = std::fs::read(path).map_err(|source| ModelError::Read { path: path.to_owned(), source })?;
    let refused = |reason: String| ModelError::Import { path: path.to_owned(), reason };
    if bytes.get(HEADER) == Some(b"\0\0\0{") {
        drop(bytes);
        let file = weights::read(path)?;
        if file.metadata.get("format").is_some_and(|format| format == "empssl checkpoint") {
            return Err(refused("it is a run's own checkpoint; `empssl eval RUN` scores the run".to_owned()));
        }
        let stem = file.metadata.get(STEM).and_then(|name| serde_json::from_value(name.as_str().into()).ok());
        return Ok(Source { tensors: file.tensors, beside: Vec::new(), foreign: Vec::new(), stem });
    }
    let file = torch::read(&bytes).map_err(|fault| refused(fault.to_string()))?;
    let tensors = file.tensors.iter().map(|tensor| Ok((tensor.name.clone(), converted(tensor)?)));
    let tensors = tensors.collect::<Result<_, tch::TchError>>().map_err(|error| refused(error.to_string()))?;
    Ok(Source { tensors, beside: file.beside, foreign: file.foreign, stem: None })
}

fn converted(tensor: &torch::Tensor<'_>) -> Result<Tensor, tch::TchError> {
    let size: Vec<i64> = tensor.shape.iter().map(|&size| size as i64).collect();
    Tensor::f_from_data_size(&tensor.bytes(), &size, kind(tensor.element))
}

fn kind(element: Element) -> Kind {
    match element {
        Element::F64 => Kind::Double,
        Element::F32 => Kind::Float,
        Element::F16 => Kind::Half,
        Element::Bf16 => Kind::BFloat16,
        Element::I64 => Kind::Int64,
        Element::I32 => Kind::Int,
        Element::I16 => Kind::Int16,
        Element::I8 => Kind::Int8,
        Element::U8 => Kind::Uint8,
        Element::Bool => Kind::Bool,
    }
}
