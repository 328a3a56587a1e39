//! `cargo run -p codegen`: writes the files that are generated from `proto/`, without `protoc`.
//!
//! The files are checked in, so that no crate needs a build script. A test fails if they are not
//! current.

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
