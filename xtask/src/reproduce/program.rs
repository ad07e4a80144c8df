//! The `empssl` that runs are made with: built from the checkout, or the bundle's own; and of what source it is.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use md5::{Digest, Md5};

use crate::failure::{Code, Context, Outcome};
use crate::workspace::{self, Workspace};
use crate::{process, setup};

/// What a figure depends on: the crates, but for what only tests and benches are made of, and the versions of theirs.
const SOURCES: [&str; 6] = [
    "crates",
    "Cargo.toml",
    "Cargo.lock",
    ":(exclude,glob)crates/*/tests/**",
    ":(exclude,glob)crates/*/benches/**",
    ":(exclude,glob)crates/*/examples/**",
];

/// How the program is built: the figures are those of the release build, a check of the chain takes what is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

impl Profile {
    /// Cargo's name of the folder under its target.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// A program that is there to be started.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// As it goes into the reports.
    pub(crate) commit: Option<String>,
    /// A digest of the sources that figures depend on; documentation and tasks are none of them.
    pub(crate) revision: String,
}

impl Program {
    /// The bundle's program, or the checkout's, which is built with the libtorch it needs.
    pub(crate) fn provide(profile: Profile, workspace: &Workspace) -> Outcome<Self> {
        if let Some(bundle) = workspace.bundle() {
            let path = workspace.join("bin/empssl");
            return Ok(Self { path, commit: bundle.commit.clone(), revision: bundle.revision.clone() });
        }
        setup::ensure(workspace)?;
        build(profile, &["empssl-cli"], workspace)?;
        let path = workspace.target().join(profile.folder()).join("empssl");
        let revision = match revision(workspace) {
            Some(revision) => revision,
            None => digest([fs::read(&path).at(Code::Child, "read", &path)?]),
        };
        Ok(Self { path, commit: commit(workspace), revision })
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some(commit) = &self.commit {
            command.env("EMPSSL_COMMIT", commit);
        }
        command
    }
}

/// Builds packages of the checkout; for checks all of it, as the tests do, because cargo would compile dependencies anew
/// for another selection.
pub(crate) fn build(profile: Profile, packages: &[&str], workspace: &Workspace) -> Outcome {
    let mut cargo = Command::new(workspace::cargo());
    cargo.arg("build").current_dir(workspace.root());
    match profile {
        Profile::Dev => cargo.args(["--workspace", "--tests"]),
        Profile::Release => cargo.arg("--release").args(packages.iter().flat_map(|package| ["--package", package])),
    };
    process::run(&mut cargo, Code::Child)
}

fn git(workspace: &Workspace, args: &[&str]) -> Option<String> {
    process::output(Command::new("git").args(args).current_dir(workspace.root())).ok()
}

/// The commit of the checkout, marked where files differ from it; nothing where git cannot tell.
pub(crate) fn commit(workspace: &Workspace) -> Option<String> {
    let head = git(workspace, &["rev-parse", "--verify", "HEAD"])?;
    let clean = git(workspace, &["status", "--porcelain"])?.trim().is_empty();
    Some(format!("{}{}", head.trim(), if clean { "" } else { " with uncommitted changes" }))
}

/// A digest of the sources: git's own of what it holds, and every byte of what it does not; nothing without git.
pub(crate) fn revision(workspace: &Workspace) -> Option<String> {
    let tracked = |args: &[&str]| git(workspace, &[args, &SOURCES].concat());
    let committed =
        git(workspace, &["rev-parse", "--verify", "HEAD"]).and_then(|_| tracked(&["ls-files", "--stage", "--"]))?;
    let mut parts = vec![committed.into_bytes(), tracked(&["diff", "--"])?.into_bytes()];
    let others = tracked(&["ls-files", "--others", "--exclude-standard", "--"])?;
    for name in others.lines() {
        parts.push(name.as_bytes().to_vec());
        parts.push(fs::read(workspace.join(name)).ok()?);
    }
    Some(digest(parts))
}

/// Tells texts apart and resists no attack: 32 hexadecimal digits over the parts and their lengths.
pub(crate) fn digest(parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    let mut hash = Md5::new();
    for part in parts {
        hash.update((part.as_ref().len() as u64).to_le_bytes());
        hash.update(part.as_ref());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_differ_by_content_and_by_where_parts_end() {
        assert_eq!(digest(["ab", "c"]), digest(["ab", "c"]));
        assert_ne!(digest(["ab", "c"]), digest(["a", "bc"]));
        assert_eq!(digest(["ab"]).len(), 32);
    }

    #[test]
    fn the_revision_follows_the_sources_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        assert_eq!(revision(&workspace), None, "there is no git here yet");
        let write = |path: &str, text: &str| fs::write(workspace.join(path), text).unwrap();
        fs::create_dir(workspace.join("crates")).unwrap();
        for path in ["crates/a.rs", "Cargo.toml", "Cargo.lock", "README.md"] {
            write(path, "x");
        }
        let run = |args: &[&str]| git(&workspace, args).unwrap();
        run(&["init", "--quiet"]);
        run(&["add", "."]);
        run(&["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "first"]);
        let first = revision(&workspace).unwrap();
        fs::create_dir_all(workspace.join("crates/c/tests")).unwrap();
        write("README.md", "other");
        write("crates/c/tests/it.rs", "a test");
        assert_eq!(revision(&workspace).as_ref(), Some(&first));
        write("crates/a.rs", "changed");
        let changed = revision(&workspace).unwrap();
        write("crates/b.rs", "new");
        let added = revision(&workspace).unwrap();
        write("crates/b.rs", "newer");
        let all = [first, changed, added, revision(&workspace).unwrap()];
        assert!((0..4).all(|i| all[i + 1..].iter().all(|other| *other != all[i])), "{all:?}");
    }
}
