//! Servers as processes of their own, and what they use.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tonic::transport::{Channel, Endpoint};

use crate::cli::error::CliError;

/// Clock ticks a second in `/proc/PID/stat`; Linux shows 100 to programs on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// A server process. It is killed when dropped.
pub(super) struct ServerProcess {
    child: Child,
    addr: String,
}

impl ServerProcess {
    /// The service on a data directory.
    pub(super) fn serve(data_dir: &Path) -> Result<Self, CliError> {
        Self::serve_with(data_dir, &[])
    }

    /// The service on a data directory, with more flags.
    pub(super) fn serve_with(data_dir: &Path, flags: &[&str]) -> Result<Self, CliError> {
        let mut command = Self::command()?;
        command.arg("serve").arg("--data-dir").arg(data_dir);
        command.args(["--listen", "127.0.0.1:0", "--log-level", "warn"]).args(flags);
        Self::start(command)
    }

    /// The echo server.
    pub(super) fn echo() -> Result<Self, CliError> {
        let mut command = Self::command()?;
        command.arg("bench-echo");
        Self::start(command)
    }

    fn command() -> Result<Command, CliError> {
        let binary = env::current_exe().map_err(|error| CliError::io("this binary", error))?;
        let mut command = Command::new(binary);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(command)
    }

    /// Starts a server and waits until it says where it listens.
    fn start(mut command: Command) -> Result<Self, CliError> {
        let mut child =
            command.spawn().map_err(|error| CliError::io("starting a server", error))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut line)
                .map_err(|error| CliError::io("a server's output", error))?;
        }
        match line.trim().strip_prefix("listening on ") {
            Some(addr) => Ok(Self { addr: format!("http://{addr}"), child }),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                Err(CliError::failed("a server did not start"))
            }
        }
    }

    /// Connections to the server.
    pub(super) async fn connect(&self, count: usize) -> Result<Vec<Channel>, CliError> {
        self.connect_with(count, |endpoint| endpoint).await
    }

    /// Connections to the server, set up in some way.
    pub(super) async fn connect_with(
        &self,
        count: usize,
        set_up: impl Fn(Endpoint) -> Endpoint,
    ) -> Result<Vec<Channel>, CliError> {
        let mut channels = Vec::new();
        for _ in 0..count {
            let endpoint = Endpoint::from_shared(self.addr.clone())
                .map_err(|error| CliError::failed(error.to_string()))?;
            let channel = set_up(endpoint.tcp_nodelay(true)).connect().await;
            channels.push(channel.map_err(|error| CliError::failed(error.to_string()))?);
        }
        Ok(channels)
    }

    /// CPU time that the process has used.
    pub(super) fn cpu(&self) -> Result<Duration, CliError> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(&path).map_err(|error| CliError::io(path, error))?;
        // The fields count from after the name, which is in parentheses and may hold anything.
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

    /// Ends the server as an operator would, and waits for it.
    pub(super) fn terminate(mut self) -> Result<(), CliError> {
        let pid = self.child.id().to_string();
        let failed = |error| CliError::io("ending a server", error);
        Command::new("kill").args(["-TERM", &pid]).status().map_err(failed)?;
        self.child.wait().map_err(failed)?;
        Ok(())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
