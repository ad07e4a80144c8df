//! What tch lacks, as safe Rust over one C++ shim.
//!
//! tch binds the operators of libtorch, but not its switches, its memory accounting or its devices' absence. This
//! crate is the one room for that, and the one room of C++: [`device`] opens CUDA at run time and says why it cannot,
//! [`precision`] holds the TF32 switches, [`determinism`] the reproducibility switches, [`memory`] the peak memory of
//! a device, [`autograd`] begins a backward pass at a given gradient, [`lists`] holds the operators over whole lists of
//! tensors, a [`Stream`] copies beside the computing, from [`PinnedBytes`] that an [`Upload`] guards until they were
//! read, [`processes`] lets several processes compute together, [`script`] puts TorchScript modules together,
//! [`safetensors`] writes tensors to files and maps them, [`whole_file`] makes files that are whole or not there,
//! [`failure`] turns the panics of tch's plain operators (out of memory above all) into errors, and
//! [`version`] tells which libtorch is running.
//!
//! **Invariant:** the shim is linked against libtorch_cpu and libc10 only, so one binary serves CPU and GPU.
//! **Invariant:** nothing here knows networks, images or recipes.

pub mod device;
pub mod failure;
mod ffi;
mod mapped;
pub mod processes;
pub mod safetensors;
pub mod whole_file;

pub use device::{DeviceChoice, DeviceError};
pub use failure::{TorchFailure, catch};
pub use ffi::{Completion, Event, PinnedBytes, ShimError, Stream, Upload};
pub use ffi::{autograd, determinism, lists, memory, precision, script, version};
pub use mapped::MappedFile;
pub use safetensors::{SafetensorsError, SafetensorsFile, SafetensorsWriter, TensorSpec};
pub use whole_file::WholeFile;
