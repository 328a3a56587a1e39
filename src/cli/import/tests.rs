//! `import` from arguments to output and files, against a server that answers by rote.

use std::{ffi::OsString, fs, path::PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::cli::{
    Command, parse_with,
    testing::{Capture, Rote, Seen},
};

const MAPPING: &str = "subject = \"user:{id}\"\n\
    [[cells]]\ncolumn = \"news\"\npurpose = \"a\"\nchannel = \"email\"\n\
    grant = [\"yes\"]\nwithdraw = [\"no\"]\n";

/// A directory with files, and a server.
struct Desk {
    dir: TempDir,
    addr: String,
    seen: Seen,
}

impl Desk {
    async fn new(files: &[(&str, &str)]) -> Self {
        let (addr, seen) = Rote::start().await;
        let desk = Self { dir: tempfile::tempdir().unwrap(), addr, seen };
        files.iter().for_each(|(name, text)| desk.write(name, text));
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Runs `import`; words that name a file of the directory become its path.
    async fn import(&self, words: &[&str]) -> (Result<Exit, CliError>, String) {
        let json = words.contains(&"--json");
        let mut args: Vec<OsString> =
            ["consent-ledger", "--addr", &self.addr, "import"].map(Into::into).into();
        for word in words {
            let is_file = word.contains('.');
            args.push(if is_file { self.path(word).into() } else { word.into() });
        }
        let cli = parse_with(&args, None).unwrap();
        let (mut context, capture) = Capture::context_of(&["--addr", &self.addr], json);
        let ended = Box::pin(crate::cli::run(cli.command, false, &mut context)).await;
        (ended, capture.text(context))
    }
}

fn hint(error: &CliError) -> String {
    error.to_json()["error"]["hint"].as_str().unwrap_or_default().to_owned()
}

fn row(subject: &str) -> String {
    let change = r#"{"action":"ACTION_GRANT","scope":{"purpose":"a","channel":"email"}}"#;
    format!("{{\"subject\":\"{subject}\",\"changes\":[{change}]}}\n")
}

fn many(rows: usize) -> String {
    (0..rows).map(|number| row(&format!("user:{number}"))).collect()
}

const CSV: [&str; 5] = ["a.csv", "--source", "crm", "--mapping", "m.toml"];

#[tokio::test]
async fn rejects_of_both_sides_are_told_in_the_order_of_the_file() {
    let csv = "id,news\n1,yes\nrefused,no\n2,perhaps\n3,\n4,no,x\n";
    let desk = Desk::new(&[("a.csv", csv), ("m.toml", MAPPING)]).await;
    let (ended, text) = desk.import(&[&CSV[..], &["--json"]].concat()).await;
    assert_eq!(ended.unwrap(), Exit::Failed);
    let imported: Value = serde_json::from_str(&text).unwrap();
    let counts = ["rows", "recorded", "unchanged", "replayed", "rejected"];
    assert_eq!(counts.map(|name| imported[name].as_u64().unwrap()), [5, 1, 1, 0, 3]);
    assert_eq!(imported["outcomes"], json!([{"outcome": "OUTCOME_APPLIED", "count": "1"}]));
    assert!(imported["rejects"].as_str().unwrap().ends_with("a.csv.rejects.ndjson"));
    let rejects = desk.lines("a.csv.rejects.ndjson");
    let want = [
        json!({"line": "3", "field": "changes[0].scope", "reason": "INVALID_FIELD",
               "message": "refused by rote"}),
        json!({"line": "4", "field": "news", "reason": "unknown_value",
               "message": "`perhaps` is none of `no`, `yes`"}),
        json!({"line": "6", "field": "", "reason": "not_a_row",
               "message": "has 3 fields, and the heading 2"}),
    ];
    assert_eq!(rejects, want);
    assert!(!desk.path("a.csv.import-state.json").exists());
    let sent = desk.seen.rows();
    assert_eq!(sent.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 3, 5]);
    // What is right the next time leaves no file behind.
    desk.write("a.csv", "id,news\n1,yes\n");
    let (ended, text) = desk.import(&CSV).await;
    assert_eq!(ended.unwrap(), Exit::Success);
    assert!(!desk.path("a.csv.rejects.ndjson").exists());
    assert!(text.contains("RESULT     ROWS\nrecorded   1\nunchanged  0\n"), "{text}");
    assert!(text.ends_with("OUTCOME  CHANGES\napplied  1\n"), "{text}");
}

#[tokio::test]
async fn rows_go_in_streams_and_messages_of_bounded_size() {
    let desk = Desk::new(&[("a.ndjson", &many(10_600))]).await;
    let (ended, _) = desk.import(&["a.ndjson", "--source", "crm", "--dry-run"]).await;
    assert_eq!(ended.unwrap(), Exit::Success);
    let streams = desk.seen.streams();
    let start = ImportStart { source: "crm".to_owned(), dry_run: true };
    assert_eq!(streams, [(start.clone(), vec![500; 20]), (start, vec![500, 100])]);
}

#[tokio::test]
async fn a_stream_without_room_is_sent_again() {
    let desk = Desk::new(&[("a.ndjson", &row("busy:1"))]).await;
    let (ended, _) = desk.import(&["a.ndjson", "--source", "crm"]).await;
    assert_eq!(ended.unwrap(), Exit::Success);
    assert_eq!(desk.seen.rows().len(), 1);
}

#[tokio::test]
async fn an_import_that_stopped_sends_exactly_the_rest() {
    // A quoted line end, a reject of each side before the stop, and one after it.
    let mut csv = "id,news\n\"0\",\"no\"\nrefused,yes\n5,perhaps\n".to_owned();
    csv += &(3..20_500).map(|number| format!("{number},\" yes\n\"\n")).collect::<String>();
    csv += "6,perhaps\n";
    let desk = Desk::new(&[("a.csv", &csv), ("m.toml", MAPPING)]).await;
    desk.seen.break_after(Some(1));
    let (ended, text) = desk.import(&CSV).await;
    assert_eq!(ended.unwrap_err().to_json()["error"]["reason"], "INTERNAL");
    assert_eq!(text, "");
    let before = desk.seen.rows().len();
    assert_eq!((before, desk.lines("a.csv.rejects.ndjson").len()), (9_999, 2));
    // As if the crash came between the rejects and the state.
    let rejects = fs::read_to_string(desk.path("a.csv.rejects.ndjson")).unwrap();
    desk.write("a.csv.rejects.ndjson", &format!("{rejects}{rejects}"));
    desk.seen.break_after(None);
    let (ended, text) = desk.import(&[&CSV[..], &["--json"]].concat()).await;
    assert_eq!(ended.unwrap(), Exit::Failed);
    let imported: Value = serde_json::from_str(&text).unwrap();
    let counts = ["rows", "recorded", "rejected", "resumedAtLine"];
    assert_eq!(counts.map(|name| imported[name].as_u64().unwrap()), [20_501, 20_498, 3, 19_999]);
    let rejects = desk.lines("a.csv.rejects.ndjson");
    let lines: Vec<_> = rejects.iter().map(|reject| reject["line"].as_str().unwrap()).collect();
    assert_eq!(lines, ["3", "4", "40999"]);
    let subjects: Vec<_> = desk.seen.rows().into_iter().map(|row| row.subject).collect();
    let want = (3..20_500).map(|number| format!("user:{number}"));
    let want: Vec<_> =
        ["user:0", "user:refused"].map(str::to_owned).into_iter().chain(want).collect();
    assert!(subjects == want);
    assert!(!desk.path("a.csv.import-state.json").exists());
}

#[tokio::test]
async fn ndjson_goes_on_too() {
    let desk = Desk::new(&[("a.ndjson", &many(10_002))]).await;
    desk.seen.break_after(Some(1));
    assert!(desk.import(&["a.ndjson", "--source", "crm"]).await.0.is_err());
    desk.seen.break_after(None);
    let (ended, _) = desk.import(&["a.ndjson", "--source", "crm"]).await;
    assert_eq!(ended.unwrap(), Exit::Success);
    let lines: Vec<_> = desk.seen.rows().iter().map(|row| row.line).collect();
    assert_eq!(lines, (1..=10_002).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_interrupt_waits_for_what_is_under_way_and_says_how_to_go_on() {
    let desk = Desk::new(&[("a.ndjson", &many(30_001))]).await;
    let mut args: Vec<OsString> =
        ["consent-ledger", "import", "--source", "crm"].map(Into::into).into();
    args.push(desk.path("a.ndjson").into());
    let Command::Import(args) = parse_with(&args, None).unwrap().command else { panic!() };
    let (mut context, _) = Capture::context_of(&["--addr", &desk.addr], false);
    let interrupt = async {
        while desk.seen.streams().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let error = Box::pin(run_until(interrupt, *args, &mut context)).await.unwrap_err();
    let answered = desk.seen.rows().len();
    assert!(answered < 30_001);
    assert_eq!(error.to_string(), format!("stopped before line {}", answered + 1));
    assert!(hint(&error).contains("the same command goes on"));
    let (ended, _) = desk.import(&["a.ndjson", "--source", "crm"]).await;
    assert_eq!(ended.unwrap(), Exit::Success);
    let lines: Vec<_> = desk.seen.rows().iter().map(|row| row.line).collect();
    assert!(lines == (1..=30_001).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_has_changed_since_the_stop_is_an_error() {
    let rows: String = (0..10_001).map(|number| format!("{number},yes\n")).collect();
    let csv = format!("id,news\n{rows}");
    let desk = Desk::new(&[("a.csv", &csv), ("m.toml", MAPPING)]).await;
    desk.seen.break_after(Some(1));
    desk.import(&CSV).await.0.unwrap_err();
    desk.seen.break_after(None);
    let longer = format!("{csv}1,no\n");
    for (name, text, more, want) in [
        ("a.csv", &*longer, &[][..], "the file has changed"),
        ("a.csv", &*csv.replacen("0,yes", "0, no", 1), &[], "the file has changed"),
        ("m.toml", &*MAPPING.replace("no", "nay"), &[], "mapping: it has changed"),
        ("a.csv", &*csv, &["--source", "erp"], "was of the source `crm`"),
        ("a.csv", &*csv, &["--rejects", "r.ndjson"], "keeps its rejects in"),
    ] {
        desk.write("a.csv", &csv);
        desk.write("m.toml", MAPPING);
        desk.write(name, text);
        let source = if more.contains(&"--source") { &[][..] } else { &["--source", "crm"] };
        let words = [&["a.csv", "--mapping", "m.toml"], source, more].concat();
        let error = desk.import(&words).await.0.unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert!(hint(&error).contains("--restart"));
    }
    desk.write("a.csv", &longer);
    let before = desk.seen.rows().len();
    let (ended, _) = desk.import(&[&CSV[..], &["--restart"]].concat()).await;
    assert_eq!(ended.unwrap(), Exit::Success);
    assert_eq!(desk.seen.rows().len(), before + 10_002);
}

#[tokio::test]
async fn a_dry_run_leaves_a_stopped_import_alone() {
    let desk = Desk::new(&[("a.ndjson", &(row("user:refused") + &many(10_001)))]).await;
    desk.seen.break_after(Some(1));
    desk.import(&["a.ndjson", "--source", "crm"]).await.0.unwrap_err();
    desk.seen.break_after(None);
    let dry = ["a.ndjson", "--source", "crm", "--dry-run"];
    assert!(hint(&desk.import(&dry).await.0.unwrap_err()).contains("--rejects"));
    let (ended, text) = desk.import(&[&dry[..], &["--rejects", "r.ndjson"]].concat()).await;
    assert_eq!(ended.unwrap(), Exit::Failed);
    assert!(text.starts_with("a dry run: nothing was recorded\n10002 rows in "), "{text}");
    assert!(desk.path("a.ndjson.import-state.json").exists());
    assert_eq!(desk.lines("a.ndjson.rejects.ndjson"), desk.lines("r.ndjson"));
}

#[tokio::test]
async fn what_can_not_be_imported_is_an_error_before_anything_is_sent() {
    let files = [("a.csv", "id,mail\n1,yes\n"), ("e.csv", ""), ("m.toml", MAPPING), ("a.txt", "")];
    let desk = Desk::new(&files).await;
    for (words, want, want_hint) in [
        (&CSV[..], "no column `news`", "it has `id`, `mail`"),
        (&["e.csv", "--source", "crm", "--mapping", "m.toml"], "no heading", ""),
        (&["a.csv", "--source", "crm"], "needs a --mapping", "import-mapping.toml"),
        (&["a.txt", "--source", "crm"], "whether it is CSV or NDJSON", "--format"),
        (&["no.ndjson", "--source", "crm"], "no.ndjson", ""),
        (&[&CSV[..], &["--format", "ndjson"]].concat(), "--mapping is for CSV", ""),
        (&[&CSV[..], &["--rejects", "a.csv"]].concat(), "a file that is read", ""),
    ] {
        let error = desk.import(words).await.0.unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert!(hint(&error).contains(want_hint), "{error:?}");
    }
    assert!(desk.seen.streams().is_empty());
    assert_eq!(fs::read_dir(desk.dir.path()).unwrap().count(), files.len());
}
