//! Mappings that are right, and every way in which one can be wrong.

use std::io::Cursor;

use super::{
    super::{csv::Records, input::Place},
    *,
};
use crate::proto::{self, Action, Actor, ImportReject, ImportRow};

const EXAMPLE: &str = include_str!("../../../../examples/import-mapping.toml");
const EXAMPLE_CSV: &str = include_str!("../../../../examples/import.csv");

const MAPPING: &str = r#"
subject = "user:{id}"
[[cells]]
column = "news"
purpose = "a"
channel = "email"
grant = ["yes", "1"]
refuse = ["no"]
withdraw = ["gone"]
"#;

fn read(mapping: &str, csv: &[u8]) -> Vec<Result<ImportRow, ImportReject>> {
    let mapping = Mapping::parse(mapping).unwrap();
    let from = Box::new(Cursor::new(csv.to_vec()));
    let mut records = Records::new(from, mapping.delimiter, Place::START);
    let bound = mapping.bind(&records.next().unwrap().unwrap()).unwrap();
    let mut rows = Vec::new();
    while let Some(record) = records.next().unwrap() {
        rows.push(bound.row(&record));
    }
    rows
}

#[test]
fn the_example_maps_its_file() {
    let rows = read(EXAMPLE, EXAMPLE_CSV.as_bytes());
    let rows: Vec<_> = rows.into_iter().map(Result::unwrap).collect();
    assert!(rows.len() >= 4);
    assert!(rows.iter().all(|row| row.subject.starts_with("user:") && !row.row_key.is_empty()));
    assert!(rows.iter().any(|row| row.changes.len() == 2));
    assert!(rows.iter().any(|row| row.changes.is_empty()));
    assert!(rows.iter().any(|row| row.preferences.is_some()));
    assert!(rows.iter().all(|row| row.effective_at.is_some() && row.evidence.is_some()));
}

#[test]
fn values_are_actions_and_a_blank_is_none() {
    let csv = b"id,news,other\n1,yes,x\n2, 1 ,\n3,no,\n4,gone,\n5,,\n6,\"  \",\n";
    let rows: Vec<_> = read(MAPPING, csv).into_iter().map(Result::unwrap).collect();
    let actions = rows.iter().map(|row| row.changes.first().map(proto::Change::action));
    let want = [Action::Grant, Action::Grant, Action::Refuse, Action::Withdraw].map(Some);
    assert_eq!(actions.collect::<Vec<_>>(), [&want[..], &[None, None]].concat());
    assert_eq!((rows[1].subject.as_str(), rows[1].line), ("user:2", 3));
    assert_eq!(rows[4].evidence, None);
    assert_eq!(rows[4].preferences, None);
    assert_eq!(rows[4].actor(), Actor::Unspecified);
}

#[test]
fn a_reject_names_line_column_and_reason() {
    let csv = b"id,news\n1,maybe\n2,YES\n,yes\n4\n5,yes,more\n6,\xff\n\"7\n7\",yes\n8,perhaps\n";
    let rejects: Vec<_> = read(MAPPING, csv)
        .into_iter()
        .filter_map(Result::err)
        .map(|reject| (reject.line, reject.field, reject.reason))
        .collect();
    let want = [
        (2, "news", "unknown_value"),
        (3, "news", "unknown_value"),
        (4, "id", "blank"),
        (5, "", "not_a_row"),
        (6, "", "not_a_row"),
        (7, "news", "not_utf8"),
        (10, "news", "unknown_value"),
    ];
    let want = want.map(|(line, field, reason)| (line, field.to_owned(), reason.to_owned()));
    assert_eq!(rejects, want);
}

#[test]
fn everything_else_comes_from_columns_or_is_constant() {
    let mapping = format!(
        "delimiter = \";\"\nrow_key = \"{{id}}-{{v}}\"\n{MAPPING}
        [effective_at]\ncolumn = \"at\"\nformat = \"unix_s\"
        [expires_at]\ncolumn = \"until\"
        [actor]\ncolumn = \"who\"\nwords = {{ self = \"subject\", desk = \"agent\" }}
        [evidence]\ntouchpoint = {{ constant = \"crm\" }}\nmethod = {{ column = \"how\" }}
        [preferences]\nlanguage = {{ column = \"lang\" }}\ntime_zone = {{ column = \"tz\" }}"
    );
    let csv = "id;v;news;at;until;who;how;lang;tz\n\
               1;2;yes;60;2030-01-01T00:00:00Z;self;paper;de;Europe/Vienna\n\
               2;2;no;;2030-01-01T00:00:00Z;;;;\n3;2;no;x;;;;;\n4;2;no;;;me;;;\n5;;no;;;;;;\n";
    let rows = read(&mapping, csv.as_bytes());
    let row = rows[0].as_ref().unwrap();
    assert_eq!((row.row_key.as_str(), row.actor()), ("1-2", Actor::Subject));
    assert_eq!(row.effective_at.unwrap().seconds, 60);
    assert!(row.changes[0].expires_at.is_some());
    let evidence = row.evidence.as_ref().unwrap();
    assert_eq!((evidence.touchpoint.as_str(), evidence.method.as_str()), ("crm", "paper"));
    let preferences = row.preferences.as_ref().unwrap();
    assert_eq!(preferences.language, "de");
    assert_eq!(preferences.time_zones, ["Europe/Vienna"]);
    let row = rows[1].as_ref().unwrap();
    assert_eq!((row.actor(), row.effective_at), (Actor::Unspecified, None));
    assert_eq!((row.changes[0].expires_at, &row.preferences), (None, &None));
    let field = |index: usize| rows[index].as_ref().unwrap_err().field.as_str();
    assert_eq!([field(2), field(3), field(4)], ["at", "who", "v"]);
}

#[test]
fn a_mapping_that_can_not_be_used_says_why() {
    for (text, want) in [
        (MAPPING.replace("{id}", "id"), "must be like \"user:{customer_id}\""),
        (MAPPING.replace("{id}", "{id"), "must be like"),
        (MAPPING.replace("column", "colum"), "unknown field `colum`"),
        (MAPPING.replace("\"no\"", "\"yes\""), "column `news`: `yes` is listed twice"),
        (MAPPING.replace("\"no\"", "\"\""), "a blank field changes nothing"),
        (MAPPING.replace("\"a\"", "\"A\""), "the purpose"),
        (MAPPING.replace("\"email\"", "\"*\""), "exactly one cell"),
        ("subject = \"user:{id}\"".to_owned(), "needs `cells` or `preferences`"),
        (format!("{MAPPING}[actor]\ncolumn = \"a\"\nconstant = \"b\""), "either `column` or"),
        (format!("{MAPPING}[actor]\nconstant = \"robot\""), "`robot` is not a known word"),
        (format!("{MAPPING}[effective_at]\ncolumn = \"a\"\nformat = \"%Y\""), "`effective_at`: "),
        (format!("{MAPPING}[evidence]\nmethod = {{}}"), "`evidence.method` needs either"),
        (format!("{MAPPING}[evidence]\nnotice = {{}}"), "unknown field `notice`"),
        (format!("delimiter = \"€\"\n{MAPPING}"), "`delimiter` must be one ASCII character"),
    ] {
        let error = Mapping::parse(&text).unwrap_err();
        assert!(error.contains(want), "{want}: {error}");
    }
}

#[test]
fn a_column_that_is_not_there_is_an_error_with_those_that_are() {
    let bind = |heading: &str| {
        let from = Box::new(Cursor::new(heading.as_bytes().to_vec()));
        let mut records = Records::new(from, b',', Place::START);
        let heading = records.next().unwrap().unwrap();
        Mapping::parse(MAPPING).unwrap().bind(&heading).unwrap_err().to_json()["error"].clone()
    };
    let error = bind("id,newsletter");
    assert_eq!(error["message"], "the file has no column `news`");
    assert_eq!(error["hint"], "it has `id`, `newsletter`");
    assert_eq!(bind("id,news,news")["message"], "the file has the column `news` twice");
}
