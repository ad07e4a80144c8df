//! Which libtorch this program was built for, and which one it is running on.

use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};

use super::take_text;

unsafe extern "C" {
    fn empssl_libtorch_version() -> *const c_char;
    fn empssl_libtorch_path() -> *mut c_char;
}

/// The version whose headers this program was compiled with, as `2.11.0`.
pub fn built_for() -> String {
    // SAFETY: returns a string constant of the shim.
    unsafe { CStr::from_ptr(empssl_libtorch_version()) }.to_string_lossy().into_owned()
}

/// The file that libtorch was loaded from.
pub fn library_path() -> Option<PathBuf> {
    // SAFETY: takes no argument; the text is taken over.
    take_text(unsafe { empssl_libtorch_path() }).map(PathBuf::from)
}

/// The version of the libtorch that is running, with its build (`2.11.0+cu130`), as the files beside it tell: the
/// library itself carries no version, so nothing else would notice a wrong one.
pub fn running() -> Option<String> {
    let home = library_path()?.parent()?.parent()?.to_path_buf();
    version_in(&home)
}

/// Whether the running libtorch is of the version this program was built for; `None` when it does not tell.
pub fn matches() -> Option<bool> {
    running().map(|running| running.split('+').next() == Some(built_for().as_str()))
}

fn version_in(home: &Path) -> Option<String> {
    // A libtorch archive has `build-version`, a Python wheel `version.py`.
    if let Ok(text) = std::fs::read_to_string(home.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    let text = std::fs::read_to_string(home.join("version.py")).ok()?;
    let line = text.lines().find(|line| line.starts_with("__version__"))?;
    line.split(['\'', '"']).nth(1).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_libtorch_is_the_one_built_for() {
        assert_eq!(matches(), Some(true), "built for {}, running {:?}", built_for(), running());
        assert!(library_path().is_some_and(|path| path.ends_with("libtorch_cpu.so")));
    }

    #[test]
    fn both_kinds_of_version_file_are_read() {
        let home = std::env::temp_dir().join(format!("empssl-version-{}", std::process::id()));
        std::fs::create_dir_all(&home).unwrap();
        assert_eq!(version_in(&home), None);
        std::fs::write(home.join("version.py"), "from typing import Optional\n__version__ = '1.2.3+cpu'\n").unwrap();
        assert_eq!(version_in(&home).as_deref(), Some("1.2.3+cpu"));
        std::fs::write(home.join("build-version"), "1.2.4+cpu\n").unwrap();
        assert_eq!(version_in(&home).as_deref(), Some("1.2.4+cpu"));
        std::fs::remove_dir_all(&home).unwrap();
    }
}
