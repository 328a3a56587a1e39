//! Format 2 by a second program, which shares no code with the ledger.
//!
//! Needs a Python with the packages of `tests/python/requirements.txt`, named by `CONSENT_LEDGER_TEST_PYTHON`
//! when the tests are built.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::Path,
    process::Command,
};

use crate::support::{self, Server};

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

/// A closed ledger with acts of the example, links, uses and deliveries, and its verifier key.
async fn ledger(dir: &Path) -> String {
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
    let key = server.printed("verifier key ").unwrap();
    server.terminate();
    fs::remove_file(some).unwrap();
    key
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    not(test_python),
    ignore = "needs CONSENT_LEDGER_TEST_PYTHON, with tests/python/requirements.txt"
)]
async fn a_reader_made_from_the_documents_checks_a_ledger_and_judges_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let key = ledger(&data_dir).await;
    let [data_dir, kek] = [data_dir.clone(), data_dir.join("kek")].map(OsString::from);
    let (key, keyed): (&OsStr, &OsStr) = (key.as_ref(), "--key".as_ref());
    let said = reader(&["keyless".as_ref(), &data_dir, keyed, key]);
    assert!(said.contains("ok: signature of the checkpoint"), "{said}");
    let said = reader(&["vault".as_ref(), &data_dir, "--kek".as_ref(), &kek, keyed, key]);
    assert!(!said.contains("NOT JUDGEABLE"), "{said}");
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
