//! The build script of every bootable image: how its program is linked. It concerns programs only; libraries and tests of the
//! same package are linked as always.

use std::path::Path;

fn main() {
    let package = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let script = Path::new(&package)
        .ancestors()
        .map(|directory| directory.join("linker.ld"))
        .find(|path| path.exists())
        .expect("linker.ld is in the workspace's root");
    println!("cargo:rerun-if-changed={}", script.display());
    for argument in [
        "-nostartfiles",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,max-page-size=4096",
        "-Wl,-z,noexecstack",
        "-Wl,-z,norelro",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", script.display());
}
