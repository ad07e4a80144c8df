//! Which device to compute on, and why CUDA cannot be used when it cannot.
//!
//! libtorch keeps CUDA in `libtorch_cuda.so`, which registers itself when it is loaded. No symbol of it is named by
//! this program, so the linker would drop it and CUDA would read as absent; [`open`] loads it by hand.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;

use tch::Device;

use crate::ffi::{self, ShimError, version};

/// What a user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device where the machine has one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this index.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    /// `auto`, `cpu`, `cuda` (the first) or `cuda:N`.
    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text.strip_prefix("cuda:").and_then(|n| n.parse().ok()).map(Self::Cuda).ok_or_else(unknown),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not a device name.
    #[error("unknown device `{0}`: use auto, cpu, cuda or cuda:N")]
    Unknown(String),
    /// CUDA was asked for, or a GPU is there, and CUDA is not usable.
    #[error("CUDA cannot be used: {0}")]
    Unusable(CudaProblem),
    /// The machine has fewer devices.
    #[error("there is no CUDA device {index}: libtorch sees {count}")]
    NoSuchDevice {
        /// The index asked for.
        index: usize,
        /// How many devices there are.
        count: usize,
    },
    /// libtorch failed while it was asked.
    #[error(transparent)]
    Shim(#[from] ShimError),
}

/// What stands between this process and CUDA; each text ends with the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaProblem {
    /// No driver, hence no GPU.
    #[error("no NVIDIA driver is loaded on this machine; use --device cpu")]
    NoDriver,
    /// A driver, but a libtorch without its CUDA part.
    #[error(
        "this machine has an NVIDIA driver, but {0} is missing; run `cargo xtask setup --cuda`, or set LIBTORCH to a \
         libtorch {version} with CUDA, or use --device cpu",
        version = version::built_for()
    )]
    NoLibrary(PathBuf),
    /// The CUDA part is there and the loader refused it.
    #[error("{library} could not be opened ({reason}); run `cargo xtask setup --cuda` again, or use --device cpu")]
    NotOpened {
        /// The file.
        library: PathBuf,
        /// The loader's reason.
        reason: String,
    },
    /// Everything is loaded and no device shows.
    #[error(
        "libtorch's CUDA part is loaded but finds no device; check `nvidia-smi`, CUDA_VISIBLE_DEVICES and that the \
         driver serves CUDA 13, or use --device cpu"
    )]
    NoDevice,
}

/// Opens CUDA's part of libtorch once for the process, and says how many devices it sees.
///
/// # Errors
/// The [`CudaProblem`] that stands in the way.
pub fn open() -> Result<usize, CudaProblem> {
    static OPENED: OnceLock<Result<usize, CudaProblem>> = OnceLock::new();
    OPENED.get_or_init(|| open_cuda(has_driver())).clone()
}

/// Opens CUDA on behalf of device `index`: libtorch looks for CUDA once in a process, so it must be open before the first
/// question about a device.
pub(crate) fn reach(index: usize) -> Result<(), ShimError> {
    match open() {
        Ok(_) => Ok(()),
        Err(problem) => Err(ShimError(format!("CUDA device {index} cannot be reached: {problem}"))),
    }
}

/// Turns the choice into a device.
///
/// `auto` takes the CPU only where the machine has no NVIDIA driver: a GPU that cannot be used is an error that names
/// the cure, never a silent run on the CPU.
///
/// # Errors
/// When CUDA was asked for or is present, and cannot be used.
pub fn select(choice: DeviceChoice) -> Result<Device, DeviceError> {
    decide(choice, open)
}

fn decide(choice: DeviceChoice, open: impl FnOnce() -> Result<usize, CudaProblem>) -> Result<Device, DeviceError> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Auto => match open() {
            Ok(_) => Ok(Device::Cuda(0)),
            Err(CudaProblem::NoDriver) => Ok(Device::Cpu),
            Err(problem) => Err(DeviceError::Unusable(problem)),
        },
        DeviceChoice::Cuda(index) => match open() {
            Ok(count) if index < count => Ok(Device::Cuda(index)),
            Ok(count) => Err(DeviceError::NoSuchDevice { index, count }),
            Err(problem) => Err(DeviceError::Unusable(problem)),
        },
    }
}

/// Waits until everything queued on `device` is done; returns at once on the CPU. For clocks, not for the step.
///
/// # Errors
/// When work queued earlier failed.
pub fn synchronize(device: Device) -> Result<(), ShimError> {
    match device {
        Device::Cuda(index) => ffi::device_synchronize(index as i64),
        _ => Ok(()),
    }
}

/// Makes CUDA device `index` that of this thread: what libtorch keeps on a GPU without being told which, a context above
/// all, is then not kept on the first one by every process of the machine.
pub(crate) fn make_current(index: usize) -> Result<(), ShimError> {
    ffi::device_make_current(index as i64)
}

/// The device's name for reports: the card's, or the processor's model.
pub fn name(device: Device) -> String {
    match device {
        Device::Cuda(index) => ffi::cuda_device_name(index as i32).unwrap_or_else(|| format!("CUDA device {index}")),
        _ => processor_name().unwrap_or_else(|| "CPU".to_owned()),
    }
}

fn processor_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

/// Whether an NVIDIA driver serves this machine or container: a device of its own, or WSL's together with CUDA's library.
pub fn has_driver() -> bool {
    let exists = |path: &str| Path::new(path).exists();
    exists("/dev/nvidiactl") || exists("/dev/nvidia0") || exists("/usr/lib/wsl/lib/libcuda.so.1")
}

fn open_cuda(has_driver: bool) -> Result<usize, CudaProblem> {
    if !has_driver {
        return Err(CudaProblem::NoDriver);
    }
    let folder = version::library_path().and_then(|path| path.parent().map(Path::to_path_buf)).unwrap_or_default();
    load(&folder.join("libtorch_cuda.so"))?;
    match tch::Cuda::device_count() {
        count if count > 0 => Ok(count as usize),
        _ => Err(CudaProblem::NoDevice),
    }
}

fn load(library: &Path) -> Result<(), CudaProblem> {
    if !library.exists() {
        return Err(CudaProblem::NoLibrary(library.to_path_buf()));
    }
    ffi::open_globally(library).map_err(|reason| CudaProblem::NotOpened { library: library.to_path_buf(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_parsed() {
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(3)] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        for wrong in ["gpu", "cuda:", "cuda:-1", "cuda:x", ""] {
            let error = wrong.parse::<DeviceChoice>().unwrap_err();
            assert!(error.to_string().contains("auto, cpu, cuda or cuda:N"), "{error}");
        }
    }

    #[test]
    fn auto_falls_back_to_the_cpu_only_without_a_driver() {
        let broken = || Err(CudaProblem::NoLibrary("/x/libtorch_cuda.so".into()));
        assert_eq!(decide(DeviceChoice::Auto, || Err(CudaProblem::NoDriver)), Ok(Device::Cpu));
        assert_eq!(decide(DeviceChoice::Auto, || Ok(1)), Ok(Device::Cuda(0)));
        let error = decide(DeviceChoice::Auto, broken).unwrap_err().to_string();
        assert!(error.contains("cargo xtask setup --cuda") && error.contains("/x/libtorch_cuda.so"), "{error}");
    }

    #[test]
    fn an_explicit_device_must_exist() {
        assert_eq!(decide(DeviceChoice::Cuda(1), || Ok(2)), Ok(Device::Cuda(1)));
        let missing = decide(DeviceChoice::Cuda(2), || Ok(2)).unwrap_err();
        assert_eq!(missing, DeviceError::NoSuchDevice { index: 2, count: 2 });
        let error = decide(DeviceChoice::Cuda(0), || Err(CudaProblem::NoDriver)).unwrap_err();
        assert_eq!(error, DeviceError::Unusable(CudaProblem::NoDriver));
        assert_eq!(decide(DeviceChoice::Cpu, || panic!("the CPU needs no CUDA")), Ok(Device::Cpu));
    }

    #[test]
    fn a_missing_or_broken_library_is_named() {
        let folder = std::env::temp_dir().join(format!("empssl-device-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let library = folder.join("libtorch_cuda.so");
        assert_eq!(load(&library), Err(CudaProblem::NoLibrary(library.clone())));
        std::fs::write(&library, b"not a library").unwrap();
        assert!(matches!(load(&library), Err(CudaProblem::NotOpened { .. })));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_present_cuda_device_computes() {
        match open() {
            Err(CudaProblem::NoDriver) => {
                eprintln!("skipped: {}", CudaProblem::NoDriver);
                assert!(make_current(0).is_err());
            }
            Err(problem) => panic!("{problem}"),
            Ok(count) => {
                make_current(count - 1).unwrap();
                assert!(make_current(count).unwrap_err().to_string().contains("there is no CUDA device"));
                let ones = tch::Tensor::ones([64], (tch::Kind::Float, Device::Cuda(0)));
                assert_eq!(ones.sum(tch::Kind::Float).double_value(&[]), 64.0);
                let memory = crate::memory::device_memory(Device::Cuda(0)).unwrap().unwrap();
                assert!(memory.peak >= 256 && memory.total > memory.free, "{memory:?}");
            }
        }
    }
}
