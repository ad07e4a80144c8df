//! TorchScript modules under construction.

use std::ffi::{CString, c_char, c_void};
use std::ptr::null_mut;

use tch::Tensor;

use super::{RawTensor, ShimError, check, empssl_free, raw};

unsafe extern "C" {
    fn empssl_script_new(class_name: *const c_char, module: *mut *mut c_void) -> *mut c_char;
    fn empssl_script_free(module: *mut c_void);
    fn empssl_script_parameter(module: *mut c_void, name: *const c_char, tensor: RawTensor) -> *mut c_char;
    fn empssl_script_buffer(module: *mut c_void, name: *const c_char, tensor: RawTensor) -> *mut c_char;
    fn empssl_script_child(module: *mut c_void, name: *const c_char, child: *mut c_void) -> *mut c_char;
    fn empssl_script_define(module: *mut c_void, source: *const c_char) -> *mut c_char;
    fn empssl_script_save(module: *mut c_void, bytes: *mut *mut c_char, length: *mut usize) -> *mut c_char;
}

/// A `torch::jit::Module`.
#[derive(Debug)]
pub(crate) struct RawModule(*mut c_void);

impl RawModule {
    pub(crate) fn new(class: &str) -> Result<Self, ShimError> {
        let class = c_text(class)?;
        let mut module = null_mut();
        // SAFETY: a null-terminated text and a live local; on success the module is this value's own.
        check(unsafe { empssl_script_new(class.as_ptr(), &mut module) })?;
        Ok(Self(module))
    }

    pub(crate) fn parameter(&mut self, name: &str, tensor: &Tensor) -> Result<(), ShimError> {
        let name = c_text(name)?;
        // SAFETY: the module and the tensor are alive, and the tensor is copied.
        check(unsafe { empssl_script_parameter(self.0, name.as_ptr(), raw(tensor)) })
    }

    pub(crate) fn buffer(&mut self, name: &str, tensor: &Tensor) -> Result<(), ShimError> {
        let name = c_text(name)?;
        // SAFETY: the module and the tensor are alive, and the tensor is copied.
        check(unsafe { empssl_script_buffer(self.0, name.as_ptr(), raw(tensor)) })
    }

    pub(crate) fn child(&mut self, name: &str, child: Self) -> Result<(), ShimError> {
        let name = c_text(name)?;
        // SAFETY: both modules are alive; libtorch counts references to what they share.
        check(unsafe { empssl_script_child(self.0, name.as_ptr(), child.0) })
    }

    pub(crate) fn define(&mut self, source: &str) -> Result<(), ShimError> {
        let source = c_text(source)?;
        // SAFETY: the module is alive and the text null-terminated.
        check(unsafe { empssl_script_define(self.0, source.as_ptr()) })
    }

    pub(crate) fn save(&self) -> Result<Vec<u8>, ShimError> {
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

impl Drop for RawModule {
    fn drop(&mut self) {
        // SAFETY: made by `empssl_script_new` and freed once.
        unsafe { empssl_script_free(self.0) }
    }
}

fn c_text(text: &str) -> Result<CString, ShimError> {
    CString::new(text).map_err(|_| ShimError(format!("a text with a zero byte: {text:?}")))
}
