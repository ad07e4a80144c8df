//! What tch lacks, as safe Rust over one C++ shim.
//!
//! tch binds the operators of libtorch, but not its switches, its memory accounting or its devices' absence. This
//! crate is the one room for that, and the one room of C++: [`device`] opens CUDA at run time and says why it cannot,
//! [`precision`] holds the TF32 switches, [`determinism`] the reproducibility switches, [`memory`] the peak memory of
//! a device, [`autograd`] begins a backward pass at a given gradient, [`lists`] holds the operators over whole lists of
//! tensors, [`operators`] tells which operators a piece of code calls,
//! [`stream`] copies beside the computing, from memory that [`pinned`] provides and [`upload`] guards until it was read,
//! [`processes`] lets several processes compute together,
//! [`script`] puts TorchScript modules together,
//! [`safetensors`] writes tensors to files and maps them, [`whole_file`] makes files that are whole or not there,
//! [`failure`] turns the panics of tch's plain operators (out of memory above all) into errors, and
//! [`version`] tells which libtorch is running.
//!
//! **Invariant:** the shim is linked against libtorch_cpu and libc10 only, so one binary serves CPU and GPU.
//! **Invariant:** nothing here knows networks, images or recipes.

pub mod autograd;
pub mod determinism;
pub mod device;
pub mod failure;
mod ffi;
pub mod lists;
mod mapped;
pub mod memory;
pub mod operators;
pub mod pinned;
pub mod precision;
pub mod processes;
pub mod safetensors;
pub mod script;
pub mod stream;
pub mod upload;
pub mod version;
pub mod whole_file;

pub use device::{DeviceChoice, DeviceError};
pub use failure::{TorchFailure, catch};
pub use ffi::ShimError;
pub use mapped::MappedFile;
pub use pinned::PinnedBytes;
pub use safetensors::{SafetensorsError, SafetensorsFile, SafetensorsWriter, TensorSpec};
pub use stream::{Event, Stream};
pub use upload::{Completion, Upload};
pub use whole_file::WholeFile;
