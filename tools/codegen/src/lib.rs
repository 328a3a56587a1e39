//! Generates the files that are made from `proto`.
//!
//! Messages, descriptors and the tables of methods and reasons go to `crates/proto`, client stubs and
//! the service config to `crates/client`, server stubs to the service, and the list of errors to `docs`.

mod messages;
mod protocol;
mod tables;

use std::{error::Error, fs, path::Path};

use protox::prost_reflect::prost_types::FileDescriptorSet;

use protocol::Protocol;

/// The path of the messages' crate in generated code.
const MESSAGES: &str = "::consent_ledger_proto";

/// The package of the API.
const API: &str = "consent.v1";
/// The package of the ledger's own bytes.
const LEDGER: &str = "consent.ledger.v2";

/// A generated file: its path in the repository, and its content.
pub type Generated = (&'static str, Vec<u8>);

/// Generates all files from the protocol below `root`.
///
/// # Errors
/// The protocol does not compile, an option is missing, or a temporary folder can not be used.
pub fn generate(root: &Path) -> Result<Vec<Generated>, Box<dyn Error>> {
    let protocol = Protocol::compile(root)?;
    let (methods, reasons) = (protocol.methods()?, protocol.reasons()?);
    let descriptors = protocol.descriptors();
    let ledger = Protocol::compile_ledger(root)?;
    let builder = || tonic_prost_build::configure().build_client(false).build_server(false);
    let services = || builder().extern_path(".consent.v1", MESSAGES);
    // Ordered maps make the encoding of a request, and so its digest, deterministic.
    let messages = || {
        let mut config = tonic_prost_build::Config::new();
        config.btree_map(["."]).enable_type_names();
        config
    };
    Ok(vec![
        ("crates/proto/src/generated/consent.v1.bin", protocol.encoded()),
        (
            "crates/proto/src/generated/consent.v1.rs",
            code(&descriptors, API, |dir, fds| {
                builder().out_dir(dir).compile_fds_with_config(fds, messages())
            })?,
        ),
        ("crates/proto/src/generated/consent.ledger.v2.bin", ledger.encoded()),
        (
            "crates/proto/src/generated/consent.ledger.v2.rs",
            code(&ledger.descriptors(), LEDGER, |dir, fds| {
                let builder = builder().extern_path(".consent.v1", "crate").out_dir(dir);
                builder.compile_fds_with_config(fds, messages())
            })?,
        ),
        ("crates/proto/src/generated/methods.rs", tables::methods(&methods).into_bytes()),
        ("crates/proto/src/generated/reasons.rs", tables::reasons(&reasons).into_bytes()),
        (
            "crates/client/src/generated/consent.v1.rs",
            code(&descriptors, API, |dir, fds| {
                services().build_client(true).out_dir(dir).compile_fds(fds)
            })?,
        ),
        (
            "crates/client/src/generated/service_config.json",
            tables::service_config(&methods).into_bytes(),
        ),
        (
            "src/grpc/generated/consent.v1.rs",
            code(&descriptors, API, |dir, fds| {
                services()
                    .build_server(true)
                    .generate_default_stubs(true)
                    .out_dir(dir)
                    .compile_fds(fds)
            })?,
        ),
        ("docs/format-messages.md", messages::document(&ledger, LEDGER)?.into_bytes()),
        ("docs/errors.md", tables::errors_document(&reasons).into_bytes()),
    ])
}

/// The file that a builder writes for a package.
fn code(
    descriptors: &FileDescriptorSet,
    package: &str,
    write: impl FnOnce(&Path, FileDescriptorSet) -> std::io::Result<()>,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    write(dir.path(), descriptors.clone())?;
    Ok(fs::read(dir.path().join(format!("{package}.rs")))?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test may fail where it stands

    use super::*;

    #[test]
    fn the_checked_in_files_are_current() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for (path, content) in generate(&root).unwrap() {
            let is_current = fs::read(root.join(path)).unwrap() == content;
            assert!(is_current, "{path} is not current: run `cargo run -p codegen`");
        }
    }
}
