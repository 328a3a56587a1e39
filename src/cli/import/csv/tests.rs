//! Records with either line end, at any place, and around open quotes.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;

/// Rows of a width whose last field is `yes`, `no` or blank.
struct Words(usize);

impl Words {
    fn word(record: &Record) -> &[u8] {
        record.field(record.width() - 1).trim_ascii()
    }
}

impl Shape for Words {
    fn fits(&self, record: &Record) -> bool {
        record.width() == self.0
    }

    fn changes_something(&self, record: &Record, _: &Record) -> bool {
        let is_number = |field: &[u8]| !field.is_empty() && field.iter().all(u8::is_ascii_digit);
        self.fits(record)
            && is_number(record.field(0))
            && matches!(Self::word(record), b"yes" | b"no")
    }

    fn are_alike(&self, _: &Record, _: &Record) -> bool {
        true
    }
}

/// Rows of any width.
struct Any;

impl Shape for Any {
    fn fits(&self, _: &Record) -> bool {
        true
    }

    fn changes_something(&self, _: &Record, _: &Record) -> bool {
        false
    }

    fn are_alike(&self, _: &Record, _: &Record) -> bool {
        false
    }
}

fn records(text: &str, place: Place) -> Records {
    let rest = text[usize::try_from(place.offset).unwrap()..].to_owned();
    let mut records = Records::new(Box::new(Cursor::new(rest)), b',', place);
    records.skip_byte_order_mark().unwrap();
    records
}

fn fields(record: &Record) -> Vec<String> {
    (0..record.width())
        .map(|index| String::from_utf8(record.field(index).to_vec()).unwrap())
        .collect()
}

fn next(records: &mut Records) -> Option<Record> {
    match records.next(&Any).unwrap() {
        Some(Read::Record(record)) => Some(record),
        Some(other) => panic!("{other:?}"),
        None => None,
    }
}

const TEXT: &str = "\u{feff}id,text\n1,\"a \"\"b\"\"\nc\"\n\n\n2,d\n3\n4,,\n5,";

#[test]
fn records_have_their_lines_with_every_line_end() {
    for end in ["\n", "\r\n", "\r"] {
        let text = TEXT.replace('\n', end);
        let mut records = records(&text, Place::START);
        let mut found = Vec::new();
        while let Some(record) = next(&mut records) {
            found.push((record.line, fields(&record).join("|").replace(end, "\n")));
        }
        let want =
            [(1, "id|text"), (2, "1|a \"b\"\nc"), (6, "2|d"), (7, "3"), (8, "4||"), (9, "5|")];
        assert_eq!(found, want.map(|(line, text)| (line, text.to_owned())), "{end:?}");
        assert_eq!(records.place().offset, u64::try_from(text.len()).unwrap());
    }
}

#[test]
fn reading_goes_on_after_any_record() {
    for end in ["\n", "\r\n", "\r"] {
        let text = TEXT.replace('\n', end);
        let mut first = records(&text, Place::START);
        while next(&mut first).is_some() {
            let mut rest = records(&text, first.place());
            let mut same = records(&text, Place::START);
            while same.place() != first.place() {
                next(&mut same).unwrap();
            }
            while let Some(record) = next(&mut same) {
                let other = next(&mut rest).unwrap();
                assert_eq!((record.line, fields(&record)), (other.line, fields(&other)));
            }
            assert!(next(&mut rest).is_none());
        }
    }
}

#[test]
fn wide_and_long_records_are_read_and_endless_ones_are_left_out() {
    let wide = format!("{}\n{}\n", "x,".repeat(500), "y".repeat(100_000));
    let mut wide = records(&wide, Place::START);
    assert_eq!(next(&mut wide).unwrap().width(), 501);
    assert_eq!(next(&mut wide).unwrap().field(0).len(), 100_000);
    let endless = format!("1,{}\n2,no\n", "x".repeat(2 * ROW_BYTES_MAX));
    assert_eq!(read(&endless, 2), ([(1, 1)].into(), ["2|no".to_owned()].into()));
}

#[test]
fn the_delimiter_is_the_one_that_the_file_or_its_heading_says() {
    for (text, given, delimiter, want) in [
        ("id;news\n", None, b';', "id|news"),
        ("id, or not\tnews\n", None, b'\t', "id, or not|news"),
        ("id|news\n", None, b'|', "id|news"),
        ("\u{feff}sep=;\r\nid;news\r\n", None, b';', "id|news"),
        ("\"sep=|\"\nid|news\n", None, b'|', "id|news"),
        ("id;news,other\n", Some(b','), b',', "id;news|other"),
        // The heading decides by the columns of the mapping, not by their number.
        ("a,b,c;id;news\n", None, b';', "a,b,c|id|news"),
    ] {
        let mut records = Records::new(Box::new(Cursor::new(text.to_owned())), b',', Place::START);
        let known = |record: &Record| fields(record).iter().filter(|it| *it == "news").count();
        let heading = records.heading(given, known).unwrap().unwrap();
        assert_eq!((records.delimiter(), fields(&heading).join("|")), (delimiter, want.to_owned()));
    }
}

/// The lines of broken records, with the lines of their quotes, and all records as text.
fn read(text: &str, width: usize) -> (Vec<(u64, u64)>, Vec<String>) {
    let mut records = records(text, Place::START);
    let (mut broken, mut whole) = (Vec::new(), Vec::new());
    while let Some(read) = records.next(&Words(width)).unwrap() {
        match read {
            Read::Record(record) => whole.push(fields(&record).join("|")),
            Read::Broken(it) => broken.push((it.line, it.quote_line.unwrap_or(it.line))),
            // Neither reading is sure.
            Read::Doubtful(it, _) => broken.push((it.line, it.line)),
        }
    }
    (broken, whole)
}

#[test]
fn an_open_quote_leaves_the_rows_after_it_alone() {
    for (text, broken, whole) in [
        // To the end of the file.
        ("1,\"Kim,no\n2,Bo,no\n3,Cy,yes\n", vec![(1, 1)], vec!["2|Bo|no", "3|Cy|yes"]),
        // To the next quote, which opens a field.
        ("1,\"Kim,no\n2,\"Bo\",no\n3,Cy,yes\n", vec![(1, 1)], vec!["2|Bo|no", "3|Cy|yes"]),
        // To a quote that closes a field, with the right number of fields.
        ("1,\"Kim,no\n2,Bo\",no\n3,Cy,yes\n", vec![(1, 1)], vec!["2|Bo\"|no", "3|Cy|yes"]),
        ("1,\"Kim,\n2,Bo\",no\n", vec![(1, 1)], vec!["2|Bo\"|no"]),
        // Over rows with empty fields in quotes.
        ("1,\"Kim,no\n2,\"\",no\n3,\",\",no\n", vec![(1, 1)], vec!["2||no", "3|,|no"]),
        // To a quote of a row that spans lines.
        ("1,\"Kim,no\n2,\",\n\",no\n", vec![(1, 1)], vec!["2|,\n|no"]),
        // To a row between two that span lines.
        ("1,\",no\n2,\",\",no\n3,\"\n\",\n", vec![(1, 1)], vec!["2|,|no", "3|\n|"]),
        // In the last field, and in the last row.
        ("1,Kim,\"no\n2,Bo,no\n", vec![(1, 1)], vec!["2|Bo|no"]),
        ("1,Kim,no\n2,\"Bo,no", vec![(2, 2)], vec!["1|Kim|no"]),
        // In several rows.
        ("1,\"Kim,no\n2,\"Bo,no\n3,Cy,no\n", vec![(1, 1), (2, 2)], vec!["3|Cy|no"]),
        // In a row whose other field spans lines.
        ("1,\"a\nb\n2,Bo,no\n", vec![(1, 1)], vec!["2|Bo|no"]),
        // A field that spans lines is whole, whatever its lines hold.
        ("1,\"a, b\nc, d\ne, f\",no\n2,Bo,no\n", vec![], vec!["1|a, b\nc, d\ne, f|no", "2|Bo|no"]),
        (
            "1,\"Street 5, Top 3\nVienna, Austria\",yes\n",
            vec![],
            vec!["1|Street 5, Top 3\nVienna, Austria|yes"],
        ),
        // Text after a closing quote on one line is read as before.
        ("1,\"Kim\" B,no\n2,5\" pipe,no\n", vec![], vec!["1|Kim B|no", "2|5\" pipe|no"]),
    ] {
        let whole: Vec<_> = whole.into_iter().map(str::to_owned).collect();
        assert_eq!(read(text, 3), (broken.clone(), whole.clone()), "{text}");
        let (found, _) = read(&text.replace('\n', "\r\n"), 3);
        assert_eq!(found, broken, "{text}");
    }
}

#[test]
fn a_broken_row_says_where_its_quote_opens() {
    let text = "1,\"a\nb\",\"no\n2,Bo,no\n";
    let mut records = records(text, Place::START);
    let Some(Read::Broken(broken)) = records.next(&Words(3)).unwrap() else { panic!() };
    assert_eq!(broken.quote_line, Some(1));
    let message = broken.reject().message;
    assert_eq!(message, "a quote that opens on line 1 is not closed; lines 1 to 2 are left out");
}

#[test]
fn rows_that_a_quote_may_hold_are_in_doubt() {
    use Doubt::{BehindQuote, HoldsRow, IsHeld};
    let note = "x".repeat(ROW_BYTES_MAX / 2);
    for (text, want) in [
        // The quote is never closed, or not as a field is.
        ("1,\"Kim,no\n2,Bo,no\n".to_owned(), vec![("2", Some(BehindQuote(1)))]),
        (
            "1,\"Kim,no\n2,\"Bo\",no\n3,Cy,no\n".to_owned(),
            vec![("2", Some(BehindQuote(1))), ("3", None)],
        ),
        // It is, and both readings are possible.
        (
            "1,\"Kim,no\n2,Bo\",no\n3,Cy,no\n".to_owned(),
            vec![("1", Some(HoldsRow(2))), ("2", Some(IsHeld(1))), ("3", None)],
        ),
        (
            "1,\"Kim,maybe\n2,Bo\",no\n".to_owned(),
            vec![("1", Some(HoldsRow(2))), ("2", Some(IsHeld(1)))],
        ),
        (
            "1,\"a\nb\n2,Bo\",no\n".to_owned(),
            vec![("1", Some(HoldsRow(3))), ("2", Some(IsHeld(1)))],
        ),
        // What names nobody is no row.
        (
            "0,\",yes\n1,\",\n,,\",\n2,,no\n3,\"\n".to_owned(),
            vec![("0", None), ("", Some(HoldsRow(4))), ("2", Some(IsHeld(3)))],
        ),
        // The first line is no row: the line inside is a text.
        ("1,\"see\n2,Bo,yes\nbye\",no\n3,Cy,no\n".to_owned(), vec![("1", None), ("3", None)]),
        // A long text is a text.
        (format!("1,\"{note}\n\",no\n2,Bo,no\n"), vec![("1", None), ("2", None)]),
    ] {
        let mut records = records(&text, Place::START);
        let mut found = Vec::new();
        while let Some(read) = records.next(&Words(3)).unwrap() {
            let (Read::Record(record) | Read::Doubtful(record, _)) = read else { continue };
            found.push((String::from_utf8(record.field(0).to_vec()).unwrap(), record.doubt));
            // Reading that goes on from here doubts the same rows.
            records = self::records(&text, records.place());
        }
        let want: Vec<_> = want.into_iter().map(|(id, doubt)| (id.to_owned(), doubt)).collect();
        assert_eq!(found, want, "{}", text.get(..40).unwrap_or(&text));
    }
}

/// A field that needs quotes, or not: with line breaks, delimiters and quotes.
fn any_note() -> impl Strategy<Value = String> {
    prop_oneof!["[a-d ]{0,6}", "[a-d,\n\" ]{0,12}"]
}

fn quoted(text: &str) -> String {
    match text.contains(['"', ',', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

proptest! {
    /// Rows of number, note, word; in some of them the note has an opening quote and no closing one.
    #[test]
    fn no_row_is_lost_to_a_quote_in_another(
        rows in prop::collection::vec((any_note(), prop::bool::weighted(0.2), 0..3_usize), 1..12),
    ) {
        let word = |index: usize| ["yes", "no", ""][index];
        let mut text = String::new();
        let mut want = Vec::new();
        for (number, (note, is_broken, index)) in rows.iter().enumerate() {
            let word = word(*index);
            if *is_broken {
                let note = note.replace(['"', ',', '\n'], " ");
                text += &format!("{number},\"{note},{word}\n");
            } else {
                text += &format!("{number},{},{word}\n", quoted(note));
                if !word.is_empty() {
                    want.push(format!("{number}|{note}|{word}"));
                }
            }
        }
        let (_, whole) = read(&text, 3);
        for row in want {
            prop_assert!(whole.contains(&row), "{row:?} of {text:?} is lost: {whole:?}");
        }
    }

    #[test]
    fn arbitrary_bytes_are_read_to_their_end(bytes in prop::collection::vec(
        prop_oneof![Just(b'"'), Just(b','), Just(b'\n'), Just(b'\r'), Just(b'a')], 0..60,
    )) {
        let mut records = Records::new(Box::new(Cursor::new(bytes.clone())), b',', Place::START);
        let mut rows = 0;
        while records.next(&Words(3)).unwrap().is_some() {
            rows += 1;
            prop_assert!(rows <= bytes.len());
        }
        prop_assert_eq!(records.place().offset, u64::try_from(bytes.len()).unwrap());
    }
}
