//! Where things are in the checkout.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The checkout the task works on.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The checkout this program was started from: cargo names the manifest folder at run time, so that a checkout that
    /// was moved after the build is found where it is now.
    pub(crate) fn locate() -> Self {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let manifest = PathBuf::from(manifest);
        Self::at(manifest.parent().unwrap_or(&manifest))
    }

    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// Cargo's build folder: where the variable says, else `target`.
    pub(crate) fn target(&self) -> PathBuf {
        self.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| OsString::from("target")))
    }
}

/// The path as one would type it in the current folder.
pub(crate) fn from_here(path: &Path) -> PathBuf {
    let here = env::current_dir().ok();
    here.and_then(|here| Some(path.strip_prefix(here).ok()?.to_path_buf())).unwrap_or_else(|| path.to_path_buf())
}

/// The cargo that started this task.
pub(crate) fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_holds_this_crate() {
        assert!(Workspace::locate().join("xtask/Cargo.toml").is_file());
    }

    #[test]
    fn paths_are_shown_as_typed_from_here() {
        let here = env::current_dir().unwrap();
        assert_eq!(from_here(&here.join("runs/a")), Path::new("runs/a"));
        assert_eq!(from_here(Path::new("/elsewhere/a")), Path::new("/elsewhere/a"));
    }
}
