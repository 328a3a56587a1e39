//! Runs the built binary, or any other program.
//!
//! Every process is killed when its handle is dropped, also when a test fails; the test then prints
//! its standard error. Every wait has a deadline.

use std::{
    io::Read,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{LONG_PATIENCE, PATIENCE, json_lines, wait_until};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_consent-ledger");

/// The binary, without the settings in the environment of the test run.
pub fn binary() -> Command {
    clean(Command::new(BINARY))
}

/// Removes the service's settings from the environment of a command.
pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CONSENT_LEDGER_") {
            command.env_remove(name);
        }
    }
    command
}

/// One output of a process, as it is written.
#[derive(Clone)]
pub struct Captured(Arc<(Mutex<Capture>, Condvar)>);

#[derive(Default)]
struct Capture {
    bytes: Vec<u8>,
    ended: bool,
}

impl Captured {
    fn of(mut source: impl Read + Send + 'static) -> Self {
        let captured = Self(Arc::default());
        let shared = captured.clone();
        thread::spawn(move || {
            let mut buffer = [0; 8 * 1024];
            loop {
                let read = source.read(&mut buffer).unwrap_or(0);
                let mut capture = shared.lock();
                capture.bytes.extend_from_slice(&buffer[..read]);
                capture.ended = read == 0;
                shared.0.1.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        captured
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Capture> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// Everything, once the process has closed it.
    fn whole(&self) -> String {
        let capture = self.lock();
        let (capture, _) = (self.0.1)
            .wait_timeout_while(capture, PATIENCE, |capture| !capture.ended)
            .unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&capture.bytes).into_owned()
    }

    /// Waits until `find` returns a value; `None` if the output ends or the time passes first.
    pub fn wait_for<T>(
        &self,
        patience: Duration,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut capture = self.lock();
        loop {
            if let Some(found) = find(&String::from_utf8_lossy(&capture.bytes)) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if capture.ended || left.is_zero() {
                return None;
            }
            (capture, _) =
                (self.0.1).wait_timeout(capture, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A process whose outputs are captured; killed when it is dropped.
pub struct Process {
    child: Child,
    pub(super) command: String,
    pub stdout: Captured,
    pub stderr: Captured,
}

impl Process {
    #[track_caller]
    pub fn spawn(command: Command) -> Self {
        Self::spawn_reading(command, Stdio::null())
    }

    /// Like [`Self::spawn`], with a standard input.
    #[track_caller]
    pub fn spawn_reading(mut command: Command, input: impl Into<Stdio>) -> Self {
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let command_text = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command_text}: {error}"));
        let stdout = Captured::of(child.stdout.take().expect("it is piped"));
        let stderr = Captured::of(child.stderr.take().expect("it is piped"));
        Self { child, command: command_text, stdout, stderr }
    }

    /// The exit status, if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child is ours to wait for")
    }

    #[track_caller]
    pub fn wait(mut self, patience: Duration) -> Finished {
        let command = self.command.clone();
        let status = wait_until(&format!("end of {command}"), patience, || self.ended());
        Finished {
            command,
            code: status.code(),
            stdout: self.stdout.whole(),
            stderr: self.stderr.whole(),
        }
    }

    /// Sends SIGTERM and waits for a clean end.
    #[track_caller]
    pub fn terminate(self) -> Finished {
        self.signal(Signal::TERM);
        self.wait(PATIENCE).expect_code(0)
    }

    /// A value that the process prints on its own line, such as an address.
    pub fn printed(&self, prefix: &str) -> Option<String> {
        self.stdout.wait_for(PATIENCE, |text| line_value(text, prefix))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the child was not waited for");
    }

    /// Kills the process at once and waits for its end.
    pub fn kill(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- {}\n--- its standard error:\n{}", self.command, self.stderr.text());
        }
    }
}

/// The exit code and the outputs of a command.
#[derive(Debug)]
pub struct Finished {
    pub(super) command: String,
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Fails the test unless the command ended with this code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Standard output and standard error.
    pub fn output(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }

    /// The standard output as one JSON value.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", self.command, self.stdout))
    }

    /// The standard output as one JSON value a line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        json_lines(&self.stdout)
    }
}

/// Runs the binary until it ends.
#[track_caller]
pub fn run<I: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = I>) -> Finished {
    let mut command = binary();
    command.args(args);
    Process::spawn(command).wait(LONG_PATIENCE)
}

/// `verify --json --data-dir DIR`.
#[track_caller]
pub fn verify(data_dir: &Path) -> Finished {
    run(["verify".as_ref(), "--json".as_ref(), "--data-dir".as_ref(), data_dir.as_os_str()])
}

fn line_value(text: &str, prefix: &str) -> Option<String> {
    // Only whole lines: the last one may be incomplete.
    let whole = &text[..=text.rfind('\n')?];
    whole.lines().find_map(|line| line.strip_prefix(prefix)).map(|value| value.trim().to_owned())
}
