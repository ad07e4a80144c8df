//! TorchScript modules, put together from names, tensors and source instead of being traced.
//!
//! What comes out is a file that `torch.jit.load` reads in C++ and Python: parameters and buffers under their names, in
//! modules within modules, and methods that do what their source says for whatever they are given.

use std::ffi::{c_char, c_void};
use std::ptr::null_mut;

use tch::Tensor;

use super::{RawTensor, ShimError, c_text, check, empssl_free, raw};

unsafe extern "C" {
    fn empssl_script_new(class_name: *const c_char, module: *mut *mut c_void) -> *mut c_char;
    fn empssl_script_free(module: *mut c_void);
    fn empssl_script_parameter(module: *mut c_void, name: *const c_char, tensor: RawTensor) -> *mut c_char;
    fn empssl_script_buffer(module: *mut c_void, name: *const c_char, tensor: RawTensor) -> *mut c_char;
    fn empssl_script_child(module: *mut c_void, name: *const c_char, child: *mut c_void) -> *mut c_char;
    fn empssl_script_define(module: *mut c_void, source: *const c_char) -> *mut c_char;
    fn empssl_script_save(module: *mut c_void, bytes: *mut *mut c_char, length: *mut usize) -> *mut c_char;
}

/// A `torch::jit::Module` being built: what it holds first, then its methods.
#[derive(Debug)]
pub struct Module(*mut c_void);

impl Module {
    /// A module of a class of this name that holds nothing but the attribute `training`, which is false.
    ///
    /// # Errors
    /// When libtorch refuses the name.
    pub fn new(class: &str) -> Result<Self, ShimError> {
        let (class, mut module) = (c_text(class)?, null_mut());
        // SAFETY: a null-terminated text and a live local; on success the module is this value's own.
        check(unsafe { empssl_script_new(class.as_ptr(), &mut module) })?;
        Ok(Self(module))
    }

    /// Adds a copy of a tensor that is learnt.
    ///
    /// # Errors
    /// When the tensor cannot be learnt, as whole numbers cannot.
    pub fn parameter(&mut self, name: &str, tensor: &Tensor) -> Result<(), ShimError> {
        let name = c_text(name)?;
        // SAFETY: the module and the tensor are alive, and the tensor is copied.
        check(unsafe { empssl_script_parameter(self.0, name.as_ptr(), raw(tensor)) })
    }

    /// Adds a copy of a tensor that is kept.
    ///
    /// # Errors
    /// When libtorch refuses the name.
    pub fn buffer(&mut self, name: &str, tensor: &Tensor) -> Result<(), ShimError> {
        let name = c_text(name)?;
        // SAFETY: the module and the tensor are alive, and the tensor is copied.
        check(unsafe { empssl_script_buffer(self.0, name.as_ptr(), raw(tensor)) })
    }

    /// Adds a module, which is complete.
    ///
    /// # Errors
    /// When libtorch refuses the name.
    pub fn child(&mut self, name: &str, child: Self) -> Result<(), ShimError> {
        let name = c_text(name)?;
        // SAFETY: both modules are alive; libtorch counts references to what they share.
        check(unsafe { empssl_script_child(self.0, name.as_ptr(), child.0) })
    }

    /// Adds methods, in the language of TorchScript: `def forward(self, x: Tensor) -> Tensor: ...`.
    ///
    /// # Errors
    /// When the source cannot be compiled or uses what the module does not hold.
    pub fn define(&mut self, source: &str) -> Result<(), ShimError> {
        let source = c_text(source)?;
        // SAFETY: the module is alive and the text null-terminated.
        check(unsafe { empssl_script_define(self.0, source.as_ptr()) })
    }

    /// The bytes of the module's file.
    ///
    /// # Errors
    /// When libtorch cannot write it, or memory is short.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ShimError> {
        let (mut bytes, mut length) = (null_mut(), 0);
        // SAFETY: the module is alive, both pointers are to live locals of the declared types.
        check(unsafe { empssl_script_save(self.0, &mut bytes, &mut length) })?;
        // SAFETY: on success so many bytes made by malloc, which are copied before they are given back once.
        unsafe {
            let owned = std::slice::from_raw_parts(bytes.cast::<u8>(), length).to_vec();
            empssl_free(bytes);
            Ok(owned)
        }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: made by `empssl_script_new` and freed once.
        unsafe { empssl_script_free(self.0) }
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
