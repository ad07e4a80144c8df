//! NCCL: where its object is, and why it cannot be used when it cannot.
//!
//! NCCL and PyTorch's engine for it are CUDA's, so a program that named them would not start elsewhere. They are named in
//! one shared object, `libempssl_nccl.so`, which is looked for at run time; [`check`] tries it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::ffi::{NCCL_NAME as NAME, NcclObject};
pub use crate::ffi::{NCCL_VARIABLE as VARIABLE, NcclProblem};
use crate::{device, version};

/// Its place below the folder that `cargo xtask setup` fills.
const IN_CHECKOUT: &str = "empssl/libempssl_nccl.so";

/// Looks whether NCCL can be used, and says by which object.
///
/// # Errors
/// The [`NcclProblem`] that stands in the way.
pub fn check() -> Result<PathBuf, NcclProblem> {
    open().map(|object| object.path)
}

/// The object that would be opened: the one that the environment names, or one beside the program, in `lib` beside or
/// above it, or in the checkout that the program or its libtorch belongs to.
fn find() -> Result<PathBuf, NcclProblem> {
    let program = std::env::current_exe().ok();
    let libtorch = version::library_path();
    let named = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
    find_among(named, program.as_deref(), libtorch.as_deref())
}

fn find_among(named: Option<PathBuf>, program: Option<&Path>, libtorch: Option<&Path>) -> Result<PathBuf, NcclProblem> {
    if let Some(path) = named {
        return if path.is_file() { Ok(path) } else { Err(NcclProblem::NoSuchFile(path)) };
    }
    let beside = program.and_then(Path::parent);
    let near = beside.into_iter().flat_map(|folder| [folder.join(NAME), folder.join("lib").join(NAME)]);
    let above = beside.and_then(Path::parent).map(|folder| folder.join("lib").join(NAME));
    let checkout =
        program.into_iter().flat_map(Path::ancestors).map(|folder| folder.join(".libtorch").join(IN_CHECKOUT));
    // .libtorch/torch/lib/libtorch_cpu.so
    let beside_libtorch =
        libtorch.and_then(|library| library.ancestors().nth(3)).map(|folder| folder.join(IN_CHECKOUT));
    let mut places = near.chain(above).chain(checkout).chain(beside_libtorch);
    places.find(|path| path.is_file()).ok_or(NcclProblem::Missing)
}

/// Opens CUDA and then the object, once for the process.
pub(super) fn open() -> Result<NcclObject, NcclProblem> {
    static OPENED: OnceLock<Result<NcclObject, NcclProblem>> = OnceLock::new();
    let opened = OPENED.get_or_init(|| {
        device::open().map_err(NcclProblem::NoCuda)?;
        NcclObject::open(&find()?)
    });
    opened.clone()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::ffi::{Listen, RawGroup, RawStore};

    /// An object that stands in for the real one: it calls itself `build`, and `connect` is the body of its function.
    fn object(folder: &Path, build: &str, connect: &str) -> PathBuf {
        let (source, path) = (folder.join("object.c"), folder.join(NAME));
        let text = format!(
            "#include <string.h>\n#include <unistd.h>\nconst char *empssl_nccl_build(void) {{ return \"{build}\"; }}\n\
             char *empssl_nccl_connect(void *s, const char *p, int r, int w, int d, long t, void **e) {{ {connect} }}\n"
        );
        fs::write(&source, text).unwrap();
        let mut compiler = Command::new("cc");
        assert!(compiler.args(["-shared", "-fPIC", "-w", "-o"]).args([&path, &source]).status().unwrap().success());
        path
    }

    #[test]
    fn the_object_is_looked_for_where_it_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let program = root.join("target/release/empssl");
        let libtorch = root.join("else/torch/lib/libtorch_cpu.so");
        let found = |named| find_among(named, Some(&program), Some(&libtorch));
        assert_eq!(found(None), Err(NcclProblem::Missing));
        // From the last place to the first.
        let places = [
            "else/empssl/libempssl_nccl.so",
            ".libtorch/empssl/libempssl_nccl.so",
            "target/lib/libempssl_nccl.so",
            "target/release/lib/libempssl_nccl.so",
            "target/release/libempssl_nccl.so",
            "named",
        ];
        for (index, place) in places.map(|place| root.join(place)).into_iter().enumerate() {
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(&place, "").unwrap();
            assert_eq!(found((index == 5).then(|| place.clone())), Ok(place));
        }
        let error = found(Some(root.join("nowhere"))).unwrap_err().to_string();
        assert!(error.starts_with("EMPSSL_NCCL names ") && error.contains("nowhere, which is no file"), "{error}");
        let error = NcclProblem::Missing.to_string();
        assert!(error.contains("run `cargo xtask setup --nccl`") && !error.contains("  "), "{error}");
    }

    #[test]
    fn an_object_of_another_build_and_what_is_none_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let other = object(folder.path(), "interface 0, libtorch 2.10.0", "return 0;");
        let error = NcclObject::open(&other).unwrap_err().to_string();
        assert!(error.contains("was built as `interface 0, libtorch 2.10.0`, and this program needs `interface 2, "));
        let text = folder.path().join("text.so");
        fs::write(&text, "no object").unwrap();
        let error = NcclObject::open(&text).unwrap_err();
        let NcclProblem::NotOpened { path, reason } = &error else { panic!("{error}") };
        assert_eq!(*path, text);
        assert!(reason.contains("text.so") && reason.contains("too short"), "{reason}");
        assert!(error.to_string().ends_with("run `cargo xtask setup --nccl` again"), "{error}");
    }

    #[test]
    fn what_the_object_says_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let connect = "return strdup(\"no GPUs found\\nframe #0\");";
        let nccl = NcclObject::open(&object(folder.path(), &NcclObject::expected_build(), connect)).unwrap();
        let (plenty, port) = (Duration::from_secs(60), crate::processes::free_port().unwrap());
        let store = RawStore::open("127.0.0.1", port, true, plenty).unwrap();
        let listen = Listen::Address("127.0.0.1".to_owned());
        let mut group = RawGroup::gloo(&store, "gloo", &listen, (0, 1), plenty).unwrap();
        let error = nccl.connect(&mut group, &store, "nccl", (0, 1), 0, plenty).unwrap_err();
        assert_eq!(error.0, "no GPUs found");
    }

    #[test]
    fn without_cuda_nccl_is_refused_in_a_sentence() {
        match device::open() {
            Ok(_) => eprintln!("skipped: this machine has a CUDA device"),
            Err(problem) => assert_eq!(check(), Err(NcclProblem::NoCuda(problem))),
        }
    }

    /// The real object needs CUDA's part of libtorch, so elsewhere the loader names what is missing.
    #[test]
    fn the_real_object_exports_what_it_should_and_misses_cuda() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.libtorch").join(IN_CHECKOUT);
        let path = std::env::var_os(VARIABLE).map_or(checkout, PathBuf::from);
        let Ok(bytes) = fs::read(&path) else {
            eprintln!("skipped: {} was not built; `cargo xtask setup --nccl` does", path.display());
            return;
        };
        let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(holds("empssl_nccl_build") && holds("empssl_nccl_connect"), "it exports something else");
        assert!(
            holds(&NcclObject::expected_build()),
            "it is of another build; `cargo xtask setup --nccl` makes it anew"
        );
        match (device::open(), NcclObject::open(&path)) {
            (Ok(_), loaded) => assert!(loaded.is_ok(), "{loaded:?}"),
            (Err(_), Err(NcclProblem::NotOpened { reason, .. })) => {
                assert!(reason.contains("undefined symbol") && reason.contains("ProcessGroupNCCL"), "{reason}");
            }
            (Err(problem), loaded) => panic!("without CUDA ({problem}) it was not refused: {loaded:?}"),
        }
    }
}
