//! Writes the Rust types and services of every .proto file here, without a protoc on the system.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders whose .proto files are compiled. A new file in one of them needs no change here.
const FOLDERS: [&str; 3] = ["etcd", "grpc", "kvd"];

fn main() -> Result<(), Box<dyn Error>> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        println!("cargo:rerun-if-changed={folder}");
        files.extend(protos_in(Path::new(folder))?);
    }
    let descriptors = protox::compile(&files, ["."])?;
    tonic_prost_build::configure()
        .bytes(".")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}

/// In the order of their names, so that the output is the same on every machine.
fn protos_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
