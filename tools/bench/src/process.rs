//! Server processes, and their use of CPU time and memory.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use consent_ledger::cli::error::CliError;
use tonic::transport::{Channel, Endpoint};

use super::load::failed;

/// Clock ticks a second in `/proc/PID/stat`: always 100 on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// The `consent-ledger` binary to measure: `path`, or else the one in the directory of this binary.
pub(super) fn service_binary(path: Option<&Path>) -> Result<PathBuf, CliError> {
    let binary = match path {
        Some(path) => path.to_owned(),
        None => this_binary()?.with_file_name(format!("consent-ledger{}", env::consts::EXE_SUFFIX)),
    };
    if binary.is_file() {
        return Ok(binary);
    }
    let profile = if cfg!(debug_assertions) { "" } else { " --release" };
    Err(CliError::failed(format!("there is no server binary at {}", binary.display())).with_hint(
        format!("build it with `cargo build{profile} -p consent-ledger`, or name it with --binary"),
    ))
}

fn this_binary() -> Result<PathBuf, CliError> {
    env::current_exe().map_err(|error| CliError::io("this binary", error))
}

/// A server process. It is killed when dropped.
pub(super) struct ServerProcess {
    child: Child,
    /// Host and port.
    address: String,
}

impl ServerProcess {
    /// The service on a data directory.
    pub(super) fn serve(binary: &Path, data_dir: &Path) -> Result<Self, CliError> {
        Self::serve_with(binary, data_dir, &[])
    }

    /// The service on a data directory, with more flags.
    pub(super) fn serve_with(
        binary: &Path,
        data_dir: &Path,
        flags: &[&str],
    ) -> Result<Self, CliError> {
        if !data_dir.exists() {
            let mut command = Command::new(binary);
            command.arg("init").arg("--data-dir").arg(data_dir).stdout(Stdio::null());
            let made = command.status().map_err(|error| CliError::io("making a ledger", error))?;
            if !made.success() {
                return Err(CliError::failed("no ledger was made"));
            }
        }
        let mut command = Command::new(binary);
        command.arg("serve").arg("--data-dir").arg(data_dir);
        command.args(["--listen", "127.0.0.1:0", "--log-level", "warn"]).args(flags);
        Self::start(command)
    }

    /// The echo server.
    pub(super) fn echo() -> Result<Self, CliError> {
        let mut command = Command::new(this_binary()?);
        command.arg("echo");
        Self::start(command)
    }

    /// Starts a server and waits until it prints its address.
    fn start(mut command: Command) -> Result<Self, CliError> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child =
            command.spawn().map_err(|error| CliError::io("starting a server", error))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut line)
                .map_err(|error| CliError::io("a server's output", error))?;
        }
        match line.trim().strip_prefix("listening on ") {
            Some(address) => Ok(Self { address: address.to_owned(), child }),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                Err(CliError::failed("a server did not start"))
            }
        }
    }

    /// Host and port of the server.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Connections to the server.
    pub(super) async fn connect(&self, count: usize) -> Result<Vec<Channel>, CliError> {
        self.connect_with(count, |endpoint| endpoint).await
    }

    /// Connections to the server with settings.
    pub(super) async fn connect_with(
        &self,
        count: usize,
        set_up: impl Fn(Endpoint) -> Endpoint,
    ) -> Result<Vec<Channel>, CliError> {
        let mut channels = Vec::new();
        for _ in 0..count {
            let endpoint = format!("http://{}", self.address);
            let endpoint = Endpoint::from_shared(endpoint).map_err(failed)?;
            let channel = set_up(endpoint.tcp_nodelay(true)).connect().await;
            channels.push(channel.map_err(failed)?);
        }
        Ok(channels)
    }

    /// CPU time that the process has used.
    pub(super) fn cpu(&self) -> Result<Duration, CliError> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(&path).map_err(|error| CliError::io(path, error))?;
        // Skip the name, which is in parentheses and may contain spaces.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = |field: usize| {
            rest.split_whitespace().nth(field).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0)
        };
        Ok(Duration::from_secs_f64((ticks(11) + ticks(12)) / TICKS_PER_SECOND))
    }

    /// Resident memory of the process, in bytes.
    pub(super) fn resident_bytes(&self) -> Result<f64, CliError> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).map_err(|error| CliError::io(path, error))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        Ok(kib.unwrap_or(0.0) * 1024.0)
    }

    /// Bytes that the process has had written to disks.
    pub(super) fn written_bytes(&self) -> Result<f64, CliError> {
        let path = format!("/proc/{}/io", self.child.id());
        let io = fs::read_to_string(&path).map_err(|error| CliError::io(path, error))?;
        let bytes = io.lines().find_map(|line| line.strip_prefix("write_bytes:"));
        Ok(bytes.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0.0))
    }

    /// Ends the server with SIGTERM and waits for it.
    pub(super) fn terminate(mut self) -> Result<(), CliError> {
        let pid = self.child.id().to_string();
        let io_error = |error| CliError::io("ending a server", error);
        Command::new("kill").args(["-TERM", &pid]).status().map_err(io_error)?;
        self.child.wait().map_err(io_error)?;
        Ok(())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
