//! Data directories as they were written once: one of format 2 is served today, one of format 1 is refused.
//!
//! `NEW_FIXTURES=1` writes the fixture of format 2 if there is none.

use std::{env, fmt::Write as _, fs, path::Path};

use consent_ledger::proto::Action;

use crate::support::{self, Server};

const KEK: &str = "00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210";
const LEDGER: &str = "ledger/00000000000000000000.seg";
const VAULT: &str = "vault/00000000000000000000.seg";

/// Hexadecimal digits, with white space and comments from `#` to the end of a line between them.
fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(|line| line.chars().filter(|c| !c.is_whitespace()))
        .collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// A file of the kept data directory of format 1.
fn kept(name: &str) -> Vec<u8> {
    kept_in("data_dir_v1.hex", name)
}

/// A file of a kept data directory.
fn kept_in(fixture: &str, name: &str) -> Vec<u8> {
    let path = support::repository("tests/fixtures").join(fixture);
    let text = fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once(&format!("# {name}\n")).unwrap();
    unhex(rest.split("\n#").next().unwrap())
}

#[test]
fn a_data_directory_of_format_1_is_refused_with_one_sentence_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    for name in [LEDGER, VAULT] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, kept(name)).unwrap();
    }
    fs::write(dir.path().join("kek"), KEK).unwrap();
    let said = "holds a ledger of format 1, and this version reads format 2 alone";
    let path = dir.path().to_str().unwrap();
    for command in ["serve", "rebuild-view"] {
        let refused = support::run([command, "--data-dir", path]).expect_code(1);
        assert!(refused.output().contains(said), "{command}: {}", refused.output());
    }
    for command in ["verify", "export"] {
        let refused = support::run([command, "--data-dir", path]).expect_code(1);
        assert!(refused.output().contains("format 1"), "{command}: {}", refused.output());
    }
    for name in [LEDGER, VAULT] {
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), kept(name), "{name}");
    }
}

/// The fixture of format 2, and the files of its directory.
const FORMAT_2: &str = "data_dir_v2.hex";
const FILES: [&str; 5] = [LEDGER, VAULT, "checkpoint.json", "signing-key", "kek"];

/// Writes a directory with an entry of most kinds as a fixture.
async fn write_fixture(path: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--origin", "consent.example.org/eu"]);
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let cell = ["--purpose", "news", "--channel", "email"];
    clients.record_change("user:1", Action::Grant, "news", "email").await;
    let words = ["record", "--subject", "user:2", "--grant", "news:email"];
    let evidence = ["--touchpoint", "onboarding", "--idempotency-key", "signup-2"];
    server.cli(&[&words[..], &evidence].concat()).expect_code(0);
    let link = ["link", "user:1", "user:2", "--asserted-by", "web", "--confidence", "verified"];
    server.cli(&link).expect_code(0);
    server.cli(&[&["use", "--subject", "user:2"][..], &cell].concat()).expect_code(0);
    server.cli(&["subscription", "create", "crm", "--owner", "crm-team"]).expect_code(0);
    // The grants of two end at one time.
    let ends_at = support::now_ms() + 2_000;
    for person in ["user:3", "user:4"] {
        let mut grant = support::change(Action::Grant, "news", "email");
        grant.expires_at = Some(support::timestamp(ends_at));
        clients.record(support::act(person, vec![grant])).await;
    }
    support::eventually("the ends are recorded", async || {
        (clients.history("user:4").await.len() > 1).then_some(())
    })
    .await;
    clients.record_change("user:1", Action::Withdraw, "news", "email").await;
    server.terminate();
    let mut text =
        "# A data directory of format 2, as `serve` wrote it, with an entry of most kinds.\n\
                    # These bytes never change: what was written must be read for ever.\n"
            .to_owned();
    for name in FILES {
        write!(text, "\n# {name}\n").unwrap();
        for line in fs::read(dir.path().join(name)).unwrap().chunks(48) {
            line.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
            text.push('\n');
        }
    }
    fs::write(path, text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_format_2_is_served_today() {
    let fixture = support::repository("tests/fixtures").join(FORMAT_2);
    if env::var_os("NEW_FIXTURES").is_some() && !fixture.exists() {
        write_fixture(&fixture).await;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in FILES {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, kept_in(FORMAT_2, name)).unwrap();
    }
    let [data_dir, kek] =
        [dir.path().to_owned(), dir.path().join("kek")].map(|path| path.display().to_string());
    let verify = ["verify", "--json", "--data-dir", &data_dir, "--kek-file", &kek];
    let found = support::run(verify).expect_code(0).json();
    assert_eq!((&found["vault"]["opened"], &found["vault"]["subjects"]), (&true.into(), &4.into()));
    let server = Server::start(dir.path());
    let check = ["check", "--json", "--subject", "user:2", "--purpose", "news"];
    let answer = server.cli(&[&check[..], &["--channel", "email"]].concat());
    assert_eq!(answer.expect_code(3).json()["reason"], "REASON_WITHDRAWN");
    let history = server.cli(&["history", "--json", "--subject", "user:2"]).expect_code(0);
    assert!(history.stdout.contains("onboarding"), "{}", history.stdout);
    let history = server.cli(&["history", "--json", "--subject", "user:3"]).expect_code(0);
    assert!(history.stdout.contains("REASON_EXPIRED"), "{}", history.stdout);
    server.terminate();
    for name in [LEDGER, VAULT] {
        let now = fs::read(dir.path().join(name)).unwrap();
        assert!(now.starts_with(&kept_in(FORMAT_2, name)), "{name} only grows");
    }
}
