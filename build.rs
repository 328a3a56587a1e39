//! Compiles `proto/consent/v1/*.proto` to Rust with no `protoc` on the machine.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut files: Vec<PathBuf> = fs::read_dir("proto/consent/v1")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    files.sort();

    let descriptors = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("consent.v1.bin"), descriptors.encode_to_vec())?;
    // Names tell reflection which descriptor is a message's.
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    // Ordered maps make the encoding of a request deterministic, and with it the request digest.
    tonic_prost_build::configure()
        .btree_map(".")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .compile_fds_with_config(descriptors, config)?;

    // Tests that need a tool are reported as ignored where nobody names one.
    for (variable, flag) in [
        ("CONSENT_LEDGER_TEST_PYTHON", "test_python"),
        ("CONSENT_LEDGER_TEST_GO", "test_go"),
        ("CONSENT_LEDGER_TEST_TSX", "test_tsx"),
    ] {
        println!("cargo::rustc-check-cfg=cfg({flag})");
        println!("cargo::rerun-if-env-changed={variable}");
        if env::var_os(variable).is_some() {
            println!("cargo::rustc-cfg={flag}");
        }
    }
    Ok(())
}
