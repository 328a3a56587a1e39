//! Format 2 by a second program, which shares no code with the ledger.
//!
//! Needs a Python with the package `cryptography`, named by `CONSENT_LEDGER_TEST_PYTHON` when the tests are
//! built.

use std::{env, fs, path::Path, process::Command};

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
