//! Compiles the C++ shim against the headers of the libtorch that torch-sys links, and writes its run path.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    // torch-sys tells where it found libtorch; it says nothing when the documentation is built without one.
    let Ok(lib) = env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    let include = Path::new(&lib).with_file_name("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .flag("-D_GLIBCXX_USE_CXX11_ABI=1")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        // Names of Gloo's, whose headers the wheels lack.
        .include("shim/absent")
        // The warnings of libtorch's own headers are not ours to mend.
        .warnings(false)
        // One unit of all files: most of the time goes into libtorch's headers.
        .file("shim/all.cpp")
        .compile("empssl_shim");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
}
