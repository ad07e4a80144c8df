//! The folder of wheels: what is in it, whether it is whole, and moving the CUDA libraries aside and back.

use std::fs;
use std::path::{Path, PathBuf};

use super::wheels::{LIBTORCH_VERSION, Set, name_and_version, needs_cuda};
use crate::failure::{Code, Context, Failure, Outcome};

/// Written last; a folder without it was made by hand or only half made.
const STAMP: &str = "stamp";

/// Where the CUDA libraries wait on a machine that cannot load them.
const ASIDE: &str = "cuda-aside";

/// A folder filled by `pip install --target`.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder `LIBTORCH` points at.
    pub(crate) fn torch(&self) -> PathBuf {
        self.root.join("torch")
    }

    /// What a finished setup left here, by its stamp and a look at the library itself.
    pub(crate) fn stamped(&self) -> Option<Set> {
        let set = Set::from_stamp(&fs::read_to_string(self.root.join(STAMP)).ok()?)?;
        check_version(&self.torch()).is_ok().then_some(set)
    }

    pub(crate) fn write_stamp(&self, set: Set) -> Outcome {
        let stamp = self.root.join(STAMP);
        fs::write(&stamp, set.stamp()).at(Code::Setup, "write", &stamp)
    }

    pub(crate) fn remove_stamp(&self) {
        let _ = fs::remove_file(self.root.join(STAMP));
    }

    /// The largest set of which every file that its wheels list is here with the size they list.
    pub(crate) fn whole_set(&self) -> Option<Set> {
        check_version(&self.torch()).ok()?;
        let is_whole = |wheel: &&str| self.is_whole_where(wheel, |_| true);
        [Set::Full, Set::Small].into_iter().find(|set| set.wheels_beyond(None).iter().all(is_whole))
    }

    /// Whether those files of a wheel that count are here with the size that it lists.
    pub(crate) fn is_whole_where(&self, wheel: &str, counts: impl Fn(&str) -> bool) -> bool {
        let (name, version) = name_and_version(wheel);
        let folder = self.root.join(format!("{}-{version}.dist-info", name.replace('-', "_")));
        let Ok(record) = fs::read_to_string(folder.join("RECORD")) else { return false };
        let mut files = record.lines().filter_map(listed).filter(|(path, _)| counts(path));
        files.all(|(path, size)| self.has(path, size))
    }

    fn has(&self, path: &str, size: u64) -> bool {
        let here = |path: PathBuf| fs::metadata(path).is_ok_and(|found| found.len() == size);
        let name = path.rsplit('/').next().unwrap_or(path);
        here(self.root.join(path)) || (needs_cuda(name) && here(self.root.join(ASIDE).join(name)))
    }

    /// Puts the CUDA libraries where `set` needs them: beside libtorch, or aside.
    pub(crate) fn place_cuda(&self, set: Set) -> Outcome {
        let (aside, lib) = (self.root.join(ASIDE), self.torch().join("lib"));
        fs::create_dir_all(&aside).at(Code::Setup, "create the folder", &aside)?;
        let (from, to) = if set == Set::Full { (&aside, &lib) } else { (&lib, &aside) };
        for name in names(from)?.iter().filter(|name| needs_cuda(name)) {
            let moved = to.join(name);
            fs::rename(from.join(name), &moved).at(Code::Setup, "move a library to", &moved)?;
        }
        Ok(())
    }

    /// Moves everything from `other` into this folder, file by file where both have a folder of one name.
    pub(crate) fn take_in(&self, other: &Path) -> Outcome {
        merge(other, &self.root)
    }
}

fn merge(from: &Path, to: &Path) -> Outcome {
    for name in names(from)? {
        let (source, target) = (from.join(&name), to.join(&name));
        if source.is_dir() && target.is_dir() {
            merge(&source, &target)?;
        } else {
            fs::rename(&source, &target).at(Code::Setup, "move a file to", &target)?;
        }
    }
    Ok(())
}

/// The names in a folder, hidden ones included.
pub(crate) fn names(folder: &Path) -> Outcome<Vec<String>> {
    let entries = fs::read_dir(folder).at(Code::Setup, "read the folder", folder)?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect())
}

/// One line of a wheel's list of files, `path,hash,size`; scripts outside the folder and files compiled on this machine
/// (which have no size) are of no use to us.
fn listed(line: &str) -> Option<(&str, u64)> {
    let (rest, size) = line.rsplit_once(',')?;
    let (path, _hash) = rest.rsplit_once(',')?;
    let path = path.trim_matches('"');
    (!path.starts_with("..")).then_some((path, size.parse().ok()?))
}

/// Checks that a folder holds libtorch of the one version that fits.
pub(crate) fn check_version(torch: &Path) -> Outcome {
    let shown = torch.display();
    if !torch.join("lib/libtorch_cpu.so").is_file() {
        return Err(Failure::setup(format!("{shown} holds no libtorch: lib/libtorch_cpu.so is missing")));
    }
    let Some(found) = version(torch) else {
        return Err(Failure::setup(format!(
            "cannot tell the version of the libtorch in {shown}: neither build-version nor version.py says it"
        )));
    };
    if found.split('+').next() == Some(LIBTORCH_VERSION) {
        return Ok(());
    }
    Err(Failure::setup(format!("{shown} holds libtorch {found}, but {LIBTORCH_VERSION} is needed")))
}

/// The version by the file of the C++ archive, else by that of the Python wheel.
fn version(torch: &Path) -> Option<String> {
    if let Ok(text) = fs::read_to_string(torch.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    let text = fs::read_to_string(torch.join("version.py")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("__version__"))?;
    line.split(['\'', '"']).nth(1).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_wheels_list() {
        assert_eq!(listed("torch/lib/libc10.so,sha256=abc,1234"), Some(("torch/lib/libc10.so", 1234)));
        assert_eq!(listed("\"torch/a,b.py\",sha256=abc,7"), Some(("torch/a,b.py", 7)));
        assert_eq!(listed("torch/__pycache__/a.cpython-311.pyc,,"), None);
        assert_eq!(listed("../../bin/torchrun,sha256=abc,244"), None);
    }

    #[test]
    fn the_version_is_read_from_either_file_and_its_suffix_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let torch = folder.path();
        assert!(check_version(torch).unwrap_err().to_string().contains("holds no libtorch"));
        fs::create_dir(torch.join("lib")).unwrap();
        fs::write(torch.join("lib/libtorch_cpu.so"), "").unwrap();
        assert!(check_version(torch).unwrap_err().to_string().contains("neither build-version nor version.py"));
        fs::write(torch.join("version.py"), "x = 1\n__version__ = '2.11.0+cu130'\n").unwrap();
        check_version(torch).unwrap();
        fs::write(torch.join("build-version"), "2.11.1+cpu\n").unwrap();
        let message = check_version(torch).unwrap_err().to_string();
        assert!(message.contains("holds libtorch 2.11.1+cpu, but 2.11.0 is needed"), "{message}");
    }

    #[test]
    fn folders_of_one_name_are_merged() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        for (path, text) in [(from.join("nvidia/b"), "b"), (from.join("new"), "n"), (to.join("nvidia/a"), "a")] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Folder::new(to.clone()).take_in(&from).unwrap();
        for (path, text) in [("nvidia/a", "a"), ("nvidia/b", "b"), ("new", "n")] {
            assert_eq!(fs::read_to_string(to.join(path)).unwrap(), text);
        }
    }
}
