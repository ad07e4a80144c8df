//! `cargo xtask setup`: provides libtorch without root and without any variable set by hand.
//!
//! A `LIBTORCH` that the user set wins; else the git-ignored `.libtorch/` of the checkout is filled with PyTorch's wheels.
//! The folder is made beside the final place and moved there, and a stamp is written last: whatever was killed half-way is
//! recognised and made again, and what is whole is never made twice.

mod disk;
mod installed;
pub(crate) mod nccl;
mod pip;
mod wheels;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use installed::Folder;
use nccl::Object;
use pip::Pip;
pub(crate) use wheels::LIBTORCH_VERSION;
use wheels::Set;

use crate::failure::{Code, Context, Failure, Outcome};
use crate::workspace::Workspace;

/// Where pip works until everything is there.
const PARTIAL: &str = ".partial";

/// Held while the folder changes, so that two setups at once make it once.
const LOCK: &str = ".lock";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install the full CUDA set even if no NVIDIA driver is present on this machine
    #[arg(long)]
    cuda: bool,
    /// Compile the object by which several GPUs train together, which needs no GPU and no CUDA on this machine
    #[arg(long)]
    nccl: bool,
}

/// Runs the task and says what is there.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Outcome {
    let setup = Setup::of(workspace);
    let found = setup.provide(args.cuda)?;
    println!("libtorch {LIBTORCH_VERSION} is ready: {}", found.describe(workspace));
    if args.nccl {
        println!("NCCL is ready: {}", setup.object(&found, workspace.root()).provide()?.display());
    }
    Ok(())
}

/// What every task that needs libtorch does first: nothing at all once it is there.
pub(crate) fn ensure(workspace: &Workspace) -> Outcome {
    Setup::of(workspace).provide(false).map(drop)
}

/// The object by which several GPUs train together, made if it is not there.
pub(crate) fn nccl_object(workspace: &Workspace) -> Outcome<PathBuf> {
    let setup = Setup::of(workspace);
    let found = setup.provide(false)?;
    setup.object(&found, workspace.root()).provide()
}

/// Whether `LIBTORCH` was set by the user rather than by cargo's configuration.
pub(crate) fn is_users(workspace: &Workspace) -> bool {
    Setup::of(workspace).users_libtorch().is_some()
}

/// The folder of the libtorch that programs of this checkout are built with.
pub(crate) fn libtorch(workspace: &Workspace) -> PathBuf {
    let setup = Setup::of(workspace);
    setup.users_libtorch().map_or_else(|| setup.folder.torch(), Path::to_path_buf)
}

/// Whether an NVIDIA driver is present, by the signs by which `empssl` decides that there is a GPU to use.
pub(crate) fn has_driver() -> bool {
    ["/dev/nvidiactl", "/dev/nvidia0", "/usr/lib/wsl/lib/libcuda.so.1"].iter().any(|path| Path::new(path).exists())
}

/// Which libtorch the build will find.
#[derive(Debug, PartialEq)]
enum Found {
    /// The user's own, by `LIBTORCH`.
    Users(PathBuf),
    /// The checkout's.
    Ours(Set),
}

impl Found {
    fn describe(&self, workspace: &Workspace) -> String {
        match self {
            Self::Users(path) => format!("{} (by LIBTORCH)", path.display()),
            Self::Ours(set) => format!("the {set} in {}", workspace.join(".libtorch").display()),
        }
    }
}

/// Everything the task depends on, so that tests can stand in for the machine.
struct Setup {
    folder: Folder,
    libtorch: Option<PathBuf>,
    python: OsString,
    compiler: OsString,
    platform: (&'static str, &'static str),
    has_driver: bool,
    free_bytes: fn(&Path) -> Option<u64>,
}

impl Setup {
    fn of(workspace: &Workspace) -> Self {
        Self {
            folder: Folder::new(workspace.join(".libtorch")),
            libtorch: env::var_os("LIBTORCH").map(PathBuf::from),
            python: OsString::from("python3"),
            compiler: env::var_os("CXX").filter(|name| !name.is_empty()).unwrap_or_else(|| OsString::from("c++")),
            platform: (env::consts::OS, env::consts::ARCH),
            has_driver: has_driver(),
            free_bytes: disk::free_bytes,
        }
    }

    fn provide(&self, cuda: bool) -> Outcome<Found> {
        self.check_compiler()?;
        if let Some(users) = self.users_libtorch() {
            return match installed::check_version(users) {
                Ok(()) => Ok(Found::Users(users.to_path_buf())),
                Err(failure) => Err(Failure::setup(format!(
                    "{failure}; LIBTORCH points there, so unset it to let setup fetch the right one, or point it elsewhere"
                ))),
            };
        }
        let wanted = if cuda || self.has_driver { Set::Full } else { Set::Small };
        match self.folder.stamped() {
            Some(present) if present >= wanted => Ok(Found::Ours(present)),
            _ => self.complete(wanted).map(Found::Ours),
        }
    }

    /// What speaks NCCL, compiled with the headers of the libtorch that was found.
    fn object(&self, found: &Found, checkout: &Path) -> Object<'_> {
        let torch = match found {
            Found::Users(path) => path.clone(),
            Found::Ours(_) => self.folder.torch(),
        };
        Object::new(self, torch, checkout)
    }

    /// `LIBTORCH` where it is the user's: cargo's configuration sets it to the checkout's own folder.
    fn users_libtorch(&self) -> Option<&Path> {
        let set = self.libtorch.as_deref().filter(|path| !path.as_os_str().is_empty())?;
        let ours = self.folder.torch();
        let same = set == ours || matches!((set.canonicalize(), ours.canonicalize()), (Ok(a), Ok(b)) if a == b);
        (!same).then_some(set)
    }

    fn complete(&self, wanted: Set) -> Outcome<Set> {
        self.check_platform()?;
        let root = self.folder.root();
        fs::create_dir_all(root).at(Code::Setup, "create the folder", root)?;
        let _held = self.lock()?;
        // Another setup may have finished while we waited, and a folder made by hand may be whole.
        let present = self.folder.stamped().or_else(|| self.adopt());
        match present {
            Some(present) if present >= wanted => Ok(present),
            _ => self.install(wanted, present),
        }
    }

    /// Everything that links libtorch compiles C++ first, and would say so in many lines.
    fn check_compiler(&self) -> Outcome {
        let name = self.compiler.to_string_lossy();
        let program = name.split_whitespace().next().unwrap_or("c++");
        match Command::new(program).arg("--version").output() {
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::setup(format!(
                "the C++ compiler `{program}` was not found, and the bindings to libtorch need one: install it (on Debian \
                 and Ubuntu: `apt-get install g++`), or set CXX to yours"
            ))),
        }
    }

    fn check_platform(&self) -> Outcome {
        match self.platform {
            ("linux", "x86_64" | "aarch64") => Ok(()),
            (os, arch) => Err(Failure::setup(format!(
                "setup provides libtorch for Linux on x86_64 and aarch64, not for {os} on {arch}: install libtorch \
                 {LIBTORCH_VERSION} yourself and set LIBTORCH to its folder"
            ))),
        }
    }

    /// The lock is the system's, so it ends with this process however that ends.
    fn lock(&self) -> Outcome<File> {
        let path = self.folder.root().join(LOCK);
        let file = File::create(&path).at(Code::Setup, "create", &path)?;
        if file.try_lock().is_err() {
            eprintln!("another setup is at work; waiting for it");
            file.lock().at(Code::Setup, "lock", &path)?;
        }
        Ok(file)
    }

    /// Stamps a folder without a stamp in which every file of a set is in its place and of its size.
    fn adopt(&self) -> Option<Set> {
        let set = self.folder.whole_set()?;
        self.folder.place_cuda(set).and_then(|()| self.folder.write_stamp(set)).ok()?;
        Some(set)
    }

    fn install(&self, wanted: Set, present: Option<Set>) -> Outcome<Set> {
        let start = Instant::now();
        let pip = Pip::find(&self.python)?;
        let root = self.folder.root();
        let partial = root.join(PARTIAL);
        remove(&partial)?;
        disk::check((self.free_bytes)(root), wanted.disk_needed(), root)?;
        eprintln!("installing the {wanted} of libtorch {LIBTORCH_VERSION} ({} to download)", wanted.download());
        let (fresh, temporary) = (partial.join("fresh"), partial.join("tmp"));
        fs::create_dir_all(&temporary).at(Code::Setup, "create the folder", &temporary)?;
        pip.install(&wanted.wheels_beyond(present), &fresh, &temporary)?;
        self.move_in(&fresh, wanted, present)?;
        remove(&partial)?;
        eprintln!("installed in {:.0} s", start.elapsed().as_secs_f64());
        Ok(wanted)
    }

    /// Puts what pip made in its place. Whoever is killed in between leaves no stamp, so the next setup looks closely.
    fn move_in(&self, fresh: &Path, wanted: Set, present: Option<Set>) -> Outcome {
        if present.is_none() {
            installed::check_version(&fresh.join("torch"))?;
            self.clear()?;
        }
        self.folder.remove_stamp();
        self.folder.take_in(fresh)?;
        self.folder.place_cuda(wanted)?;
        if self.folder.whole_set() < Some(wanted) {
            return Err(Failure::setup("pip left files out of what it installed: run `cargo xtask setup` again"));
        }
        self.folder.write_stamp(wanted)
    }

    /// Removes what is left of an unfinished folder; called only once its successor is complete.
    fn clear(&self) -> Outcome {
        let root = self.folder.root();
        installed::names(root)?.iter().filter(|name| !nccl::KEPT.contains(&name.as_str())).try_for_each(|name| {
            let path = root.join(name);
            remove(&path)
        })
    }
}

fn remove(path: &Path) -> Outcome {
    let gone = match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    gone.at(Code::Setup, "remove", path)
}

#[cfg(test)]
mod tests;
