//! Format 2 by a second program, which shares no code with the ledger.
//!
//! Needs a Python with the packages of `tests/python/requirements.txt`, named by `CONSENT_LEDGER_TEST_PYTHON`
//! when the tests are built.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fs,
    path::Path,
    process::Command,
};

use age::{secrecy::ExposeSecret as _, x25519};
use consent_ledger::proto;
use serde_json::Value;

use crate::support::{self, Server, check_request};

#[test]
#[cfg_attr(
    not(test_python),
    ignore = "needs CONSENT_LEDGER_TEST_PYTHON: a Python with cryptography"
)]
fn the_vectors_of_format_2_are_what_their_program_computes() {
    let python = env::var("CONSENT_LEDGER_TEST_PYTHON").expect("it was there for the build");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/format/tests/format");
    let output = Command::new(python).arg(folder.join("vectors.py")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let checked_in = fs::read_to_string(folder.join("vectors.json")).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), checked_in);
}

/// What the reader in `tests/python` prints.
fn reader(args: &[&OsStr]) -> String {
    let python = env::var("CONSENT_LEDGER_TEST_PYTHON").expect("it was there for the build");
    let program = support::repository("tests/python/check_ledger.py");
    let mut command = Command::new(python);
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(program).args(args);
    let output = command.output().unwrap();
    let [said, problem] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
    assert!(output.status.success(), "{args:?}\n{said}\n{problem}");
    said
}

/// A ledger with acts of the example, links and uses.
fn ledger(dir: &Path) -> Server {
    let server = Server::start_with(dir, &["--checkpoint-interval", "50ms"]);
    let examples = |name: &str| support::repository("examples").join(name).display().to_string();
    server.cli(&["catalog", "apply", &examples("catalog.toml")]).expect_code(0);
    let acts = fs::read_to_string(examples("onboarding.ndjson")).unwrap();
    let some = dir.join("acts.ndjson");
    fs::write(&some, acts.lines().take(200).collect::<Vec<_>>().join("\n")).unwrap();
    server.cli(&["replay", some.to_str().unwrap()]);
    let mapping = examples("import-mapping.toml");
    let import = ["import", "--source", "crm", "--mapping", &mapping, &examples("import.csv")];
    server.cli(&import);
    let links = [("user:100937", "device:1", "verified"), ("user:100000", "device:2", "asserted")];
    for (one, other, confidence) in links {
        let by = ["--asserted-by", "web", "--confidence", confidence];
        server.cli(&[&["link", one, other][..], &by].concat()).expect_code(0);
    }
    server.cli(&["subscription", "create", "crm", "--owner", "crm-team"]).expect_code(0);
    let cell = ["--purpose", "marketing.newsletter", "--channel", "email"];
    for subject in ["device:1", "device:2", "user:100002"] {
        let withdraw = ["record", "--withdraw", "marketing.*:*", "--subject", subject];
        server.cli(&withdraw).expect_code(0);
        server.cli(&[&["use", "--subject", subject][..], &cell].concat());
    }
    fs::remove_file(some).unwrap();
    server
}

/// The answers of a server for some cells of some data subjects, by what the rules say alone.
async fn answers(server: &Server) -> BTreeMap<[String; 3], String> {
    let mut clients = server.clients().await;
    let mut answers = BTreeMap::new();
    for subject in ["user:100937", "user:100000", "user:100002", "device:1", "device:2"] {
        for purpose in ["marketing.newsletter", "marketing.product-news", "marketing.profiling"] {
            for channel in ["email", "push", "phone"] {
                let request = proto::CheckRequest {
                    ignore_obligations: true,
                    ..check_request(subject, purpose, channel)
                };
                let answer = clients.ask(request).await;
                let reason = answer.reason().as_str_name().trim_start_matches("REASON_").to_owned();
                answers.insert([subject, purpose, channel].map(str::to_owned), reason);
            }
        }
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    not(test_python),
    ignore = "needs CONSENT_LEDGER_TEST_PYTHON, with tests/python/requirements.txt"
)]
async fn a_reader_made_from_the_documents_checks_a_ledger_and_judges_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let server = ledger(&data_dir);
    let key = server.printed("verifier key ").unwrap();
    server.terminate();
    let [data_dir, kek] = [data_dir.clone(), data_dir.join("kek")].map(OsString::from);
    let (key, keyed): (&OsStr, &OsStr) = (key.as_ref(), "--key".as_ref());
    let said = reader(&["keyless".as_ref(), &data_dir, keyed, key]);
    assert!(said.contains("ok: signature of the checkpoint"), "{said}");
    let said = reader(&["vault".as_ref(), &data_dir, "--kek".as_ref(), &kek, keyed, key]);
    assert!(!said.contains("NOT JUDGEABLE"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    not(test_python),
    ignore = "needs CONSENT_LEDGER_TEST_PYTHON, with tests/python/requirements.txt"
)]
async fn a_reader_made_from_the_documents_decides_what_the_server_decides_from_a_disclosure() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let server = ledger(&data_dir);
    let key = server.printed("verifier key ").unwrap();
    let auditor = x25519::Identity::generate();
    let [file, identity] = ["disclosure.age", "auditor.key"].map(|name| dir.path().join(name));
    fs::write(&identity, auditor.to_string().expose_secret()).unwrap();
    let recipient = auditor.to_public().to_string();
    let path = file.to_str().unwrap();
    let disclose = ["audit", "disclose", "--all", "--with-identities", "--to", &recipient];
    server.cli(&[&disclose[..], &["--output", path]].concat()).expect_code(0);
    let (want, now) = (answers(&server).await, support::now_ms().to_string());
    server.terminate();

    let said = reader(&[
        "disclosure".as_ref(),
        data_dir.as_os_str(),
        file.as_os_str(),
        "--key".as_ref(),
        key.as_ref(),
        "--age-identity".as_ref(),
        identity.as_os_str(),
        "--decisions".as_ref(),
        "--at-ms".as_ref(),
        now.as_ref(),
    ]);
    assert!(said.contains("complete for their keys"), "{said}");
    let lines = said.lines().filter(|line| line.starts_with('{'));
    let got = lines.map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| line[name].as_str().unwrap().to_owned();
        (["subject", "purpose", "channel"].map(text), text("reason"))
    });
    let got: BTreeMap<_, _> = got.filter(|(cell, _)| want.contains_key(cell)).collect();
    assert_eq!(got, want);
}

#[test]
#[cfg_attr(
    not(test_python),
    ignore = "needs CONSENT_LEDGER_TEST_PYTHON, with tests/python/requirements.txt"
)]
fn a_reader_made_from_the_documents_answers_every_case_of_the_decisions() {
    let cases = support::repository("docs/decisions.md");
    reader(&["cases".as_ref(), cases.as_os_str()]);
}
