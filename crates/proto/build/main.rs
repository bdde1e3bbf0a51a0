//! Turns the .proto files into Rust: types, service traits, JSON, REST routes, client, OpenAPI.
//!
//! Nothing but cargo is needed: protox compiles the files. Everything lands in OUT_DIR.

mod model;
mod openapi;
mod rust;

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use prost::Message;
use prost_reflect::DescriptorPool;

/// Types that the crate writes by hand, because their JSON is not what pbjson would make of it.
const BY_HAND: [(&str, &str); 2] = [
    (".tally.type.v1.Json", "crate::wire::Json"),
    (".google.protobuf.Timestamp", "crate::wire::Timestamp"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed={}", root.display());
    println!("cargo::rerun-if-changed=build");

    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(proto_files(&root)?)?;
    let bytes = compiler.encode_file_descriptor_set();
    fs::write(out.join("descriptors.bin"), &bytes)?;

    types(&bytes)?;
    let pool = DescriptorPool::decode(bytes.as_slice())?;
    let services = model::services(&pool)?;
    fs::write(out.join("routes.rs"), rust::routes(&services))?;
    fs::write(out.join("rest.rs"), rust::rest(&services))?;
    fs::write(out.join("client.rs"), rust::client(&services))?;
    let version = std::env::var("CARGO_PKG_VERSION")?;
    fs::write(out.join("openapi.json"), openapi::document(&services, &version)?)?;
    Ok(())
}

/// Every .proto file below `tally/`, sorted so that the output never depends on the file system.
fn proto_files(root: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = Vec::new();
    let mut folders = vec![root.join("tally")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "proto") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Writes the prost types with their tonic traits, and their JSON.
fn types(descriptors: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut set = prost_types::FileDescriptorSet::decode(descriptors)?;
    set.file.retain(|file| wanted(file.name()));
    let mut code =
        tonic_prost_build::configure().build_transport(false).compile_well_known_types(false);
    let mut json = pbjson_build::Builder::new();
    json.register_descriptors(descriptors)?;
    json.preserve_proto_field_names().emit_fields();
    for (proto, rust) in BY_HAND {
        code = code.extern_path(proto, rust);
        json.extern_path(proto, rust);
    }
    json.exclude([".tally.type.v1.Json", ".tally.options"]);
    json.build(&[".tally"])?;
    code.compile_fds(set)?;
    Ok(())
}

/// Whether the type generator sees a file: ours without the options, and what those import.
fn wanted(file: &str) -> bool {
    let ours = file.starts_with("tally/") && !file.starts_with("tally/options/");
    ours || file == "google/api/httpbody.proto" || file.starts_with("google/protobuf/")
}
