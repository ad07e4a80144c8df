//! `cargo xtask setup --nccl`: the object by which processes on GPUs compute together.
//!
//! It names NCCL and CUDA, which are found in the user's libtorch when it is opened; compiling it takes their headers
//! alone, so any machine can. The headers come out of NVIDIA's wheels, of which nothing else is kept.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::installed::{self, Folder};
use super::pip::Pip;
use super::wheels::{LIBTORCH_VERSION, NCCL_DISK_NEEDED, NCCL_DOWNLOAD, NCCL_HEADERS};
use super::{LOCK, PARTIAL, Setup, disk, remove};
use crate::failure::{Code, Context, Failure, Outcome};
use crate::process;
use crate::reproduce::program::digest;

/// What it is called, there and in a bundle.
pub(crate) const NAME: &str = "libempssl_nccl.so";

/// The folder in `.libtorch` that holds the object, its headers and the stamp.
pub(super) const FOLDER: &str = "empssl";

/// Where the sources are, below the checkout.
pub(super) const SOURCES: &str = "crates/empssl-torch/shim";

/// Which of them go into the object.
pub(super) const FILES: [&str; 4] = ["nccl/nccl.cpp", "nccl/nccl.h", "guarded.h", "libtorch.h"];

/// Written last, and of what: wheels, libtorch, compiler flags and sources.
const STAMP: &str = "stamp";

/// The flags besides those that name folders. The symbols of CUDA, NCCL and libtorch stay open.
const FLAGS: [&str; 9] = [
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-shared",
    "-s",
    "-w",
    "-fvisibility=hidden",
    "-D_GLIBCXX_USE_CXX11_ABI=1",
    "-DNDEBUG",
];

/// The object of a checkout, to be made or to be found as it is.
pub(super) struct Object<'a> {
    pub(super) setup: &'a Setup,
    /// The libtorch whose headers it is compiled with.
    pub(super) torch: PathBuf,
    pub(super) sources: PathBuf,
}

impl<'a> Object<'a> {
    pub(super) fn new(setup: &'a Setup, torch: PathBuf, checkout: &Path) -> Self {
        Self { setup, torch, sources: checkout.join(SOURCES) }
    }

    /// Makes the object unless it is there as it should be, and says where it is.
    pub(super) fn provide(&self) -> Outcome<PathBuf> {
        let folder = self.setup.folder.root().join(FOLDER);
        let (object, expected) = (folder.join(NAME), self.stamp()?);
        let is_made = || object.is_file() && fs::read_to_string(folder.join(STAMP)).is_ok_and(|text| text == expected);
        if is_made() {
            return Ok(object);
        }
        self.setup.check_platform()?;
        fs::create_dir_all(&folder).at(Code::Setup, "create the folder", &folder)?;
        let _held: File = self.setup.lock()?;
        if !is_made() {
            remove(&folder.join(STAMP))?;
            let headers = Folder::new(folder.join("headers"));
            self.provide_headers(&headers)?;
            self.compile(headers.root(), &object)?;
            let stamp = folder.join(STAMP);
            fs::write(&stamp, expected).at(Code::Setup, "write", &stamp)?;
        }
        Ok(object)
    }

    fn stamp(&self) -> Outcome<String> {
        let sources = FILES.map(|name| self.sources.join(name));
        let read = |path: &PathBuf| fs::read(path).at(Code::Setup, "read", path);
        let sources = digest(sources.iter().map(read).collect::<Outcome<Vec<_>>>()?);
        Ok(format!("libtorch {LIBTORCH_VERSION}\n{}\n{}\n{sources}\n", NCCL_HEADERS.join("\n"), FLAGS.join(" ")))
    }

    fn compile(&self, headers: &Path, object: &Path) -> Outcome {
        let start = Instant::now();
        eprintln!("compiling {NAME}, half a minute");
        let compiler = self.setup.compiler.to_string_lossy();
        let mut words = compiler.split_whitespace();
        let partial = object.with_extension("partial");
        let mut command = Command::new(words.next().unwrap_or("c++"));
        command.args(words).args(FLAGS);
        for folder in self.includes(headers) {
            command.arg("-I").arg(folder);
        }
        command.arg(self.sources.join(FILES[0])).arg("-o").arg(&partial);
        process::output(&mut command).map_err(|failure| {
            let said = failure.to_string();
            // Of a compiler's many lines, the one that says what is wrong.
            let line = said.lines().find(|line| line.contains("error")).unwrap_or(&said).trim();
            Failure::setup(format!("{NAME}, which only several GPUs need, could not be compiled: {line}"))
        })?;
        fs::rename(&partial, object).at(Code::Setup, "move a file to", object)?;
        eprintln!("compiled in {:.0} s", start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Fetches the headers of NVIDIA's wheels unless they are there.
    fn provide_headers(&self, headers: &Folder) -> Outcome {
        // With the sizes that the wheels list.
        let are_whole = || NCCL_HEADERS.iter().all(|wheel| headers.is_whole_where(wheel, is_header));
        if are_whole() {
            return Ok(());
        }
        let start = Instant::now();
        let pip = Pip::find(&self.setup.python)?;
        let partial = self.setup.folder.root().join(PARTIAL);
        remove(&partial)?;
        let (fresh, temporary) = (partial.join("fresh"), partial.join("tmp"));
        fs::create_dir_all(&temporary).at(Code::Setup, "create the folder", &temporary)?;
        disk::check((self.setup.free_bytes)(&partial), NCCL_DISK_NEEDED, &partial)?;
        eprintln!("fetching the headers of CUDA and NCCL ({NCCL_DOWNLOAD} to download)");
        pip.install(&NCCL_HEADERS, &fresh, &temporary)?;
        drop_all_but_headers(&fresh)?;
        remove(headers.root())?;
        fs::rename(&fresh, headers.root()).at(Code::Setup, "move a folder to", headers.root())?;
        remove(&partial)?;
        if !are_whole() {
            return Err(Failure::setup(
                "pip left headers out of what it installed: run `cargo xtask setup --nccl` again",
            ));
        }
        eprintln!("fetched in {:.0} s", start.elapsed().as_secs_f64());
        Ok(())
    }

    fn includes(&self, headers: &Path) -> [PathBuf; 6] {
        let (torch, nvidia) = (self.torch.join("include"), headers.join("nvidia"));
        [
            torch.join("torch/csrc/api/include"),
            torch,
            nvidia.join("cu13/include"),
            nvidia.join("cu13/include/cccl"),
            nvidia.join("nccl/include"),
            // Names of libraries that the wheels above do not hold.
            self.sources.join("nccl/absent"),
        ]
    }
}

/// Whether the file of a wheel is one to compile with.
fn is_header(path: &str) -> bool {
    path.contains("/include/")
}

/// The libraries are many times as large as the headers, and the ones that run are those of libtorch.
fn drop_all_but_headers(fresh: &Path) -> Outcome {
    let packages = fresh.join("nvidia");
    let folders = installed::names(&packages)?.into_iter().map(|name| packages.join(name)).filter(|path| path.is_dir());
    for package in folders {
        let others = installed::names(&package)?.into_iter().filter(|name| name != "include");
        others.map(|name| package.join(name)).try_for_each(|path| remove(&path))?;
    }
    Ok(())
}

/// What a setup of libtorch leaves alone besides its own lock and work.
pub(super) const KEPT: [&str; 3] = [PARTIAL, LOCK, FOLDER];
