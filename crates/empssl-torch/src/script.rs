//! TorchScript modules, put together from names, tensors and source instead of being traced.
//!
//! What comes out is a file that `torch.jit.load` reads in C++ and Python: parameters and buffers under their names, in
//! modules within modules, and methods that do what their source says for whatever they are given.

use tch::Tensor;

use crate::ffi::{RawModule, ShimError};

/// A module being built: what it holds first, then its methods.
#[derive(Debug)]
pub struct Module(RawModule);

impl Module {
    /// A module of a class of this name that holds nothing but the attribute `training`, which is false.
    ///
    /// # Errors
    /// When libtorch refuses the name.
    pub fn new(class: &str) -> Result<Self, ShimError> {
        RawModule::new(class).map(Self)
    }

    /// Adds a copy of a tensor that is learnt.
    ///
    /// # Errors
    /// When the tensor cannot be learnt, as whole numbers cannot.
    pub fn parameter(&mut self, name: &str, tensor: &Tensor) -> Result<(), ShimError> {
        self.0.parameter(name, tensor)
    }

    /// Adds a copy of a tensor that is kept.
    ///
    /// # Errors
    /// When libtorch refuses the name.
    pub fn buffer(&mut self, name: &str, tensor: &Tensor) -> Result<(), ShimError> {
        self.0.buffer(name, tensor)
    }

    /// Adds a module, which is complete.
    ///
    /// # Errors
    /// When libtorch refuses the name.
    pub fn child(&mut self, name: &str, child: Self) -> Result<(), ShimError> {
        self.0.child(name, child.0)
    }

    /// Adds methods, in the language of TorchScript: `def forward(self, x: Tensor) -> Tensor: ...`.
    ///
    /// # Errors
    /// When the source cannot be compiled or uses what the module does not hold.
    pub fn define(&mut self, source: &str) -> Result<(), ShimError> {
        self.0.define(source)
    }

    /// The bytes of the module's file.
    ///
    /// # Errors
    /// When libtorch cannot write it, or memory is short.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ShimError> {
        self.0.save()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tch::{CModule, Device, Kind};

    use super::*;

    fn scale(factor: f32) -> Module {
        let mut module = Module::new("Scale").unwrap();
        module.parameter("weight", &Tensor::from(factor)).unwrap();
        module.buffer("seen", &Tensor::from(0_i64)).unwrap();
        let source = "def forward(self, x: Tensor) -> Tensor:\n    if self.training:\n        \
                      _ = self.seen.add_(1)\n    return x * self.weight\n";
        module.define(source).unwrap();
        module
    }

    #[test]
    fn modules_within_modules_are_loaded_with_their_names_and_do_what_they_say() {
        let mut parent = Module::new("Parent").unwrap();
        parent.child("0", scale(2.0)).unwrap();
        parent.child("second", scale(3.0)).unwrap();
        let source = "def forward(self, x: Tensor) -> Tensor:\n    \
                      return self.second.forward(getattr(self, \"0\").forward(x))\n";
        parent.define(source).unwrap();
        let bytes = parent.to_bytes().unwrap();
        let mut loaded = CModule::load_data(&mut Cursor::new(bytes)).unwrap();
        let y = |loaded: &CModule| loaded.forward_ts(&[Tensor::from_slice(&[1.0_f32, -2.0])]).unwrap();
        assert_eq!(y(&loaded), Tensor::from_slice(&[6.0_f32, -12.0]));
        let mut names: Vec<String> = loaded.named_parameters().unwrap().into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        assert_eq!(names, ["0.weight", "second.weight"]);
        loaded.set_train();
        let _ = y(&loaded);
        loaded.to(Device::Cpu, Kind::Double, false);
        assert_eq!(loaded.forward_ts(&[Tensor::from(0.5_f64)]).unwrap().kind(), Kind::Double);
    }

    #[test]
    fn what_cannot_be_built_is_an_error() {
        let mut module = scale(1.0);
        assert!(module.define("def forward(self) -> Tensor:\n    return self.absent\n").is_err());
        assert!(module.define("no source at all").is_err());
        assert!(module.parameter("count", &Tensor::from(1_i64)).is_err(), "whole numbers have no gradient");
        assert!(Module::new("a\0b").unwrap_err().to_string().contains("zero byte"));
    }
}
