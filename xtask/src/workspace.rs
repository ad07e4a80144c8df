//! Where things are: in the checkout, or in a bundle that `cargo xtask dist` made of one.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file by which a bundle is known.
pub(crate) const BUNDLE_FILE: &str = "bundle.json";

/// What the task works on.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    bundle: Option<Bundle>,
}

/// Of what a bundle was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bundle {
    pub(crate) version: String,
    /// Where git could tell.
    pub(crate) commit: Option<String>,
    /// Of the sources that figures depend on, as [`crate::reproduce::program::Program`] has it.
    pub(crate) revision: String,
}

impl Workspace {
    /// The bundle this program lies in; else the checkout it was started from: cargo names the manifest folder at run
    /// time, so that a checkout that was moved after the build is found where it is now.
    pub(crate) fn locate() -> Self {
        let program = env::current_exe().and_then(|path| path.canonicalize()).ok();
        let above = program.as_deref().and_then(|path| path.parent()?.parent());
        if let Some(root) = above.filter(|root| root.join(BUNDLE_FILE).is_file()) {
            return Self::at(root);
        }
        let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let manifest = PathBuf::from(manifest);
        Self::at(manifest.parent().unwrap_or(&manifest))
    }

    pub(crate) fn at(root: &Path) -> Self {
        let bundle = fs::read_to_string(root.join(BUNDLE_FILE)).ok();
        Self { root: root.to_path_buf(), bundle: bundle.and_then(|text| serde_json::from_str(&text).ok()) }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// What the bundle was made of; nothing in a checkout.
    pub(crate) fn bundle(&self) -> Option<&Bundle> {
        self.bundle.as_ref()
    }

    /// The task's name as one types it here.
    pub(crate) fn xtask(&self) -> &'static str {
        if self.bundle.is_some() { "./xtask" } else { "cargo xtask" }
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
    fn the_checkout_holds_this_crate_and_is_no_bundle() {
        let workspace = Workspace::locate();
        assert!(workspace.join("xtask/Cargo.toml").is_file());
        assert_eq!((workspace.bundle(), workspace.xtask()), (None, "cargo xtask"));
    }

    #[test]
    fn a_bundle_is_known_by_its_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(BUNDLE_FILE), r#"{"version": "1.0", "commit": null, "revision": "abc"}"#).unwrap();
        let workspace = Workspace::at(folder.path());
        let expected = Bundle { version: "1.0".to_owned(), commit: None, revision: "abc".to_owned() };
        assert_eq!((workspace.bundle(), workspace.xtask()), (Some(&expected), "./xtask"));
    }

    #[test]
    fn paths_are_shown_as_typed_from_here() {
        let here = env::current_dir().unwrap();
        assert_eq!(from_here(&here.join("runs/a")), Path::new("runs/a"));
        assert_eq!(from_here(Path::new("/elsewhere/a")), Path::new("/elsewhere/a"));
    }
}
