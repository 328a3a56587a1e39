//! The files under `examples/`, read without the crate's own readers.

use std::{collections::BTreeMap, fs};

use consent_ledger::proto::{Action, Actor, LegalBasis};
use serde_json::Value;

use super::{
    model::{Catalog, Change, Purpose},
    repository,
};

/// The catalogue of the examples, for `catalog apply`.
pub const CATALOG: &str = "examples/catalog.toml";
/// The acts of the examples, for `replay`.
pub const ACTS: &str = "examples/onboarding.ndjson";

/// One line of the acts.
#[derive(Debug, Clone)]
pub struct FileAct {
    pub subject: String,
    pub actor: Actor,
    pub changes: Vec<Change>,
    pub effective_at: Option<i64>,
    pub evidence: Value,
    pub idempotency_key: Option<String>,
}

/// Reads the catalogue of the examples.
pub fn catalog() -> Catalog {
    let text = fs::read_to_string(repository(CATALOG)).expect("the example is there");
    let table: toml::Table = text.parse().expect("the example is TOML");
    let mut catalog = Catalog::default();
    for (key, purpose) in entries(&table, "purposes") {
        let flag = |name: &str| purpose.get(name).and_then(toml::Value::as_bool).unwrap_or(false);
        let basis = purpose["legal_basis"].as_str().expect("a word").to_uppercase();
        let basis = format!("LEGAL_BASIS_{}", basis.replace('-', "_"));
        let validity = purpose.get("default_validity").and_then(toml::Value::as_str);
        catalog.purposes.insert(
            key,
            Purpose {
                basis: LegalBasis::from_str_name(&basis).expect("a legal basis"),
                validity_ms: validity.map(|text| {
                    let span = humantime::parse_duration(text).expect("a span of time");
                    i64::try_from(span.as_millis()).expect("for less than an age")
                }),
                double_opt_in: flag("double_opt_in"),
                retired: flag("retired"),
            },
        );
    }
    for (key, channel) in entries(&table, "channels") {
        let retired = channel.get("retired").and_then(toml::Value::as_bool).unwrap_or(false);
        catalog.channels.insert(key, retired);
    }
    catalog
}

/// How many namespaces and parties the catalogue of the examples has.
pub fn namespaces_and_parties() -> usize {
    let text = fs::read_to_string(repository(CATALOG)).expect("the example is there");
    let table: toml::Table = text.parse().expect("the example is TOML");
    entries(&table, "namespaces").len() + entries(&table, "parties").len()
}

/// Key and table of every entry of a list of tables.
fn entries(table: &toml::Table, list: &str) -> BTreeMap<String, toml::Table> {
    let list = table[list].as_array().expect("a list of tables");
    list.iter()
        .map(|entry| {
            let entry = entry.as_table().expect("a table").clone();
            (entry["key"].as_str().expect("a key").to_owned(), entry)
        })
        .collect()
}

/// Reads the acts of the examples, in order.
pub fn acts() -> Vec<FileAct> {
    let text = fs::read_to_string(repository(ACTS)).expect("the example is there");
    text.lines().map(|line| act(&serde_json::from_str(line).expect("a JSON object"))).collect()
}

fn act(line: &Value) -> FileAct {
    let text = |name: &str| line.get(name).and_then(Value::as_str).map(str::to_owned);
    let actor = text("actor").expect("an actor");
    FileAct {
        subject: text("subject").expect("a subject"),
        actor: Actor::from_str_name(&actor).expect("a known actor"),
        changes: line["changes"].as_array().expect("changes").iter().map(change).collect(),
        effective_at: text("effectiveAt").map(|text| time(&text)),
        evidence: line.get("evidence").cloned().unwrap_or_default(),
        idempotency_key: text("idempotencyKey"),
    }
}

fn change(change: &Value) -> Change {
    let action = change["action"].as_str().expect("an action");
    let part = |name: &str| {
        let key = change["scope"][name].as_str().expect("a key");
        (key != "*").then(|| key.to_owned())
    };
    Change {
        action: Action::from_str_name(action).expect("a known action"),
        purpose: part("purpose"),
        channel: part("channel"),
        expires_at: change.get("expiresAt").and_then(Value::as_str).map(time),
    }
}

fn time(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().expect("a time in RFC 3339").as_millisecond()
}
