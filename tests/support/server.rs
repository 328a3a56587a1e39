//! Runs the built binary as a server, and as a client of one.

use std::{fs, path::Path, process::Command};

use super::{Clients, Finished, LONG_PATIENCE, PATIENCE, Process, binary};

/// The binary as a client of the server at an address.
pub fn client_of(address: &str) -> Command {
    let mut command = binary();
    command.env("CONSENT_LEDGER_ADDR", format!("http://{address}"));
    command
}

/// Compares the answers at an address with the entries there, opened with the vault of a data
/// directory.
pub fn verify_decisions(data_dir: &Path, address: &str, args: &[&str]) -> Finished {
    let mut command = client_of(address);
    command.args(["verify-decisions", "--vault"]).arg(data_dir.join("vault")).args(args);
    Process::spawn(command).wait(LONG_PATIENCE)
}

/// A running server.
pub struct Server {
    process: Process,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

/// Flags of `serve` that `init` has, too.
const FLAGS_OF_INIT: [&str; 5] =
    ["--origin", "--kek-file", "--signing-key-file", "--unused-signing-key", "--witness-ca"];

impl Server {
    /// Makes a ledger in a data directory with those of the flags that `init` has.
    #[track_caller]
    pub fn init(data_dir: &Path, flags: &[&str]) -> Finished {
        let mut command = binary();
        command.arg("init").arg("--data-dir").arg(data_dir);
        let mut flags = flags.iter().peekable();
        while let Some(flag) = flags.next() {
            let name = flag.split('=').next().unwrap_or_default();
            let value = flags.next_if(|next| !next.starts_with("--") && !flag.contains('='));
            if FLAGS_OF_INIT.contains(&name) {
                command.arg(flag).args(value);
            }
        }
        Process::spawn(command).wait(LONG_PATIENCE).expect_code(0)
    }

    /// Makes a ledger, as [`Self::init`], where there is no directory or an empty one.
    #[track_caller]
    pub fn init_if_empty(data_dir: &Path, flags: &[&str]) {
        if fs::read_dir(data_dir).map_or(true, |mut entries| entries.next().is_none()) {
            Self::init(data_dir, flags);
        }
    }

    /// Serves a data directory on a free port and waits until it listens. An empty directory gets a
    /// ledger first.
    #[track_caller]
    pub fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &[])
    }

    /// Like [`Self::start`], with more flags.
    #[track_caller]
    pub fn start_with(data_dir: &Path, flags: &[&str]) -> Self {
        Self::init_if_empty(data_dir, flags);
        let mut command = binary();
        command.args(Self::arguments(data_dir)).args(flags);
        Self::listening(Process::spawn(command))
    }

    /// Like [`Self::start`], at a given address, such as that of an earlier server.
    #[track_caller]
    pub fn start_at(data_dir: &Path, address: &str) -> Self {
        let mut command = binary();
        command.arg("serve").arg("--data-dir").arg(data_dir).args(["--listen", address]);
        Self::listening(Process::spawn(command))
    }

    /// The output of a server that refuses to start.
    #[track_caller]
    pub fn refused(data_dir: &Path, more: &[&str]) -> String {
        let mut command = binary();
        command.args(Self::arguments(data_dir)).args(more);
        Process::spawn(command).wait(PATIENCE).expect_code(1).output()
    }

    /// The arguments of `serve` for a data directory with a ledger, on a free port.
    pub fn arguments(data_dir: &Path) -> Vec<std::ffi::OsString> {
        vec![
            "serve".into(),
            "--data-dir".into(),
            data_dir.into(),
            "--listen".into(),
            "127.0.0.1:0".into(),
        ]
    }

    /// Waits until a started `serve` listens.
    #[track_caller]
    pub fn listening(process: Process) -> Self {
        let Some(address) = process.printed("listening on ") else {
            panic!("never listened: {}\n{}", process.stdout.text(), process.command)
        };
        Self { process, address }
    }

    /// Standard output and standard error so far.
    pub fn log(&self) -> String {
        format!("{}{}", self.process.stdout.text(), self.process.stderr.text())
    }

    /// The process, for signals and its end.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A value that the server prints on its own line, such as an address.
    pub fn printed(&self, prefix: &str) -> Option<String> {
        self.process.printed(prefix)
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// Sends SIGTERM and waits for a clean end; returns its outputs.
    #[track_caller]
    pub fn terminate(self) -> Finished {
        self.process.terminate()
    }

    /// Runs a client command against this server.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Finished {
        let mut command = client_of(&self.address);
        command.args(args);
        Process::spawn(command).wait(LONG_PATIENCE)
    }

    /// Clients of all services over one connection.
    pub async fn clients(&self) -> Clients {
        Clients::connect(&self.address).await.expect("the server listens")
    }

    /// Clients, after [`Clients::put_catalog`].
    pub async fn clients_with_catalog(&self, purposes: &[&str], channels: &[&str]) -> Clients {
        let mut clients = self.clients().await;
        clients.put_catalog(purposes, channels).await;
        clients
    }
}
