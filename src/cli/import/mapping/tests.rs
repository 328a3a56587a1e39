//! Mappings that are right, and every way in which one can be wrong.

use std::io::Cursor;

use super::{
    super::{
        csv::{Read, Records},
        input::{Compiled, Place},
    },
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

/// The only row, or else the first reject, of each record.
fn read(mapping: &str, csv: &[u8]) -> Vec<Result<ImportRow, ImportReject>> {
    let compiled = compile(mapping, csv).into_iter();
    let only = |mut it: Compiled| it.rows.pop().ok_or_else(|| it.rejects.remove(0));
    compiled.map(only).collect()
}

fn compile(mapping: &str, csv: &[u8]) -> Vec<Compiled> {
    let mapping = Mapping::parse(mapping).unwrap();
    let from = Box::new(Cursor::new(csv.to_vec()));
    let mut records = Records::new(from, b',', Place::START);
    let heading = records.heading(mapping.delimiter, |heading| mapping.known_columns(heading));
    let bound = mapping.bind(&heading.unwrap().unwrap()).unwrap();
    let mut compiled = Vec::new();
    while let Some(read) = records.next(&bound).unwrap() {
        let (Read::Record(record) | Read::Doubtful(record, _)) = read else { break };
        compiled.push(bound.compile(&record));
    }
    compiled
}

#[test]
fn the_example_maps_its_file() {
    let rows = read(EXAMPLE, EXAMPLE_CSV.as_bytes());
    let rows: Vec<_> = rows.into_iter().map(Result::unwrap).collect();
    assert!(rows.len() >= 4);
    assert!(rows.iter().all(|row| row.subject.starts_with("user:") && !row.row_key.is_empty()));
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
        (8, "", "in_quotes"),
        (9, "", "in_quotes"),
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
               2;2;no;;2030-01-01T00:00:00Z;;;;\n3;2;yes;x;;;;;\n4;2;yes;;;me;;;\n5;;yes;;;;;;\n";
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
        (MAPPING.replace("\"email\"", "\"*\""), "exactly one purpose and one channel"),
        (
            MAPPING.replace("grant = [\"yes\", \"1\"]", "purpose_version = 2"),
            "`purpose_version` and `data_categories` are only for grants",
        ),
        (format!("{MAPPING}nothing = [\"gone\"]"), "`gone` is listed twice"),
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
        let heading = records.heading(None, |_| 0).unwrap().unwrap();
        Mapping::parse(MAPPING).unwrap().bind(&heading).unwrap_err().to_json()["error"].clone()
    };
    let error = bind("id,newsletter");
    assert_eq!(error["message"], "the file has no column `news`");
    assert_eq!(error["hint"], "it has `id`, `newsletter`");
    assert_eq!(bind("id,news,news")["message"], "the file has the column `news` twice");
}

/// Two cells, of which the second column stops a whole channel.
const TWO_CELLS: &str = r#"
subject = "user:{id}"
row_key = "{key}"
[[cells]]
column = "news"
purpose = "a"
channel = "email"
grant = ["yes"]
withdraw = ["no"]
nothing = ["-"]
[[cells]]
column = "mail"
purpose = "*"
channel = "email"
object = ["stop"]
[[cells]]
column = "calls"
purpose = "a"
channel = "phone"
grant = ["ok"]
withdraw = ["never"]
[effective_at]
column = "at"
format = "%Y-%m-%d %H:%M"
time_zone = "Europe/Vienna"
[expires_at]
column = "until"
[actor]
column = "by"
[evidence]
method = { column = "how" }
[preferences]
language = { column = "language" }
"#;

const HEADING: &str = "id,key,news,mail,calls,at,until,by,how,language\n";

fn one(row: &[u8]) -> Compiled {
    let mut compiled = compile(TWO_CELLS, &[HEADING.as_bytes(), row].concat());
    assert_eq!(compiled.len(), 1);
    compiled.remove(0)
}

fn cells(row: &ImportRow) -> Vec<String> {
    let cell = |change: &proto::Change| {
        let scope = change.scope.clone().unwrap();
        format!("{:?} {}:{}", change.action(), scope.purpose, scope.channel)
    };
    row.changes.iter().map(cell).collect()
}

fn fields(rejects: &[ImportReject]) -> Vec<(&str, &str)> {
    rejects.iter().map(|it| (it.field.as_str(), it.reason.as_str())).collect()
}

#[test]
fn an_unknown_value_is_a_reject_of_its_column_and_leaves_the_stops_of_the_row() {
    for word in ["FALSE", "No!", "NEVER_SUBSCRIBED", "0", "HARD_BOUNCE"] {
        let compiled = one(format!("1,k,{word},stop,ok,,,,,\n").as_bytes());
        assert_eq!(cells(&compiled.rows[0]), ["Object *:email"], "no grant beside it: {word}");
        assert_eq!(fields(&compiled.rejects), [("news", "unknown_value")]);
        let message = &compiled.rejects[0].message;
        assert!(message.ends_with("the grants of the row are not imported"), "{message}");
        let compiled = one(format!("1,k,{word},,ok,,,,,\n").as_bytes());
        assert_eq!((compiled.rows.len(), compiled.rejects.len()), (0, 1), "no stop in the row");
    }
    let compiled = one(b"1,k,-,stop,,,,,,\n");
    assert_eq!((cells(&compiled.rows[0]).len(), compiled.rejects.len()), (1, 0));
}

#[test]
fn a_stop_is_known_in_any_case_and_a_grant_in_its_own_alone() {
    let compiled = one("1,k,NO,\u{a0}Stop\u{200b},,,,,,\n".as_bytes());
    assert_eq!(cells(&compiled.rows[0]), ["Withdraw a:email", "Object *:email"]);
    assert_eq!(fields(&one(b"1,k,Yes,,,,,,,\n").rejects), [("news", "unknown_value")]);
}

#[test]
fn a_stop_wins_over_a_grant_of_the_same_row() {
    let compiled = one(b"1,k,yes,stop,ok,,,,,\n");
    assert_eq!(cells(&compiled.rows[0]), ["Object *:email", "Grant a:phone"]);
    assert_eq!(compiled.warnings[0].reason, "stopped_in_row");
    assert!(compiled.warnings[0].message.contains("the grant of a:email is not imported"));
}

#[test]
fn a_cell_may_stop_a_class_and_wins_over_the_grants_below_it() {
    let class =
        "[[cells]]\ncolumn = \"all\"\npurpose = \"shop.*\"\nchannel = \"*\"\nobject = [\"x\"]\n";
    let grant = |purpose: &str| MAPPING.replace("\"a\"", &format!("\"{purpose}\"")) + class;
    for (purpose, left) in [("shop.news", 1), ("shop", 2)] {
        let compiled = compile(&grant(purpose), b"id,news,all\n1,yes,x\n").remove(0);
        let row = cells(&compiled.rows[0]);
        assert_eq!((row[0].as_str(), row.len()), ("Object shop.*:*", left), "{purpose}");
    }
    let of_class = grant("shop.*");
    let refused = Mapping::parse(&of_class).unwrap_err();
    assert!(refused.contains("exactly one purpose"), "{refused}");
}

#[test]
fn in_a_repeated_hour_a_stop_takes_the_later_reading_and_a_grant_the_earlier() {
    let time = |row: &ImportRow| {
        let at = row.effective_at.unwrap();
        jiff::Timestamp::new(at.seconds, at.nanos).unwrap().to_string()
    };
    let stop = &one(b"1,k,no,,,2024-10-27 02:30,,,,\n").rows[0];
    assert_eq!(time(stop), "2024-10-27T01:30:59.999Z");
    let grant = &one(b"1,k,yes,,,2024-10-27 02:30,,,,\n").rows[0];
    assert_eq!(time(grant), "2024-10-27T00:30:00Z");
    let both = one(b"1,k,no,,ok,2024-10-27 02:30,,,,de\n").rows;
    assert_eq!(both.iter().map(time).collect::<Vec<_>>(), [time(grant), time(stop)]);
    assert_eq!([cells(&both[0]), cells(&both[1])], [["Grant a:phone"], ["Withdraw a:email"]]);
    let keys: Vec<_> = both.iter().map(|row| row.row_key.as_str()).collect();
    assert_eq!(keys, ["k#grants", "k"]);
    assert!(both[0].preferences.is_none() && both[1].preferences.is_some());
    let other_hour = one(b"1,k,no,,ok,2024-10-27 03:30,,,,\n").rows;
    assert_eq!(other_hour.len(), 2, "a minute has more than one moment, too");
}

#[test]
fn what_is_wrong_beside_a_stop_is_a_warning_and_is_kept_as_text() {
    for (row, column, text) in [
        (&b"1,k,no,,,31.02.2025,,,,\n"[..], "at", "31.02.2025"),
        (b"1,k,no,,,,9999-12-31,,,\n", "until", "9999-12-31"),
        (b"1,k,no,,,,,nobody,,\n", "by", "nobody"),
        (b"1,k,no,,,,,,caf\xe9,\n", "how", "caf\u{fffd}"),
        (b"1,k,no,,,,,,,d\xe9\n", "language", "d\u{fffd}"),
        (b"1,k,no,,,,2030-01-01T00:00:00Z,,,\n", "until", "2030-01-01T00:00:00Z"),
    ] {
        let compiled = one(row);
        assert_eq!(cells(&compiled.rows[0]), ["Withdraw a:email"], "{column}");
        assert_eq!(compiled.warnings[0].field, column);
        let evidence = compiled.rows[0].evidence.as_ref().unwrap();
        assert_eq!(evidence.unreadable.get(column).map(String::as_str), Some(text));
        assert!(compiled.rejects.is_empty());
    }
    let compiled = one(b"1,,no,,,,,,,\n");
    assert_eq!((compiled.rows[0].row_key.as_str(), &*compiled.warnings[0].field), ("", "key"));
    // The grants of such a row are not imported.
    let compiled = one(b"1,k,no,,ok,31.02.2025,,,,\n");
    assert_eq!(cells(&compiled.rows[0]), ["Withdraw a:email"]);
    assert_eq!(fields(&compiled.rejects), [("at", "not_a_time")]);
    // Without a stop, the row is rejected.
    let compiled = one(b"1,k,yes,,,31.02.2025,,,,\n");
    assert!(compiled.rows.is_empty() && compiled.warnings.is_empty());
    // An end is for the grants of the row.
    let compiled = one(b"1,k,no,,ok,,2030-01-01T00:00:00Z,,,\n");
    assert!(compiled.warnings.is_empty() && compiled.rows[0].changes[1].expires_at.is_some());
    // Without a data subject, nobody knows whose stop it is.
    assert_eq!(fields(&one(b",k,no,,,,,,,\n").rejects), [("id", "blank")]);
}

#[test]
fn blank_fields_at_the_end_that_the_heading_does_not_have_say_nothing() {
    let compiled = one(b"1,k,no,,,,,,,,,\n");
    assert_eq!(cells(&compiled.rows[0]), ["Withdraw a:email"]);
    assert_eq!(fields(&one(b"1,k,no,,,,,,,,,x\n").rejects), [("", "not_a_row")]);
}

#[test]
fn a_column_is_found_whatever_its_case_white_space_and_quotes() {
    for heading in [
        "\u{feff}ID,News",
        " id ,\u{a0}news\u{a0}",
        "'id',\u{201c}news\u{201d}",
        "\"\"\"id\"\"\",NEWS",
        "\u{feff}\"id\",\"news\"",
    ] {
        let csv = format!("{heading}\r\n1,yes\r\n");
        assert_eq!(read(MAPPING, csv.as_bytes())[0].as_ref().unwrap().subject, "user:1");
    }
    // The exact name wins over one in another case.
    let csv = b"id,NEWS,news\n1,gone,yes\n";
    assert_eq!(read(MAPPING, csv)[0].as_ref().unwrap().changes[0].action(), Action::Grant);
}

/// The rows of a file, without those that say nothing: who, and the changes.
fn said(mapping: &str, csv: &str) -> Vec<String> {
    let compiled = compile(mapping, csv.as_bytes());
    assert!(compiled.iter().all(|it| it.rejects.is_empty()), "{compiled:?}");
    let rows = compiled.into_iter().flat_map(|it| it.rows);
    let rows = rows.filter(|row| !row.changes.is_empty());
    rows.map(|row| format!("{}: {}", row.subject, cells(&row).join(", "))).collect()
}

#[test]
fn the_mappings_for_other_systems_know_the_words_of_their_exports() {
    let civicrm = include_str!("../../../../examples/mappings/civicrm.toml");
    let contacts = "\"Contact ID\",\"Do Not Email\",\"Do Not Phone\",\"Do Not Mail\",\"Do Not Sms\",\
        \"Do Not Trade\",\"No Bulk Emails (User Opt Out)\",\"Preferred Language\",\"Email\"\n\
        \"201\",\"\",\"1\",\"\",\"\",\"1\",\"\",\"de_AT\",\"tim@example.org\"\n\
        \"202\",\"Yes\",\"No\",\"No\",\"No\",\"No\",\"Yes\",\"en_US\",\"uma@example.org\"\n\
        \"203\",\"0\",\"0\",\"0\",\"0\",\"0\",\"0\",\"\",\"\"\n";
    let want = [
        "email:tim@example.org: Object *:phone, Object marketing.partner-offers:*",
        "email:uma@example.org: Object *:email, Withdraw marketing.newsletter:email",
    ];
    assert_eq!(said(civicrm, contacts), want);

    let brevo = include_str!("../../../../examples/mappings/brevo.toml");
    let contacts = "EMAIL;SMS;EMAIL_BLACKLISTED;SMS_BLACKLISTED;DOUBLE_OPT-IN;MODIFIED_TIME\n\
        vic@example.com;33611111111;Yes;No;Yes;13-04-2022 10:00\n\
        wes@example.com;;No;No;No;13-04-2022 10:00\n\
        ;33622222222;No;Yes;No;13-04-2022 10:00\n\
        xi@example.com;33633333333;Yes;Yes;No;13-04-2022 10:00\n";
    let want = [
        "email:vic@example.com: Withdraw *:email",
        "tel:+33622222222: Withdraw *:sms",
        "email:xi@example.com: Withdraw *:email",
        "tel:+33633333333: Withdraw *:sms",
    ];
    assert_eq!(said(brevo, contacts), want);

    let listmonk = include_str!("../../../../examples/mappings/listmonk.toml");
    let subscribers = "email,attributes,status,updated_at\n\
        fay@example.com,\"{\"\"city\"\": \"\"Graz\"\"}\",enabled,2020-03-10 10:53:13.123456+00:00\n\
        gil@example.com,{},blocklisted,2020-03-10 10:53:13+00\n";
    assert_eq!(said(listmonk, subscribers), ["email:gil@example.com: Withdraw *:email"]);
    let compiled = compile(listmonk, subscribers.as_bytes());
    assert!(compiled[1].warnings.is_empty(), "the time is read: {compiled:?}");
}

#[test]
fn a_row_without_a_data_subject_says_nothing_if_it_changes_nothing() {
    let compiled = one(b",k,-,,,2024-10-27 09:00,,,,\n");
    assert!(compiled.rows.is_empty() && compiled.rejects.is_empty(), "{compiled:?}");
    assert_eq!(fields(&one(b",k,maybe,,,,,,,\n").rejects), [("id", "blank")]);
    assert_eq!(fields(&one(b",k,,,,,,,,de\n").rejects), [("id", "blank")]);
}

#[test]
fn a_broken_row_is_found_by_rows_like_it_and_a_text_of_several_lines_is_none() {
    for (csv, want) in [
        // Two broken rows look like one of two lines: the stops of both count.
        ("id,at,news\n1,\"Kim,gone\n2,Bo\",gone\n3,Cy,no\n", vec!["user:1", "user:2", "user:3"]),
        // Texts of several lines.
        (
            "id,at,news\n1,\"Street 5,\n1010 Vienna, Austria\",gone\n2,,no\n",
            vec!["user:1", "user:2"],
        ),
        ("id,at,news\n1,\"a,\nno, no, no\nb\",gone\n2,,no\n", vec!["user:1", "user:no", "user:2"]),
    ] {
        let mapping = Mapping::parse(MAPPING).unwrap();
        let from = Box::new(Cursor::new(csv.to_owned()));
        let mut records = Records::new(from, b',', Place::START);
        let heading = records.heading(None, |heading| mapping.known_columns(heading));
        let bound = mapping.bind(&heading.unwrap().unwrap()).unwrap();
        let mut subjects = Vec::new();
        while let Some(read) = records.next(&bound).unwrap() {
            if let Read::Record(record) | Read::Doubtful(record, _) = read {
                subjects.extend(bound.compile(&record).rows.into_iter().map(|row| row.subject));
            }
        }
        assert_eq!(subjects, want, "{csv}");
    }
}
