//! The tour of README, command by command, in a shell: it prints what README shows.
//!
//! A line with `…` stands for any number of lines. Times, hashes, keys and sizes differ in every run, and so
//! does the width of columns; everything else must be the same.

use std::{os::unix::fs::symlink, path::Path, process::Command, time::Instant};

use crate::support::{self, BINARY, Finished, PATIENCE, Process, clean};

/// A command that README shows, with the lines below it.
struct Step {
    command: String,
    shown: Vec<String>,
}

/// The blocks of the tour: commands, or else the output of one that still runs.
fn blocks() -> Vec<(Vec<Step>, Vec<String>)> {
    let readme = std::fs::read_to_string(support::repository("README.md")).unwrap();
    let tour = readme.split("\n## A tour in five minutes\n").nth(1).unwrap();
    let tour = tour.split("\n## ").next().unwrap();
    let texts = tour.split("\n```console\n").skip(1);
    texts.map(|text| steps(text.split("\n```").next().unwrap())).collect()
}

/// The commands of a block, and what stands before the first of them.
fn steps(block: &str) -> (Vec<Step>, Vec<String>) {
    let (mut steps, mut output) = (Vec::<Step>::new(), Vec::new());
    let joined = block.replace("\\\n", " ");
    for line in joined.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => {
                steps.push(Step { command: command.to_owned(), shown: Vec::new() });
            }
            (None, Some(step)) => step.shown.push(line.to_owned()),
            (None, None) => output.push(line.to_owned()),
        }
    }
    (steps, output)
}

/// The line without what differs in every run.
fn masked(line: &str) -> String {
    let mask = |word: &str| {
        let is_time = word.ends_with('Z') && word.contains('T') && word.contains(':');
        let is_random = word.len() > 30 && !word.contains([':', '.']);
        let is_mask = is_time || is_random;
        if is_mask { "*".to_owned() } else { word.to_owned() }
    };
    match line.split_whitespace().next() {
        Some("bytes") => "bytes *".to_owned(),
        _ => line.split_whitespace().map(mask).collect::<Vec<_>>().join(" "),
    }
}

/// Whether lines are those that are shown.
fn are_shown(lines: &[String], shown: &[String]) -> bool {
    match shown.split_first() {
        None => lines.is_empty(),
        Some((any, rest)) if any == "…" => {
            (0..=lines.len()).any(|left_out| are_shown(&lines[left_out..], rest))
        }
        Some((first, rest)) => {
            lines.split_first().is_some_and(|(line, lines)| line == first && are_shown(lines, rest))
        }
    }
}

fn lines(text: &str) -> Vec<String> {
    text.trim_end().lines().map(masked).collect()
}

/// What the commands share.
struct Terminal<'a> {
    dir: &'a Path,
    server: Option<Process>,
    watch: Option<Process>,
    address: String,
    /// The id of the ledger that README shows, and the real one.
    ledger_id: Option<(String, String)>,
}

impl Terminal<'_> {
    fn run(&mut self, step: &Step) {
        let mut command = step.command.replace(" --listen 127.0.0.1:50051", "");
        if let Some((shown, real)) = &self.ledger_id {
            command = command.replace(shown, real);
        }
        if command.starts_with("consent-ledger serve ") {
            drop(self.watch.take());
            drop(self.server.take().map(Process::terminate));
            let server = self.spawn(&command);
            self.address = server.printed("listening on ").unwrap();
            self.server = Some(server);
        } else if command == "consent-ledger watch" {
            // Whether it is connected before the next command is a matter of luck.
            self.watch = Some(self.spawn("consent-ledger watch --from 0"));
        } else {
            let shown: Vec<_> = step.shown.iter().map(|line| masked(line)).collect();
            let is_shown =
                |run: &Finished| shown.is_empty() || are_shown(&lines(&run.stdout), &shown);
            let mut run = self.spawn(&command).wait(PATIENCE);
            let began = Instant::now();
            // The next checkpoint is signed within a second or so.
            while command.contains(" verify ") && !is_shown(&run) && began.elapsed() < PATIENCE {
                run = self.spawn(&command).wait(PATIENCE);
            }
            assert!(matches!(run.code, Some(0 | 3)), "{command}: {run:?}");
            assert!(
                is_shown(&run),
                "README shows of `{command}`\n{}\nand it prints\n{}",
                step.shown.join("\n"),
                run.stdout
            );
            if command == "consent-ledger init" {
                let id = |text: &str| text.split_whitespace().nth(2).unwrap().to_owned();
                self.ledger_id = Some((id(&step.shown[0]), id(&run.stdout)));
            }
        }
    }

    fn spawn(&self, command: &str) -> Process {
        let mut shell = clean(Command::new("sh"));
        let programs = Path::new(BINARY).parent().unwrap().display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        shell.args(["-c", &format!("exec {command}")]).current_dir(self.dir);
        shell.env("PATH", format!("{programs}:{path}"));
        shell.env("CONSENT_LEDGER_LISTEN", "127.0.0.1:0");
        shell.env("CONSENT_LEDGER_ADDR", &self.address);
        Process::spawn(shell)
    }
}

#[test]
fn the_tour_prints_what_readme_shows() {
    let dir = tempfile::tempdir().unwrap();
    symlink(support::repository("examples"), dir.path().join("examples")).unwrap();
    let mut terminal = Terminal {
        dir: dir.path(),
        server: None,
        watch: None,
        address: String::new(),
        ledger_id: None,
    };
    let mut ran = 0;
    for (steps, output) in blocks() {
        for step in &steps {
            terminal.run(step);
            ran += 1;
        }
        if !output.is_empty() {
            let watch = terminal.watch.as_ref().expect("only `watch` prints later");
            let wanted = masked(&output.join("\n"));
            let heard =
                watch.stdout.wait_for(PATIENCE, |text| lines(text).contains(&wanted).then_some(()));
            assert!(heard.is_some(), "README shows\n{wanted}\nand prints\n{}", watch.stdout.text());
        }
    }
    assert!(ran >= 14, "README has only {ran} commands");
}
