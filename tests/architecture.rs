//! Keeps the import table true: who may use whom, where status codes are chosen, and where the
//! generated types stop.

#![allow(clippy::unwrap_used)] // a test may fail where it stands

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The layers from the bottom up. A module may use what stands in a layer below its own.
const LAYERS: &[&[&str]] = &[
    &["storage", "domain", "tlog", "web", "listener", "jws", "json"],
    &["ledger", "decide", "obligations", "token", "seal"],
    &["receipt"],
    &["view", "backend", "vault", "tree"],
    &["watch"],
    &["telemetry"],
    &["node"],
    &["config", "status", "events"],
    &["grpc", "tiles", "witness", "webhook"],
    &["client", "server"],
    &["cli"],
    &["main"],
];

/// Where the generated types may be named.
const PROTO_USERS: &[&str] =
    &["grpc/", "json.rs", "events.rs", "ledger/entry", "cli/", "client/", "status.rs", "server.rs"];

/// The one file that chooses status codes.
const CODE_USER: &str = "status.rs";

/// A source file: its path below `src`, and its code without comments and tests.
struct Source {
    path: String,
    code: String,
}

impl Source {
    /// The top-level module that the file belongs to.
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().expect("a path has a first part")
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![root.clone()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            found.push(Source { path, code: code_of(&text) });
        }
    }
    assert!(found.len() > 20, "the sources are where this test looks for them");
    found
}

/// The lines that are not comments, up to the file's own tests.
fn code_of(text: &str) -> String {
    let mut lines = text.lines().peekable();
    let mut code = String::new();
    while let Some(line) = lines.next() {
        let own_tests = line == "#[cfg(test)]"
            && lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'));
        if own_tests {
            break;
        }
        if !line.trim_start().starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

/// The names that directly follow `root`, also out of a group: `root::{a::X, b}` names a and b.
fn named_under(code: &str, root: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        let whole_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let rest = &code[at + root.len()..];
        match rest.strip_prefix('{') {
            _ if !whole_word => {}
            Some(group) => names.extend(group_heads(group)),
            None => names.extend(head(rest)),
        }
    }
    names
}

fn head(path: &str) -> Option<String> {
    let name: String =
        path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::from_iter(head(group));
    let mut depth = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.extend(head(&group[at + 1..])),
            _ => {}
        }
    }
    heads
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[test]
fn every_import_goes_down() {
    let mut wrong = Vec::new();
    for source in sources() {
        if ["lib.rs", "proto.rs"].contains(&source.path.as_str()) {
            continue;
        }
        let own = layer(source.module());
        assert!(own.is_some(), "{} has no place in the table", source.path);
        let mut used = named_under(&source.code, "crate::");
        used.extend(named_under(&source.code, "consent_ledger::"));
        used.retain(|used| used != source.module() && layer(used).is_some());
        for used in used {
            if layer(&used) >= own {
                wrong.push(format!("src/{} uses crate::{used}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "against the import table:\n{}", wrong.join("\n"));
}

#[test]
fn generated_types_stop_at_the_edge() {
    for source in sources() {
        let may = source.path == "proto.rs"
            || PROTO_USERS.iter().any(|prefix| source.path.starts_with(prefix));
        assert!(
            may || !named_under(&source.code, "crate::").contains("proto"),
            "src/{} names generated types",
            source.path
        );
    }
}

#[test]
fn one_file_chooses_status_codes() {
    for source in sources().iter().filter(|source| source.path != CODE_USER) {
        assert!(
            !named_under(&source.code, "tonic::").contains("Code"),
            "src/{} names tonic::Code",
            source.path
        );
    }
}

#[test]
fn the_scan_sees_every_way_to_name_a_module() {
    let code = code_of(
        "use crate::domain::Key;\nuse crate::{ledger, view::{State, Hot}, node::Node};\n\
         // crate::comment\nfn f() { crate::vault::open(); mycrate::other() }\n\
         #[cfg(test)]\nmod tests {\n use crate::grpc;\n}\n",
    );
    let names = named_under(&code, "crate::");
    assert_eq!(
        names.iter().map(String::as_str).collect::<Vec<_>>(),
        ["domain", "ledger", "node", "vault", "view"]
    );
    assert!(named_under("use tonic::{Code, Status};", "tonic::").contains("Code"));
}
