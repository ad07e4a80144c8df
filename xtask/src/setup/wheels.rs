//! What is installed: the exact wheels of each set, and which of their libraries need CUDA.

use std::fmt;

/// The libtorch that tch 0.24 speaks; the wheel itself is asked, since nothing else checks it.
pub(crate) const LIBTORCH_VERSION: &str = "2.11.0";

/// What libtorch needs on a machine without a GPU: its CPU library names the CUDA run time and CUPTI as needed.
const SMALL: [&str; 3] = ["torch==2.11.0", "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"];

/// What the CUDA libraries need besides: torch 2.11.0's own requirements that are shared libraries, at the versions it
/// and its cuda-toolkit 13.0.2 pin. Its Python packages and Triton serve the Python compiler alone.
const CUDA: [&str; 13] = [
    "nvidia-cublas==13.1.0.3",
    "nvidia-cuda-nvrtc==13.0.88",
    "nvidia-cudnn-cu13==9.19.0.56",
    "nvidia-cufft==12.0.0.61",
    "nvidia-cufile==1.15.1.6",
    "nvidia-curand==10.4.0.35",
    "nvidia-cusolver==12.0.4.66",
    "nvidia-cusparse==12.6.3.3",
    "nvidia-cusparselt-cu13==0.8.0",
    "nvidia-nccl-cu13==2.28.9",
    "nvidia-nvjitlink==13.0.88",
    "nvidia-nvshmem-cu13==3.4.5",
    "nvidia-nvtx==13.0.85",
];

/// Whose headers the object that names NCCL is compiled with: NCCL and the CUDA run time as libtorch runs them, and what
/// their headers and libtorch's include in turn.
pub(crate) const NCCL_HEADERS: [&str; 4] = [
    "nvidia-nccl-cu13==2.28.9",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-cccl==13.0.85",
];

/// What pip downloads for them, for the reader, and the free disk that it takes, in bytes; the headers that stay are a
/// tenth of it.
pub(crate) const NCCL_DOWNLOAD: &str = "about 0.2 GB";
pub(crate) const NCCL_DISK_NEEDED: u64 = 700_000_000;

/// Which wheels are wanted or present; the larger contains the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Set {
    /// libtorch on the CPU.
    Small,
    /// libtorch on the CPU and on NVIDIA GPUs.
    Full,
}

impl Set {
    /// The wheels to install for `self` where those of `present` are there already.
    pub(crate) fn wheels_beyond(self, present: Option<Self>) -> Vec<&'static str> {
        let small = SMALL.iter().filter(|_| present.is_none());
        let cuda = CUDA.iter().filter(|_| self == Self::Full && present != Some(Self::Full));
        small.chain(cuda).copied().collect()
    }

    /// Free disk that installing needs, in bytes: the wheels, their unpacked content and pip's cache of the downloads.
    pub(crate) fn disk_needed(self) -> u64 {
        match self {
            Self::Small => 2_500_000_000,
            Self::Full => 8_000_000_000,
        }
    }

    /// What pip downloads, for the reader.
    pub(crate) fn download(self) -> &'static str {
        match self {
            Self::Small => "about 0.55 GB",
            Self::Full => "about 2.5 GB",
        }
    }

    /// The text of the stamp: written last, so that its presence means a finished folder of exactly these wheels.
    pub(crate) fn stamp(self) -> String {
        format!("{self}\n{}\n", self.wheels_beyond(None).join("\n"))
    }

    pub(crate) fn from_stamp(text: &str) -> Option<Self> {
        [Self::Small, Self::Full].into_iter().find(|set| set.stamp() == text)
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Small => "CPU set",
            Self::Full => "CUDA set",
        })
    }
}

/// Splits `name==version`.
pub(crate) fn name_and_version(wheel: &str) -> (&str, &str) {
    wheel.split_once("==").unwrap_or((wheel, ""))
}

/// Whether this library of the torch wheel needs CUDA: where it lies beside libtorch, the linker takes it in, and the
/// programs would not start on a machine without a GPU.
pub(crate) fn needs_cuda(file_name: &str) -> bool {
    let one_of_many = file_name.starts_with("libtorch_cuda") && file_name.contains(".so");
    one_of_many || ["libc10_cuda.so", "libtorch_nvshmem.so", "libcaffe2_nvrtc.so"].contains(&file_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_is_pinned_to_one_version() {
        for wheel in Set::Full.wheels_beyond(None).into_iter().chain(NCCL_HEADERS) {
            let (name, version) = name_and_version(wheel);
            assert!(!name.is_empty() && version.starts_with(|c: char| c.is_ascii_digit()), "{wheel}");
            assert!(!version.contains('*'), "{wheel}");
        }
    }

    /// Compiled with the headers of the very versions that run.
    #[test]
    fn headers_and_libraries_of_one_name_are_of_one_version() {
        let run = Set::Full.wheels_beyond(None);
        for wheel in NCCL_HEADERS {
            let (name, _) = name_and_version(wheel);
            let other = run.iter().find(|other| name_and_version(other).0 == name);
            assert!(other.is_none_or(|other| *other == wheel), "{wheel}, {other:?}");
        }
        assert!(run.contains(&NCCL_HEADERS[0]) && run.contains(&NCCL_HEADERS[1]));
    }

    #[test]
    fn the_full_set_adds_only_what_the_small_one_lacks() {
        let added = Set::Full.wheels_beyond(Some(Set::Small));
        assert_eq!(added, CUDA);
        assert_eq!(Set::Full.wheels_beyond(None).len(), SMALL.len() + CUDA.len());
        assert!(Set::Small.wheels_beyond(Some(Set::Full)).is_empty());
        assert!(Set::Full.wheels_beyond(Some(Set::Full)).is_empty());
    }

    #[test]
    fn a_stamp_tells_its_set_and_another_version_is_no_stamp() {
        assert_eq!(Set::from_stamp(&Set::Small.stamp()), Some(Set::Small));
        assert_eq!(Set::from_stamp(&Set::Full.stamp()), Some(Set::Full));
        assert_eq!(Set::from_stamp(&Set::Full.stamp().replace("2.11.0", "2.10.0")), None);
        assert_eq!(Set::from_stamp(""), None);
    }

    #[test]
    fn the_libraries_that_need_cuda() {
        for name in [
            "libtorch_cuda.so",
            "libtorch_cuda_linalg.so",
            "libc10_cuda.so",
            "libtorch_nvshmem.so",
            "libcaffe2_nvrtc.so",
        ] {
            assert!(needs_cuda(name), "{name}");
        }
        for name in ["libtorch.so", "libtorch_cpu.so", "libc10.so", "libtorch_global_deps.so", "libtorch_cuda.txt"] {
            assert!(!needs_cuda(name), "{name}");
        }
    }
}
