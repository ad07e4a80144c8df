//! Which images a run learns from, where they are, and what to do where they are missing.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use super::program::Program;
use crate::failure::{Code, Failure, Outcome};
use crate::process;
use crate::workspace::{self, Workspace};

/// The set that needs no files.
pub(crate) const SYNTHETIC: &str = "synthetic";

/// Sets that `empssl data fetch` brings.
const PUBLIC: [&str; 6] = ["cifar10", "cifar100", "tiny-imagenet", "mnist", "fashion-mnist", "stl10"];

/// Endings of files in which a set may be.
const ARCHIVES: [&str; 5] = ["gz", "zip", "tar", "tgz", "bin"];

/// What an image that cannot be decoded means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnBadImage {
    /// Stop and name the file
    Fail,
    /// Leave it out; the report counts and names those left out
    Skip,
}

/// A set of images as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageSet {
    pub(crate) name: String,
    /// Where it is; the synthetic set is nowhere.
    pub(crate) dir: Option<PathBuf>,
    pub(crate) partial: bool,
    pub(crate) on_bad_image: Option<OnBadImage>,
}

impl ImageSet {
    /// The flags by which `empssl` opens it.
    pub(crate) fn add_to(&self, command: &mut Command) {
        command.args(["--dataset", &self.name]);
        self.add_place(command);
        if self.partial {
            command.arg("--partial");
        }
        if let Some(choice) = self.on_bad_image {
            command.args(["--on-bad-image", if choice == OnBadImage::Fail { "fail" } else { "skip" }]);
        }
    }

    /// Where it is.
    pub(crate) fn add_place(&self, command: &mut Command) {
        if let Some(dir) = &self.dir {
            command.arg("--data").arg(dir);
        }
    }

    /// Refuses a place that is not there, and finds one where none was given: the folder `data` beside the recipes,
    /// if anything lies there or may be fetched.
    pub(crate) fn place(self, may_fetch: MayFetch, workspace: &Workspace) -> Outcome<Self> {
        match &self.dir {
            _ if self.name == SYNTHETIC => Ok(Self { dir: None, ..self }),
            Some(dir) if dir.exists() => Ok(self),
            Some(dir) => Err(Failure::usage(format!("--data {}: there is no such folder", dir.display()))),
            None => {
                let dir = workspace.join("data");
                let possible = holds_images(&dir) || (is_public(&self.name) && may_fetch != MayFetch::No);
                if possible { Ok(Self { dir: Some(dir), ..self }) } else { Err(self.missing(workspace)) }
            }
        }
    }

    /// What a user can do about a set that is not there.
    fn missing(&self, workspace: &Workspace) -> Failure {
        let (name, xtask) = (&self.name, workspace.xtask());
        let way = match name.as_str() {
            _ if is_public(name) => format!(
                "say where they are with `--data DIR`, or let `{xtask} reproduce --dataset {name} --fetch` download and \
                 verify them"
            ),
            "imagenet100" => {
                "ImageNet has no public address: register at image-net.org, download the ILSVRC 2012 images, \
                 and point `--data DIR` at their tree, of which the hundred classes are taken (data/imagenet100.md)"
                    .to_owned()
            }
            _ => "say where they are with `--data DIR`".to_owned(),
        };
        Failure::usage(format!("the images of {name} are read from files, and none were given: {way}"))
    }

    /// Downloads a public set into its place, checked, where it is not there yet.
    pub(crate) fn fetch(&self, may_fetch: MayFetch, program: &Program, workspace: &Workspace) -> Outcome {
        let Some(dir) = self.dir.as_deref().filter(|_| is_public(&self.name)) else {
            return Err(self.missing(workspace));
        };
        if !may_fetch.asked(&self.name, dir) {
            return Err(self.missing(workspace));
        }
        let act = |verb: &str| {
            let mut command = program.command();
            command.args(["data", verb, &self.name, "--data"]).arg(workspace::from_here(dir));
            process::run(&mut command, Code::Child)
        };
        act("fetch")?;
        act("verify")
    }
}

/// Whether a missing set may be downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MayFetch {
    /// `--fetch` was given.
    Yes,
    /// A person is there to be asked.
    Ask,
    No,
}

impl MayFetch {
    pub(crate) fn new(flag: bool) -> Self {
        match flag {
            true => Self::Yes,
            false if io::stdin().is_terminal() && io::stderr().is_terminal() => Self::Ask,
            false => Self::No,
        }
    }

    fn asked(self, name: &str, dir: &Path) -> bool {
        if self == Self::Ask {
            eprint!("the images of {name} are not in {}: download and verify them? [y/N] ", dir.display());
            let _ = io::stderr().flush();
            let mut answer = String::new();
            return io::stdin().lock().read_line(&mut answer).is_ok() && is_yes(&answer);
        }
        self == Self::Yes
    }
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

fn is_public(name: &str) -> bool {
    PUBLIC.contains(&name)
}

/// Whether a folder holds anything but the committed notes.
fn holds_images(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        path.is_dir() || path.extension().is_some_and(|ending| ARCHIVES.iter().any(|archive| ending == *archive))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, dir: Option<&str>) -> ImageSet {
        ImageSet { name: name.to_owned(), dir: dir.map(PathBuf::from), partial: false, on_bad_image: None }
    }

    #[test]
    fn flags_of_a_set() {
        let mut command = Command::new("empssl");
        let full = ImageSet { partial: true, on_bad_image: Some(OnBadImage::Skip), ..set("cifar10", Some("d")) };
        full.add_to(&mut command);
        assert_eq!(process::shown(&command), "empssl --dataset cifar10 --data d --partial --on-bad-image skip");
    }

    #[test]
    fn a_real_set_needs_a_place_that_exists_or_may_be_fetched() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        let place = |set: ImageSet, may_fetch| set.place(may_fetch, &workspace);
        let refusal = |set: ImageSet| place(set, MayFetch::No).unwrap_err();
        assert_eq!(
            refusal(set("cifar10", Some("/no/such/folder"))).to_string(),
            "--data /no/such/folder: there is no such folder"
        );
        for (name, words) in [
            ("cifar10", "`cargo xtask reproduce --dataset cifar10 --fetch`"),
            ("imagenet100", "image-net.org"),
            ("folder", "say where they are with `--data DIR`"),
        ] {
            let failure = refusal(set(name, None));
            assert!(failure.to_string().contains(words), "{failure}");
            assert_eq!(failure.code, Code::Usage);
        }
        assert_eq!(place(set("synthetic", Some("ignored")), MayFetch::No).unwrap().dir, None);
        let fetched = place(set("cifar10", None), MayFetch::Yes).unwrap();
        assert_eq!(fetched.dir, Some(workspace.join("data")));
        assert!(place(set("imagenet100", None), MayFetch::Yes).is_err());
        fs::create_dir_all(workspace.join("data/cifar-10-batches-bin")).unwrap();
        assert!(place(set("cifar10", None), MayFetch::No).is_ok());
    }

    #[test]
    fn a_set_is_fetched_and_verified_only_where_that_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        let path = folder.path().join("empssl");
        process::write_script(&path, "#!/bin/sh\necho \"$@\" >> \"$(dirname \"$0\")/seen\"\n");
        let program = Program { path, commit: None, revision: String::new() };
        let cifar = set("cifar10", Some("d"));
        assert!(cifar.fetch(MayFetch::No, &program, &workspace).unwrap_err().to_string().contains("--fetch"));
        cifar.fetch(MayFetch::Yes, &program, &workspace).unwrap();
        let seen = fs::read_to_string(folder.path().join("seen")).unwrap();
        assert_eq!(seen, "data fetch cifar10 --data d\ndata verify cifar10 --data d\n");
        assert!(set("imagenet100", Some("d")).fetch(MayFetch::Yes, &program, &workspace).is_err());
    }

    #[test]
    fn only_yes_is_yes() {
        assert_eq!([" Yes\n", "y", "", "n\n"].map(is_yes), [true, true, false, false]);
    }
}
