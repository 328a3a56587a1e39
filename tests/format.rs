//! A data directory of format 1, as it was written once, is refused.

use std::fs;

use crate::support;

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

/// A file of the kept data directory.
fn kept(name: &str) -> Vec<u8> {
    let text = fs::read_to_string(support::repository("tests/fixtures/data_dir_v1.hex")).unwrap();
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
