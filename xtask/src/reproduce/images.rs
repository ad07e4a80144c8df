//! Which images a run learns from, where they are, and what to do where they are missing.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use empssl_report::outline::Outline;
use serde::Deserialize;

use super::program::Program;
use crate::failure::{Code, Failure, Outcome};
use crate::process;
use crate::workspace::{self, Workspace};

/// How `empssl` ends when images are missing or wrong.
const BAD_DATA: i32 = 3;

/// The set that needs no files.
pub(crate) const SYNTHETIC: &str = "synthetic";

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

    /// Refuses a place that is not there; where none was given it is the folder `data` beside the recipes.
    pub(crate) fn place(self, workspace: &Workspace) -> Outcome<Self> {
        match &self.dir {
            _ if self.name == SYNTHETIC => Ok(Self { dir: None, ..self }),
            Some(dir) if dir.exists() => Ok(self),
            Some(dir) => Err(Failure::usage(format!("--data {}: there is no such folder", dir.display()))),
            None => Ok(Self { dir: Some(workspace.join("data")), ..self }),
        }
    }

    /// What a run would be, as `empssl recipe --json` says it; a public set that is missing is fetched where that is wanted.
    pub(crate) fn outline(
        &self,
        recipe: &Path,
        changes: &[String],
        program: &Program,
        may_fetch: MayFetch,
        workspace: &Workspace,
    ) -> Outcome<Outline> {
        let mut command = program.command();
        command.arg("recipe").arg(recipe).arg("--json");
        self.add_to(&mut command);
        command.args(changes.iter().flat_map(|change| ["--set", change]));
        let answer = match ask(&mut command)? {
            Err(said) if self.dir == Some(workspace.join("data")) => {
                self.fetch(may_fetch, program, workspace).map_err(|failure| {
                    Failure::new(failure.code, format!("{failure} (`{}` says: {said})", process::shown(&command)))
                })?;
                ask(&mut command)?
            }
            answer => answer,
        };
        let unreadable = |error| Failure::new(Code::Child, format!("`{}`: {error}", process::shown(&command)));
        serde_json::from_str(&answer.map_err(Failure::usage)?).map_err(unreadable)
    }

    /// Downloads a public set into its place, checked, where that was asked for; else says what a user can do.
    pub(crate) fn fetch(&self, may_fetch: MayFetch, program: &Program, workspace: &Workspace) -> Outcome {
        let dir = self.dir.clone().unwrap_or_else(|| workspace.join("data"));
        let run = |args: &[&str]| {
            let mut command = program.command();
            command.arg("data").args(args);
            command
        };
        let text = process::output(&mut run(&["list", "--json"]))?;
        let sets: Vec<Listed> = serde_json::from_str(&text)
            .map_err(|error| Failure::new(Code::Child, format!("`empssl data list --json`: {error}")))?;
        let (name, xtask) = (&self.name, workspace.xtask());
        let place = "say where they are with `--data DIR`";
        let way = match sets.into_iter().find(|set| set.name == *name) {
            Some(set) if !set.urls.is_empty() => {
                if may_fetch.asked(name, &dir) {
                    let dir = workspace::from_here(&dir);
                    return ["fetch", "verify"]
                        .iter()
                        .try_for_each(|verb| process::run(run(&[verb, name, "--data"]).arg(&dir), Code::Child));
                }
                format!("{place}, or let `{xtask} reproduce --dataset {name} --fetch` download and verify them")
            }
            Some(set) if !set.instead_of_fetching.is_empty() => format!("{place} ({})", set.instead_of_fetching),
            _ => place.to_owned(),
        };
        Err(Failure::usage(format!("the images of {name} are read from files, and none were given: {way}")))
    }
}

/// What the program prints; where images are missing or wrong, its sentence.
fn ask(command: &mut Command) -> Outcome<Result<String, String>> {
    let output = command.output().map_err(|error| process::not_started(command, &error))?;
    if output.status.success() {
        return Ok(Ok(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches("error: ").to_owned();
    match output.status.code() {
        Some(BAD_DATA) => Ok(Err(said)),
        _ => Err(Failure::new(Code::Child, format!("`{}`: {said}", process::shown(command)))),
    }
}

/// A set as `empssl data list --json` has it, as far as it is of use here.
#[derive(Deserialize)]
struct Listed {
    name: String,
    /// Of what can be downloaded.
    urls: Vec<String>,
    /// What to do where there is nothing to download.
    instead_of_fetching: String,
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

#[cfg(test)]
mod tests {
    use std::fs;

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
    fn a_place_must_exist_and_is_the_common_folder_where_none_is_given() {
        let workspace = Workspace::at(Path::new("/w"));
        let failure = set("cifar10", Some("/no/such/folder")).place(&workspace).unwrap_err();
        assert_eq!(failure.to_string(), "--data /no/such/folder: there is no such folder");
        assert_eq!(set("synthetic", Some("ignored")).place(&workspace).unwrap().dir, None);
        assert_eq!(set("cifar10", None).place(&workspace).unwrap().dir, Some(workspace.join("data")));
    }

    #[test]
    fn a_set_is_fetched_and_verified_only_where_that_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        let path = folder.path().join("empssl");
        let listed = r#"[{"name": "cifar10", "urls": ["a"], "instead_of_fetching": "", "n_classes": 10},
            {"name": "imagenet100", "urls": [], "instead_of_fetching": "register at image-net.org"}]"#;
        let script = format!(
            "#!/bin/sh\n[ \"$2\" = list ] && {{ echo '{listed}'; exit; }}\necho \"$@\" >> \"$(dirname \"$0\")/seen\"\n"
        );
        process::tests::write_script(&path, &script);
        let program = Program { path, commit: None, revision: String::new() };
        let refused = |name: &str, may_fetch| {
            let failure = set(name, Some("d")).fetch(may_fetch, &program, &workspace).unwrap_err();
            assert_eq!(failure.code, Code::Usage);
            failure.to_string()
        };
        for (name, may_fetch, words) in [
            ("cifar10", MayFetch::No, "`cargo xtask reproduce --dataset cifar10 --fetch`"),
            ("imagenet100", MayFetch::Yes, "image-net.org"),
            ("folder", MayFetch::Yes, "say where they are with `--data DIR`"),
        ] {
            let said = refused(name, may_fetch);
            assert!(said.contains(words) && said.contains("none were given"), "{said}");
        }
        set("cifar10", Some("d")).fetch(MayFetch::Yes, &program, &workspace).unwrap();
        let seen = fs::read_to_string(folder.path().join("seen")).unwrap();
        assert_eq!(seen, "data fetch cifar10 --data d\ndata verify cifar10 --data d\n");
    }

    #[test]
    fn only_yes_is_yes() {
        assert_eq!([" Yes\n", "y", "", "n\n"].map(is_yes), [true, true, false, false]);
    }
}
