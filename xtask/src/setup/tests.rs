//! The task against a `python3` that stands in for the real one: it installs small files and counts its calls.

use super::*;
use crate::process::tests::write_script;

/// Answers `-m pip --version`, and fills the target folder as pip would, list of files included.
const FAKE_PIP: &str = r#"#!/bin/sh
case "$*" in *"pip --version"*) echo pip 99; exit 0;; esac
echo "$@" >> "$0.calls"
put() { mkdir -p "$(dirname "$target/$1")"; printf %s "$2" > "$target/$1"; echo "$1,sha256=x,${#2}" >> "$record"; }
while [ $# -gt 0 ]; do
  case "$1" in
    --target) target=$2; shift;;
    *==*)
      name=${1%%==*}; version=${1##*==}
      info="$target/$(echo "$name" | tr - _)-$version.dist-info"; mkdir -p "$info"; record="$info/RECORD"
      echo "../../bin/script,sha256=x,5" >> "$record"
      if [ "$name" = torch ]; then
        put torch/version.py "__version__ = 'VERSION+cu130'"
        put torch/lib/libtorch_cpu.so cpu
        put torch/lib/libtorch_cuda.so cuda
        put torch/lib/libc10_cuda.so c10
      else put "nvidia/lib/$name.so" "$name"; put "nvidia/cu13/include/$name.h" "$name"; fi;;
  esac
  shift
done
"#;

/// Makes an object of its last argument but two, and counts its calls.
const FAKE_COMPILER: &str = r#"#!/bin/sh
case "$*" in *--version*) exit 0;; esac
echo "$@" >> "$0.calls"
while [ $# -gt 1 ]; do [ "$1" = -o ] && echo object > "$2"; shift; done
"#;

struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn with(script: &str) -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        write_script(&machine.path("python3"), script);
        machine
    }

    fn ordinary() -> Self {
        Self::with(&FAKE_PIP.replace("VERSION", "2.11.0"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn setup(&self) -> Setup {
        Setup {
            folder: Folder::new(self.path(".libtorch")),
            libtorch: None,
            python: self.path("python3").into(),
            compiler: "sh".into(),
            platform: ("linux", "x86_64"),
            has_driver: false,
            free_bytes: |_| None,
        }
    }

    fn calls(&self) -> Vec<String> {
        self.calls_of("python3")
    }

    fn calls_of(&self, program: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(&format!("{program}.calls"))).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// A setup with a compiler of its own, and with copies of the object's sources.
    fn compiling(&self, script: &str) -> (Setup, PathBuf) {
        write_script(&self.path("c++"), script);
        let (from, to) = (Workspace::locate().join(nccl::SOURCES), self.path("sources"));
        fs::create_dir_all(to.join("nccl")).unwrap();
        for name in nccl::FILES {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
        (Setup { compiler: self.path("c++").into(), ..self.setup() }, to)
    }

    /// `setup --nccl`.
    fn object(&self, (setup, sources): &(Setup, PathBuf)) -> Outcome<PathBuf> {
        let found = setup.provide(false)?;
        Object { sources: sources.clone(), ..setup.object(&found, self.folder.path()) }.provide()
    }

    fn has(&self, path: &str) -> bool {
        self.path(".libtorch").join(path).is_file()
    }
}

fn refusal(setup: &Setup) -> String {
    let failure = setup.provide(false).unwrap_err();
    assert_eq!(failure.code, Code::Setup);
    let message = failure.to_string();
    assert!(!message.contains('\n') && !message.contains("  "), "not one sentence: {message}");
    message
}

#[test]
fn the_small_set_is_installed_once_with_the_cuda_libraries_aside() {
    let machine = Machine::ordinary();
    for _ in 0..2 {
        assert_eq!(machine.setup().provide(false).unwrap(), Found::Ours(Set::Small));
    }
    let calls = machine.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert!(calls[0].contains("--no-deps") && calls[0].contains("torch==2.11.0"), "{calls:?}");
    assert!(!calls[0].contains("cudnn"), "{calls:?}");
    assert!(machine.has("torch/lib/libtorch_cpu.so") && machine.has("nvidia/lib/nvidia-cuda-cupti.so"));
    assert!(machine.has("cuda-aside/libtorch_cuda.so") && machine.has("cuda-aside/libc10_cuda.so"));
    assert!(!machine.has("torch/lib/libtorch_cuda.so") && !machine.path(".libtorch/.partial").exists());
}

#[test]
fn a_driver_brings_the_full_set() {
    let machine = Machine::ordinary();
    let setup = Setup { has_driver: true, ..machine.setup() };
    assert_eq!(setup.provide(false).unwrap(), Found::Ours(Set::Full));
    assert!(machine.calls()[0].contains("nvidia-cudnn-cu13==9.19.0.56"));
    assert!(machine.has("torch/lib/libtorch_cuda.so") && machine.has("nvidia/lib/nvidia-cudnn-cu13.so"));
}

#[test]
fn the_small_set_grows_into_the_full_one_and_is_not_fetched_again() {
    let machine = Machine::ordinary();
    machine.setup().provide(false).unwrap();
    assert_eq!(machine.setup().provide(true).unwrap(), Found::Ours(Set::Full));
    let calls = machine.calls();
    assert_eq!(calls.len(), 2);
    assert!(!calls[1].contains("torch==2.11.0") && calls[1].contains("nvidia-cublas=="), "{calls:?}");
    assert!(machine.has("torch/lib/libtorch_cuda.so") && machine.has("nvidia/lib/nvidia-cuda-cupti.so"));
    // The full set serves a machine without a driver as well.
    assert_eq!(machine.setup().provide(false).unwrap(), Found::Ours(Set::Full));
    assert_eq!(machine.calls().len(), 2);
}

#[test]
fn a_whole_folder_without_a_stamp_is_adopted() {
    let machine = Machine::ordinary();
    machine.setup().provide(false).unwrap();
    fs::remove_file(machine.path(".libtorch/stamp")).unwrap();
    let [aside, beside] = ["cuda-aside", "torch/lib"].map(|folder| machine.path(".libtorch").join(folder));
    fs::rename(aside.join("libtorch_cuda.so"), beside.join("libtorch_cuda.so")).unwrap();
    assert_eq!(machine.setup().provide(false).unwrap(), Found::Ours(Set::Small));
    assert_eq!(machine.calls().len(), 1);
    assert!(machine.has("stamp") && machine.has("cuda-aside/libtorch_cuda.so"));
}

#[test]
fn a_half_made_folder_is_made_again() {
    for broken in ["torch/lib/libtorch_cpu.so", "nvidia/lib/nvidia-cuda-cupti.so", "torch/version.py"] {
        let machine = Machine::ordinary();
        machine.setup().provide(false).unwrap();
        fs::remove_file(machine.path(".libtorch/stamp")).unwrap();
        fs::write(machine.path(".libtorch").join(broken), "cut off half-").unwrap();
        fs::create_dir_all(machine.path(".libtorch/.partial/fresh/torch")).unwrap();
        machine.setup().provide(false).unwrap();
        assert_eq!(machine.calls().len(), 2, "{broken} was not noticed");
        assert_eq!(machine.setup().folder.whole_set(), Some(Set::Small));
    }
}

#[test]
fn a_failed_install_leaves_the_good_folder_alone() {
    let machine = Machine::ordinary();
    machine.setup().provide(false).unwrap();
    let failing = FAKE_PIP.replace("put \"nvidia/lib/$name.so\" \"$name\"", "exit 1");
    write_script(&machine.path("python3"), &failing.replace("VERSION", "2.11.0"));
    machine.setup().provide(true).unwrap_err();
    assert_eq!(machine.setup().provide(false).unwrap(), Found::Ours(Set::Small));
}

#[test]
fn two_setups_at_once_install_once() {
    let machine = Machine::with(&FAKE_PIP.replace("VERSION", "2.11.0").replace("while ", "sleep 0.3\nwhile "));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| machine.setup().provide(false).unwrap());
        }
    });
    assert_eq!(machine.calls().len(), 1);
}

#[test]
fn the_users_libtorch_wins_when_it_is_the_right_one() {
    let machine = Machine::ordinary();
    let own = machine.path("own");
    fs::create_dir_all(own.join("lib")).unwrap();
    fs::write(own.join("lib/libtorch_cpu.so"), "").unwrap();
    fs::write(own.join("build-version"), "2.11.0+cpu\n").unwrap();
    let setup = Setup { libtorch: Some(own.clone()), ..machine.setup() };
    assert_eq!(setup.provide(false).unwrap(), Found::Users(own.clone()));
    fs::write(own.join("build-version"), "2.9.1\n").unwrap();
    let message = refusal(&setup);
    assert!(message.contains("holds libtorch 2.9.1, but 2.11.0 is needed; LIBTORCH points there"), "{message}");
    assert!(machine.calls().is_empty());
}

#[test]
fn the_checkouts_own_folder_counts_as_unset() {
    let machine = Machine::ordinary();
    for value in [machine.path(".libtorch/torch"), PathBuf::new()] {
        let setup = Setup { libtorch: Some(value), ..machine.setup() };
        assert_eq!(setup.provide(false).unwrap(), Found::Ours(Set::Small));
    }
    let roundabout = machine.path(".libtorch/nvidia/../torch");
    let setup = Setup { libtorch: Some(roundabout), ..machine.setup() };
    assert_eq!(setup.provide(false).unwrap(), Found::Ours(Set::Small));
}

#[test]
fn no_python_is_one_sentence() {
    let machine = Machine::ordinary();
    let setup = Setup { python: machine.path("absent").into(), ..machine.setup() };
    assert!(refusal(&setup).contains("python3 was not found"));
}

#[test]
fn no_compiler_is_one_sentence() {
    let machine = Machine::ordinary();
    let setup = Setup { compiler: "no-such-compiler -O2".into(), ..machine.setup() };
    assert!(refusal(&setup).contains("the C++ compiler `no-such-compiler` was not found"));
}

#[test]
fn no_pip_is_one_sentence() {
    let machine = Machine::with("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n");
    assert!(refusal(&machine.setup()).contains("python3 has no pip"));
}

#[test]
fn no_network_is_one_sentence() {
    let machine = Machine::with(
        "#!/bin/sh\ncase \"$*\" in *--version*) exit 0;; esac\n\
         echo 'WARNING: Retrying: Failed to establish a new connection: [Errno 111]' >&2\n\
         echo 'ERROR: No matching distribution found for torch==2.11.0' >&2\nexit 1\n",
    );
    assert!(refusal(&machine.setup()).contains("could not reach the package index"));
}

#[test]
fn a_wheel_of_another_version_is_one_sentence_and_never_moved_in() {
    let machine = Machine::with(&FAKE_PIP.replace("VERSION", "2.12.0"));
    assert!(refusal(&machine.setup()).contains("holds libtorch 2.12.0+cu130, but 2.11.0 is needed"));
    assert!(!machine.path(".libtorch/torch").exists());
}

#[test]
fn a_full_disk_is_one_sentence_before_anything_is_fetched() {
    let machine = Machine::ordinary();
    let setup = Setup { free_bytes: |_| Some(1_000_000_000), ..machine.setup() };
    assert!(refusal(&setup).contains("has 1.0 GB free"));
    assert!(machine.calls().is_empty());
}

#[test]
fn another_platform_is_one_sentence() {
    let machine = Machine::ordinary();
    let setup = Setup { platform: ("macos", "aarch64"), ..machine.setup() };
    assert!(refusal(&setup).contains("not for macos on aarch64"));
}

#[test]
fn the_object_of_nccl_is_compiled_once_with_headers_alone() {
    let machine = Machine::ordinary();
    let with = machine.compiling(FAKE_COMPILER);
    for _ in 0..2 {
        assert_eq!(machine.object(&with).unwrap(), machine.path(".libtorch/empssl/libempssl_nccl.so"));
    }
    let (calls, compiled) = (machine.calls(), machine.calls_of("c++"));
    assert_eq!((calls.len(), compiled.len()), (2, 1), "{calls:?} {compiled:?}");
    assert!(calls[1].contains("nvidia-nccl-cu13==2.28.9 nvidia-cuda-runtime==13.0.96 nvidia-cuda-crt==13.0.88"));
    assert!(compiled[0].contains(".libtorch/torch/include") && compiled[0].contains("nccl/nccl.cpp"), "{compiled:?}");
    assert!(
        machine.has("empssl/libempssl_nccl.so") && machine.has("empssl/headers/nvidia/cu13/include/nvidia-nccl-cu13.h")
    );
    assert!(!machine.has("empssl/headers/nvidia/lib/nvidia-nccl-cu13.so"), "a library of 0.2 GB was kept");
    // The sets of libtorch are as they were.
    assert_eq!(with.0.provide(false).unwrap(), Found::Ours(Set::Small));
    assert_eq!(machine.calls().len(), 2);
}

#[test]
fn the_object_of_nccl_is_made_anew_when_its_sources_or_headers_change_and_stays_when_libtorch_does() {
    let machine = Machine::ordinary();
    let with = machine.compiling(FAKE_COMPILER);
    machine.object(&with).unwrap();
    fs::write(with.1.join("nccl/nccl.h"), "// another interface").unwrap();
    machine.object(&with).unwrap();
    assert_eq!((machine.calls().len(), machine.calls_of("c++").len()), (2, 2), "fetched again, or not compiled again");
    fs::remove_file(machine.path(".libtorch/empssl/stamp")).unwrap();
    fs::write(machine.path(".libtorch/empssl/headers/nvidia/cu13/include/nvidia-cuda-crt.h"), "cut").unwrap();
    machine.object(&with).unwrap();
    assert_eq!((machine.calls().len(), machine.calls_of("c++").len()), (3, 3), "a damaged header was not noticed");
    fs::remove_file(machine.path(".libtorch/stamp")).unwrap();
    fs::remove_file(machine.path(".libtorch/torch/version.py")).unwrap();
    machine.object(&with).unwrap();
    assert_eq!((machine.calls().len(), machine.calls_of("c++").len()), (4, 3));
}

#[test]
fn an_object_that_does_not_compile_is_one_sentence_and_no_object() {
    let machine = Machine::ordinary();
    let failing = "#!/bin/sh\ncase \"$*\" in *--version*) exit 0;; esac\n\
                   echo 'In file included from a' >&2\necho 'b.h:1: fatal error: c.h: no such file' >&2\nexit 1\n";
    let with = machine.compiling(failing);
    let failure = machine.object(&with).unwrap_err();
    assert_eq!(failure.code, Code::Setup);
    let expected =
        "libempssl_nccl.so, which only several GPUs need, could not be compiled: b.h:1: fatal error: c.h: no such file";
    assert_eq!(failure.to_string(), expected);
    assert!(!machine.has("empssl/libempssl_nccl.so") && !machine.has("empssl/stamp"));
}

#[test]
fn headers_that_cannot_be_fetched_are_one_sentence() {
    let machine = Machine::ordinary();
    let with = machine.compiling(FAKE_COMPILER);
    with.0.provide(false).unwrap();
    write_script(
        &machine.path("python3"),
        "#!/bin/sh\ncase \"$*\" in *--version*) exit 0;; esac\n\
         echo 'ERROR: Failed to establish a new connection' >&2\nexit 1\n",
    );
    let message = machine.object(&with).unwrap_err().to_string();
    assert!(message.contains("could not reach the package index") && !message.contains('\n'), "{message}");
    assert!(machine.calls_of("c++").is_empty());
}
