//! NCCL's object, which `shim/nccl/nccl.h` describes and which is opened when it is needed.

use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::time::Duration;

use super::groups::{RawGroup, RawStore, milliseconds, numbers};
use super::version::built_for;
use super::{ShimError, c_text, check, loaders_words, owned};
use crate::device::CudaProblem;

/// The variable that names the object itself.
pub const NCCL_VARIABLE: &str = "EMPSSL_NCCL";

/// The object's name.
pub(crate) const NCCL_NAME: &str = "libempssl_nccl.so";

/// `empssl_nccl_build`.
type Build = unsafe extern "C" fn() -> *const c_char;

/// `empssl_nccl_connect`.
type Connect = unsafe extern "C" fn(
    store: *mut c_void,
    prefix: *const c_char,
    rank: i32,
    world: i32,
    device: i32,
    timeout_ms: i64,
    engine: *mut *mut c_void,
) -> *mut c_char;

/// What stands between this process and NCCL; each text ends with the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NcclProblem {
    /// No CUDA, hence nothing that NCCL could connect.
    #[error("CUDA cannot be used: {0}")]
    NoCuda(CudaProblem),
    /// The object is nowhere.
    #[error(
        "{NCCL_NAME} is neither beside the program, nor in `lib`, nor in the checkout's .libtorch; run `cargo xtask setup \
         --nccl`, or name the file in {NCCL_VARIABLE}"
    )]
    Missing,
    /// The variable names a file that is not there.
    #[error(
        "{NCCL_VARIABLE} names {0}, which is no file; correct it, or unset it to let the program look for {NCCL_NAME}"
    )]
    NoSuchFile(PathBuf),
    /// The loader refused it.
    #[error("{path} could not be opened ({reason}); run `cargo xtask setup --nccl` again")]
    NotOpened {
        /// The object.
        path: PathBuf,
        /// The loader's reason.
        reason: String,
    },
    /// It belongs to another build of this program.
    #[error(
        "{path} was built as `{found}`, and this program needs `{expected}`; run `cargo xtask setup --nccl` of its own \
         checkout"
    )]
    OtherBuild {
        /// The object.
        path: PathBuf,
        /// What it says of itself.
        found: String,
        /// What would fit.
        expected: String,
    },
}

/// NCCL's object, open for the rest of the process.
#[derive(Debug, Clone)]
pub(crate) struct NcclObject {
    pub(crate) path: PathBuf,
    connect: Connect,
}

impl NcclObject {
    /// What an object has to call itself, as `EMPSSL_NCCL_BUILD` of `shim/nccl/nccl.h`.
    pub(crate) fn expected_build() -> String {
        format!("interface 2, libtorch {}", built_for())
    }

    /// Opens the object, which needs CUDA's part of libtorch to be open.
    pub(crate) fn open(path: &Path) -> Result<Self, NcclProblem> {
        use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
        let path = path.to_path_buf();
        let refused =
            |error: libloading::Error| NcclProblem::NotOpened { path: path.clone(), reason: loaders_words(&error) };
        // SAFETY: the object's initialisers are those of libtorch's headers, which run in every program that includes
        // them.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) }.map_err(refused)?;
        // SAFETY: every build of the object has this function, which takes nothing and returns a string constant.
        let found = unsafe {
            let build = library.get::<Build>(b"empssl_nccl_build").map_err(refused)?;
            CStr::from_ptr(build()).to_string_lossy().into_owned()
        };
        let expected = Self::expected_build();
        if found != expected {
            return Err(NcclProblem::OtherBuild { path, found, expected });
        }
        // SAFETY: in an object of this build the function is as declared above. The library is never closed, because
        // what it connects lives as long as the last graph that keeps its group.
        let connect = unsafe { *library.get::<Connect>(b"empssl_nccl_connect").map_err(refused)? };
        std::mem::forget(library);
        Ok(Self { path, connect })
    }

    /// Connects GPU `device` with those of all others, by which `group` sends tensors of GPUs from then on; it may wait
    /// for ever when one of them is lost meanwhile.
    pub(crate) fn connect(
        &self,
        group: &mut RawGroup,
        store: &RawStore,
        prefix: &str,
        place: (usize, usize),
        device: usize,
        timeout: Duration,
    ) -> Result<(), ShimError> {
        let (prefix, [rank, world], mut out) = (c_text(prefix)?, numbers(place)?, null_mut());
        // SAFETY: the function is that of an object of the expected build, the store lives, the text is null-terminated
        // and lives through the call, and the last pointer is to a live local.
        check(unsafe {
            let (store, prefix, timeout) = (store.as_ptr(), prefix.as_ptr(), milliseconds(timeout));
            (self.connect)(store, prefix, rank, world, device as i32, timeout, &mut out)
        })?;
        group.add(owned(out)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_build_is_spelt_as_in_the_header() {
        let header = include_str!("../../shim/nccl/nccl.h");
        assert!(header.contains("#define EMPSSL_NCCL_INTERFACE 2\n"));
        let build = r#"#define EMPSSL_NCCL_BUILD "interface " EMPSSL_TEXT(EMPSSL_NCCL_INTERFACE) ", libtorch " EMPSSL_LIBTORCH"#;
        assert!(header.contains(build));
    }
}
