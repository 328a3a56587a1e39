//! A server whose clock the test sets.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Process, Server, binary};

/// The clock of servers. The time since the start of the machine goes on as it is.
pub struct TestClock {
    library: PathBuf,
    file: File,
    path: PathBuf,
}

impl TestClock {
    /// A clock that is right, and that nothing keeps right. Its files go into `dir`.
    pub fn new(dir: &Path) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/clock_shim.c");
        let (library, path) = (dir.join("clock_shim.so"), dir.join("clock"));
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .status()
            .expect("the linker of Rust programs is a C compiler");
        assert!(compiled.success());
        fs::write(&path, [0; 16]).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        Self { library, file, path }
    }

    /// Sets by how many seconds the clock is ahead.
    pub fn set_ahead(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// Sets whether the system says that its clock is synchronised.
    pub fn set_synchronised(&self, synchronised: bool) {
        self.file.write_all_at(&i64::from(synchronised).to_ne_bytes(), 8).unwrap();
    }

    /// Serves a data directory under this clock. An empty directory gets a ledger first.
    pub fn serve(&self, data_dir: &Path, flags: &[&str]) -> Server {
        Server::init_if_empty(data_dir, flags);
        let mut command = binary();
        command.args(Server::arguments(data_dir)).args(flags.iter().map(OsString::from));
        command.env("LD_PRELOAD", &self.library).env("TEST_CLOCK", &self.path);
        Server::listening(Process::spawn(command))
    }
}
