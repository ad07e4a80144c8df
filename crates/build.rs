//! Shared build script of every crate that links libtorch.
//!
//! Cargo hands link arguments to the package that prints them and to no other, so each package with a binary, test,
//! example or bench needs this script; they all name this one file in their `Cargo.toml` (`build = "../build.rs"`).
//! It writes the folder of libtorch into the run path, so that programs start without `LD_LIBRARY_PATH`.

fn main() {
    println!("cargo:rerun-if-changed=../build.rs");
    // Set by torch-sys for its direct dependents; absent when the documentation is built without libtorch.
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    if let Ok(libtorch) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}");
    }
}
