//! `cargo run -p codegen`: writes what is generated from `proto/`, with no `protoc`.
//!
//! It is checked in, so that nothing that depends on it needs a build script. A test fails if it is not
//! what the protocol says.

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (path, content) in codegen::generate(&root)? {
        let path = root.join(path);
        if fs::read(&path).ok().as_deref() != Some(&content) {
            fs::create_dir_all(path.parent().ok_or("a generated file has a folder")?)?;
            fs::write(&path, content)?;
            println!("wrote {}", path.display());
        }
    }
    Ok(())
}
