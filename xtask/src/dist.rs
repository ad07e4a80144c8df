//! `cargo xtask dist`: one archive for a machine without Rust and without a network.
//!
//! It holds the stripped programs, the object by which several GPUs train together, the recipes and a launcher that finds
//! a libtorch on the machine.

use std::env::consts::{ARCH, OS};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Code, Context, Failure, Outcome};
use crate::reproduce::program::{Profile, build, commit, revision};
use crate::setup::{self, LIBTORCH_VERSION, nccl};
use crate::workspace::{BUNDLE_FILE, Bundle, Workspace};
use crate::{process, report, workspace};

/// Starts a program with a libtorch; `VERSION` stands for the one that fits.
const LAUNCHER: &str = include_str!("dist/launcher.sh");

/// The programs, each with a launcher of its name.
const PROGRAMS: [&str; 2] = ["empssl", "xtask"];

/// What else goes along, file by file or folder by folder.
const ALONG: [&str; 5] = ["configs", "README.md", "docs", "LICENSE-MIT", "LICENSE-APACHE"];

/// Where images lie too, so that only its notes go along.
const NOTES: &str = "data";

/// Most bytes of the archive.
const MOST_BYTES: u64 = 15 << 20;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder for the archive [default: target/dist]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the task.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Outcome {
    let out = args.out.clone().unwrap_or_else(|| workspace.target().join("dist"));
    let archive = make(&out, Profile::Release, workspace)?;
    let size = fs::metadata(&archive).at(Code::Check, "read", &archive)?.len();
    println!("{} ({:.1} MiB)", workspace::from_here(&archive).display(), size as f64 / f64::from(1 << 20));
    if size > MOST_BYTES {
        return Err(Failure::check(format!("the archive has {size} bytes, more than {MOST_BYTES}")));
    }
    Ok(())
}

/// A check that needs no release build: the bundle of the dev programs, unpacked elsewhere, runs from images to a report
/// with nothing in its environment but a libtorch.
pub(crate) fn check(workspace: &Workspace) -> Outcome {
    let folder = workspace.target().join("ci-dist");
    let _ = fs::remove_dir_all(&folder);
    let archive = make(&folder, Profile::Dev, workspace)?;
    let elsewhere = folder.join("else where");
    fs::create_dir_all(&elsewhere).at(Code::Check, "create the folder", &elsewhere)?;
    process::run(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&elsewhere), Code::Check)?;
    let root = elsewhere.join(bundle_name());
    // A libtorch as pip leaves it is what a python3 would find, so each of the two ways in is taken once.
    let libtorch = setup::libtorch(workspace);
    let packages = libtorch.parent().unwrap_or(&libtorch).to_path_buf();
    let bare = |name: &str, variable: &str, value: &Path| {
        let mut command = Command::new(root.join(name));
        command.env_clear().env(variable, value).current_dir(&elsewhere);
        // Only for the shell's own tools and, on the second way, for python3.
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    };
    process::run(bare("empssl", "PYTHONPATH", &packages).args(["doctor", "--device", "cpu"]), Code::Check)?;
    let mut sweep = bare("xtask", "LIBTORCH", &libtorch);
    sweep.args(["reproduce", "--recipe", "smoke", "--seeds", "1", "--device", "cpu", "--out", "runs"]);
    process::run(&mut sweep, Code::Check)?;
    let report = elsewhere.join("runs/sweeps/smoke-synthetic/report.html");
    match report.is_file() {
        true => Ok(()),
        false => Err(Failure::check(format!("the bundle left no {}", report.display()))),
    }
}

fn bundle_name() -> String {
    format!("empssl-{}-{ARCH}-{OS}", env!("CARGO_PKG_VERSION"))
}

/// Builds the programs and packs them.
fn make(out: &Path, profile: Profile, workspace: &Workspace) -> Outcome<PathBuf> {
    let nccl = setup::nccl_object(workspace)?;
    build(profile, &["empssl-cli", "xtask"], workspace)?;
    let name = bundle_name();
    let root = out.join(&name);
    let _ = fs::remove_dir_all(&root);
    fill(&root, &workspace.target().join(profile.folder()), &nccl, workspace)?;
    let archive = out.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args(["--create", "--gzip", "--owner=0", "--group=0", "--sort=name", "--file"]).arg(&archive);
    process::run(tar.arg("-C").arg(out).arg(&name), Code::Child)?;
    Ok(archive)
}

/// Lays out the bundle's folder.
fn fill(root: &Path, built: &Path, nccl: &Path, workspace: &Workspace) -> Outcome {
    let bin = root.join("bin");
    fs::create_dir_all(&bin).at(Code::Child, "create the folder", &bin)?;
    let launcher = LAUNCHER.replace("VERSION", LIBTORCH_VERSION);
    for program in PROGRAMS {
        let (from, to) = (built.join(program), bin.join(program));
        fs::copy(&from, &to).at(Code::Child, "copy", &from)?;
        let path = root.join(program);
        fs::write(&path, &launcher).at(Code::Child, "write", &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).at(Code::Child, "make a program of", &path)?;
    }
    let (lib, notes) = (root.join("lib"), root.join(NOTES));
    for folder in [&lib, &notes] {
        fs::create_dir_all(folder).at(Code::Child, "create the folder", folder)?;
    }
    // Where the programs look for it.
    fs::copy(nccl, lib.join(nccl::NAME)).at(Code::Child, "copy", nccl)?;
    copy(ALONG.map(|name| workspace.join(name)), root)?;
    // `--fetch` puts a set beside them, as in the checkout.
    let images = workspace.join(NOTES);
    let beside = fs::read_dir(&images).at(Code::Child, "read", &images)?.flatten().map(|entry| entry.path());
    copy(beside.filter(|path| path.extension().is_some_and(|ending| ending == "md")), &notes)?;
    let (commit, version) = (commit(workspace), env!("CARGO_PKG_VERSION").to_owned());
    // Without git the version is all that is known.
    let revision = revision(workspace).unwrap_or_else(|| version.clone());
    report::write_json(&root.join(BUNDLE_FILE), &Bundle { version, commit, revision })
}

/// Copies files and folders into a folder.
fn copy(from: impl IntoIterator<Item = PathBuf>, into: &Path) -> Outcome {
    process::output(Command::new("cp").arg("-R").args(from).arg(into)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bundle whose programs say by what libraries they were started.
    fn bundle() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let built = folder.path().join("built");
        fs::create_dir(&built).unwrap();
        for program in PROGRAMS {
            let script = format!("#!/bin/sh\necho \"{program} $LD_LIBRARY_PATH [$*]\"\n");
            process::tests::write_script(&built.join(program), &script);
        }
        let root = folder.path().join("a bundle");
        let nccl = built.join("made elsewhere.so");
        fs::write(&nccl, "NCCL").unwrap();
        fill(&root, &built, &nccl, &Workspace::locate()).unwrap();
        (folder, root)
    }

    fn torch(folder: &Path, version: &str) -> PathBuf {
        let torch = folder.join(format!("site {version}/torch"));
        fs::create_dir_all(torch.join("lib")).unwrap();
        fs::create_dir_all(torch.join("../nvidia/cudnn/lib")).unwrap();
        fs::write(torch.join("lib/libtorch_cpu.so"), "").unwrap();
        fs::write(torch.join("version.py"), format!("__all__ = []\n__version__ = '{version}'\n")).unwrap();
        fs::write(torch.join("__init__.py"), "raise SystemExit('imported')\n").unwrap();
        torch
    }

    fn start(program: &Path, envs: &[(&str, &Path)]) -> (Option<i32>, String) {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).args(["a b", "c"]);
        command.envs(envs.iter().copied());
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    #[test]
    fn the_launcher_finds_libtorch_by_the_variable_and_by_python() {
        let (folder, root) = bundle();
        let torch = torch(folder.path(), "2.11.0+cu130");
        for envs in [[("LIBTORCH", torch.as_path())], [("PYTHONPATH", torch.parent().unwrap())]] {
            let (code, said) = start(&root.join("xtask"), &envs);
            let (lib, nvidia) = (torch.join("lib"), torch.join("../nvidia/cudnn/lib"));
            let expected = format!("xtask {}:{} [a b c]\n", lib.display(), nvidia.display());
            assert_eq!((code, said), (Some(0), expected));
        }
        let link = folder.path().join("empssl");
        std::os::unix::fs::symlink(root.join("empssl"), &link).unwrap();
        let (code, said) = start(&link, &[("LIBTORCH", &torch)]);
        assert!(code == Some(0) && said.starts_with("empssl "), "{said}");
    }

    #[test]
    fn the_launcher_says_what_is_missing() {
        let (folder, root) = bundle();
        let old = torch(folder.path(), "2.10.0");
        let refusal = |envs: &[(&str, &Path)]| {
            let (code, said) = start(&root.join("empssl"), envs);
            assert_eq!(code, Some(3), "{said}");
            said
        };
        let said = refusal(&[("LIBTORCH", &old)]);
        assert!(
            said.contains("is libtorch 2.10.0, but 2.11.0 is needed") && said.contains("pip install torch==2.11.0")
        );
        assert!(refusal(&[("LIBTORCH", folder.path())]).contains("holds no lib/libtorch_cpu.so"));
        // A folder of shell tools alone: no python3 there.
        let tools = folder.path().join("tools");
        fs::create_dir(&tools).unwrap();
        for tool in ["sh", "dirname", "basename", "sed", "cat", "readlink"] {
            let found =
                ["/bin", "/usr/bin"].map(|bin| Path::new(bin).join(tool)).into_iter().find(|path| path.exists());
            std::os::unix::fs::symlink(found.unwrap(), tools.join(tool)).unwrap();
        }
        assert!(refusal(&[("PATH", &tools)]).contains("LIBTORCH is not set and python3 has no torch package"));
    }

    #[test]
    fn a_bundle_holds_recipes_and_says_of_what_it_is_made() {
        let (_folder, root) = bundle();
        for name in [
            "configs/cifar10/one-epoch.toml",
            "LICENSE-MIT",
            "bin/empssl",
            "lib/libempssl_nccl.so",
            "docs/recipes.md",
            "data/imagenet100.md",
        ] {
            assert!(root.join(name).exists(), "{name} is missing");
        }
        let ending = |entry: fs::DirEntry| entry.path().extension().map(std::ffi::OsStr::to_owned);
        let endings = fs::read_dir(root.join(NOTES)).unwrap().map(|entry| ending(entry.unwrap()).unwrap());
        assert!(endings.into_iter().all(|ending| ending == "md"), "images stay where they are");
        let workspace = Workspace::at(&root);
        assert_eq!(workspace.bundle().map(|bundle| bundle.version.as_str()), Some(env!("CARGO_PKG_VERSION")));
    }
}
