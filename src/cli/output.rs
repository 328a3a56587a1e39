//! Standard output: tables for people, JSON for scripts, never both.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt::Display,
    io::{self, BufWriter, Write},
};

use anstream::{AutoStream, ColorChoice, stream::RawStream};
use anstyle::{AnsiColor, Style};
use clap::{Args, ValueEnum};
use prost::Name;
use serde::Serialize;

use super::{error::CliError, layers};
use crate::json::ProtoJson;

/// Options of the output.
#[derive(Debug, Clone, Copy, Args)]
pub struct Printing {
    /// Print JSON: one object, or one object a line for streams
    #[arg(long, global = true)]
    pub json: bool,
    /// When to use colours: auto, always or never
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        hide_possible_values = true,
        default_value = "auto"
    )]
    pub color: ColorWhen,
}

impl Printing {
    /// Guesses the options before the arguments are parsed, for errors in the arguments themselves.
    #[must_use]
    pub fn guess(args: &[OsString]) -> Self {
        let json = args.iter().any(|arg| arg == "--json" || arg == "--json=true")
            || env::var("CONSENT_LEDGER_JSON").is_ok_and(|json| json == "1" || json == "true");
        let color = match layers::early(args, "color").as_deref().and_then(OsStr::to_str) {
            Some("never") => ColorWhen::Never,
            Some("always") => ColorWhen::Always,
            _ => ColorWhen::Auto,
        };
        Self { json, color }
    }
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Whether to use colours on a stream.
pub fn color_on(when: ColorWhen, stream: &impl RawStream) -> bool {
    match when {
        ColorWhen::Always => true,
        ColorWhen::Never => false,
        ColorWhen::Auto => AutoStream::choice(stream) != ColorChoice::Never,
    }
}

/// Standard output, or another place to print to.
pub struct Output {
    to: BufWriter<Box<dyn Write + Send>>,
    /// Whether to print JSON.
    pub json: bool,
    color: bool,
}

impl Output {
    /// The process's standard output.
    #[must_use]
    pub fn stdout(printing: Printing) -> Self {
        let color = color_on(printing.color, &io::stdout());
        Self::new(Box::new(io::stdout()), printing.json, color)
    }

    /// Another place to print to.
    #[must_use]
    pub fn new(to: Box<dyn Write + Send>, json: bool, color: bool) -> Self {
        Self { to: BufWriter::with_capacity(64 * 1024, to), json, color }
    }

    /// Prints a message of the protocol as ProtoJSON, on a line of its own.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn message(&mut self, message: &impl Name) -> Result<(), CliError> {
        self.object(&ProtoJson(message))
    }

    /// Prints one JSON object on a line of its own.
    ///
    /// # Errors
    /// The output failed, or its reader closed it; or a message in it holds a time that has no JSON
    /// form.
    pub fn object(&mut self, object: &impl Serialize) -> Result<(), CliError> {
        match serde_json::to_writer(&mut self.to, object) {
            Err(error) if error.is_io() => Err(CliError::stdout(error.into())),
            Err(error) => Err(CliError::failed(format!("can not print JSON: {error}"))),
            Ok(()) => self.line(""),
        }
    }

    /// Prints a line.
    ///
    /// # Errors
    /// The output failed, or its reader closed it.
    pub fn line(&mut self, line: impl Display) -> Result<(), CliError> {
        writeln!(self.to, "{line}").map_err(CliError::stdout)
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// The output failed, or its reader closed it.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.to.write_all(bytes).map_err(CliError::stdout)
    }

    /// Prints a table: columns aligned, two spaces apart. An empty one prints nothing.
    ///
    /// # Errors
    /// The output failed, or its reader closed it.
    pub fn table(&mut self, table: &Table) -> Result<(), CliError> {
        for line in table.lines(self.color) {
            self.line(line)?;
        }
        Ok(())
    }

    /// A text in a colour, if colours are on.
    #[must_use]
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        if self.color { tone.paint(text) } else { text.to_owned() }
    }

    /// Flushes after a command has printed its result. A reader that closed the output is not an
    /// error here: it still gets the exit code, which must be that of the result.
    ///
    /// # Errors
    /// Printing or flushing failed.
    pub fn finish(&mut self, printed: Result<(), CliError>) -> Result<(), CliError> {
        match printed.and_then(|()| self.flush()) {
            Err(CliError::StdoutClosed) => Ok(()),
            other => other,
        }
    }

    /// Writes out the buffer.
    ///
    /// # Errors
    /// The output failed, or its reader closed it.
    pub fn flush(&mut self) -> Result<(), CliError> {
        self.to.flush().map_err(CliError::stdout)
    }
}

/// Meaning of a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Success.
    Good,
    /// Needs attention.
    Careful,
    /// Failure.
    Bad,
    /// A heading.
    Heading,
    /// Neutral.
    Plain,
}

impl Tone {
    fn paint(self, text: &str) -> String {
        let style = match self {
            Self::Good => AnsiColor::Green.on_default(),
            Self::Careful => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default(),
            Self::Heading => Style::new().bold(),
            Self::Plain => return text.to_owned(),
        };
        format!("{style}{text}{style:#}")
    }
}

/// Rows under a heading. The first cell of a row may have a colour.
pub struct Table {
    heading: Vec<&'static str>,
    rows: Vec<(Tone, Vec<String>)>,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new(heading: &[&'static str]) -> Self {
        Self { heading: heading.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, tone: Tone, cells: [String; N]) {
        self.rows.push((tone, cells.into()));
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn lines(&self, color: bool) -> Vec<String> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(self.heading.clone());
        table.add_rows(self.rows.iter().map(|(_, cells)| cells.iter().map(|cell| one_line(cell))));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let tones = std::iter::once(Tone::Heading).chain(self.rows.iter().map(|(tone, _)| *tone));
        let painted = |(line, tone): (String, Tone)| {
            let line = line.trim_end();
            if color { paint_first_cell(line, tone) } else { line.to_owned() }
        };
        table.lines().zip(tones).map(painted).collect()
    }
}

/// Colours are added after the columns are aligned: their codes would count as width.
fn paint_first_cell(line: &str, tone: Tone) -> String {
    let end = match tone {
        Tone::Heading => line.len(),
        _ => line.find("  ").unwrap_or(line.len()),
    };
    format!("{}{}", tone.paint(&line[..end]), &line[end..])
}

/// Escapes control characters, so that a row stays on one line.
fn one_line(cell: &str) -> String {
    cell.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["EFFECT", "PURPOSE"]);
        table.row(Tone::Good, ["allow".into(), "marketing.newsletter".into()]);
        table.row(Tone::Bad, ["deny".into(), "a\nb".into()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_rows_stay_lines() {
        assert_eq!(
            table().lines(false),
            ["EFFECT  PURPOSE", "allow   marketing.newsletter", "deny    a\\nb"]
        );
    }

    #[test]
    fn colours_do_not_move_columns() {
        let plain: Vec<String> = table()
            .lines(true)
            .iter()
            .map(|l| anstream::adapter::strip_str(l).to_string())
            .collect();
        assert_eq!(plain, table().lines(false));
        assert!(table().lines(true)[1].starts_with("\u{1b}[32mallow\u{1b}[0m  "));
    }
}
