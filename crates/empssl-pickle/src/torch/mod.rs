//! The tensors in a file that `torch.save` wrote: `.pt`, `.pth`, `.ckpt`.
//!
//! Both forms are read: the zip archive of PyTorch since 1.6, and the row of pickles before it. What is carried out is
//! what stores tensors (`torch._utils._rebuild_tensor_v2` and its like, over typed storages) and ordered dicts. Objects
//! of other classes, such as the settings that PyTorch Lightning keeps beside the weights, stay names that nothing
//! happens to, and [`Checkpoint::foreign`] lists them; where a file holds nothing but weights, and wherever a name leads
//! out of data (`os.system`, `builtins.eval`, ...), the file is refused.

mod archive;
mod dialect;
mod legacy;
mod names;
mod state;
mod tensor;

use std::collections::BTreeMap;

use crate::bytes::Fault;
use dialect::{Stored, Torch};
use tensor::View;

pub use tensor::Element;

/// The tensors of a file.
#[derive(Debug)]
pub struct Checkpoint<'a> {
    /// The keys beside the one that the weights were under, in order; none when the weights are all that the file holds.
    pub beside: Vec<String>,
    /// Classes and functions that were left as names, in order, with module.
    pub foreign: Vec<String>,
    /// The weights, in order.
    pub tensors: Vec<Tensor<'a>>,
}

/// A named tensor of a file.
#[derive(Debug, Clone)]
pub struct Tensor<'a> {
    /// Its name.
    pub name: String,
    /// The type of its numbers.
    pub element: Element,
    /// Sizes of its axes.
    pub shape: Vec<usize>,
    view: View,
    storage: &'a [u8],
}

impl Tensor<'_> {
    /// Its numbers in row-major order, each with its lowest byte first.
    pub fn bytes(&self) -> Vec<u8> {
        self.view.gathered(self.storage, self.element.size())
    }
}

/// Reads a file.
///
/// # Errors
/// When it is neither of the two forms, is damaged, names what is refused, holds no dict of tensors, or a tensor does
/// not lie within its storage. The sentence says what and, where there is one, at which byte of the pickle.
pub fn read(bytes: &[u8]) -> Result<Checkpoint<'_>, Fault> {
    let mut dialect = Torch::default();
    if bytes.starts_with(b"PK\x03\x04") {
        let archive = archive::Archive::open(bytes)?;
        let pickle = archive.pickle()?;
        let pickled = crate::load(pickle, &mut dialect)?;
        return checkpoint(&pickled, &dialect, &mut |stored| archive.storage(stored));
    }
    if let Some(rest) = bytes.strip_prefix(legacy::MAGIC) {
        let legacy = legacy::Legacy::read(rest, &mut dialect)?;
        return checkpoint(&legacy.pickled, &dialect, &mut |stored| legacy.storage(stored));
    }
    Err(Fault::new("it begins neither as a zip archive, as torch.save writes since PyTorch 1.6, nor as its older form"))
}

/// How often the numbers of a file may be used: by a tensor and by views of it, but not without end.
const MAX_SHARING: usize = 4;

/// Puts names, views and storages together.
fn checkpoint<'a>(
    pickled: &dialect::Pickled<'_>,
    dialect: &Torch,
    storage: &mut dyn FnMut(&Stored) -> Result<&'a [u8], Fault>,
) -> Result<Checkpoint<'a>, Fault> {
    let state = state::find(pickled, dialect)?;
    let (mut found, mut stored_bytes, mut used_bytes) = (BTreeMap::new(), 0_usize, 0_usize);
    let mut tensors = Vec::with_capacity(state.tensors.len());
    for (name, view) in state.tensors {
        let stored = dialect.stored(view.storage);
        let storage = match found.get(&view.storage) {
            Some(&known) => known,
            None => {
                let bytes = storage(stored)?;
                stored_bytes = stored_bytes.saturating_add(bytes.len());
                found.insert(view.storage, bytes);
                bytes
            }
        };
        used_bytes = used_bytes.saturating_add(view.numel() * stored.element.size());
        let (element, shape) = (stored.element, view.shape());
        tensors.push(Tensor { name, element, shape, view, storage });
    }
    if used_bytes > stored_bytes.saturating_mul(MAX_SHARING) {
        return Err(Fault::new(format!(
            "its tensors are views that hold {used_bytes} bytes of numbers, and {stored_bytes} are stored"
        )));
    }
    Ok(Checkpoint { beside: state.beside, foreign: dialect.foreign(), tensors })
}

#[cfg(test)]
mod tests;
