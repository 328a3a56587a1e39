//! Every message that is printed, posted or read, with every field that its descriptor has.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Debug,
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use prost::{Message as _, bytes::Bytes};
use prost_reflect::{MapKey, ReflectMessage as _, Value as Field};
use serde_json::{Map, json, to_value};

use super::*;
use crate::proto::{
    ledger::{Entry, PurposePut, entry},
    *,
};

#[test]
fn every_field_of_every_message_is_printed_and_read_back() {
    let messages = DESCRIPTORS
        .all_messages()
        .filter(|message| message.package_name() == "consent.v1" && !message.is_map_entry());
    let mut count = 0;
    for descriptor in messages {
        count += 1;
        let samples = samples(&descriptor);
        let set: BTreeSet<u32> =
            samples.iter().flat_map(|sample| sample.fields().map(|(it, _)| it.number())).collect();
        let all: BTreeSet<u32> = descriptor.fields().map(|field| field.number()).collect();
        assert_eq!(set, all, "{}: some sample has each field", descriptor.full_name());
        samples.iter().chain([&DynamicMessage::new(descriptor)]).for_each(check);
    }
    assert!(count > 100, "these are the messages of the protocol");
}

/// Prints a message, compares the JSON with the message field by field, and reads it back.
fn check(message: &DynamicMessage) {
    let descriptor = message.descriptor();
    for (options, with_defaults) in [(&EVERY_FIELD, true), (&SET_FIELDS, false)] {
        let json = write(message, options, serde_json::value::Serializer).unwrap();
        assert_eq!(json, expected(message, with_defaults), "{}", descriptor.full_name());
        let read_back = read(descriptor.clone(), &json).unwrap();
        assert_eq!(expected(&read_back, with_defaults), json, "{}", descriptor.full_name());
    }
}

/// The same through the generated type, which takes the way of bytes.
fn check_type<M: Name + Default + PartialEq + Debug>() {
    let samples = samples(&descriptor::<M>().unwrap());
    for sample in samples {
        let message: M = sample.transcode_to().unwrap();
        let json = to_value(ProtoJson(&message)).unwrap();
        assert_eq!(json, expected(&sample, true));
        assert_eq!(to_value(Compact(&message)).unwrap(), expected(&sample, false));
        assert_eq!(from_str::<M>(&json.to_string()).unwrap(), message);
    }
}

#[test]
fn generated_types_lose_nothing_on_the_way() {
    check_type::<WatchResponse>();
    check_type::<ListHistoryResponse>();
    check_type::<GetPreferencesResponse>();
    check_type::<Purpose>();
    check_type::<Entry>();
    check_type::<ImportRow>();
    check_type::<RecordConsentRequest>();
}

/// The JSON of a message, written from the specification, with or without defaults.
fn expected(message: &DynamicMessage, with_defaults: bool) -> Value {
    let descriptor = message.descriptor();
    match descriptor.full_name() {
        "google.protobuf.Timestamp" => return json!("2026-01-31T12:00:00.250Z"),
        "google.protobuf.Duration" => return json!("90.500s"),
        _ => {}
    }
    let mut fields = Map::new();
    for field in descriptor.fields() {
        let is_shown = message.has_field(&field) || (with_defaults && !field.supports_presence());
        if is_shown {
            let value = message.get_field(&field);
            let json = expected_field(&value, &field.kind(), with_defaults);
            fields.insert(camel_case(field.name()), json);
        }
    }
    Value::Object(fields)
}

fn expected_field(value: &Field, kind: &Kind, with_defaults: bool) -> Value {
    match value {
        Field::Bool(flag) => json!(flag),
        Field::I32(number) => json!(number),
        Field::U32(number) => json!(number),
        Field::I64(number) => json!(number.to_string()),
        Field::U64(number) => json!(number.to_string()),
        Field::String(text) => json!(text),
        Field::Bytes(bytes) => json!(BASE64_STANDARD.encode(bytes)),
        Field::EnumNumber(number) => {
            json!(kind.as_enum().unwrap().get_value(*number).unwrap().name())
        }
        Field::Message(message) => expected(message, with_defaults),
        Field::List(items) => {
            items.iter().map(|item| expected_field(item, kind, with_defaults)).collect()
        }
        Field::Map(entries) => {
            let kind = kind.as_message().unwrap().map_entry_value_field().kind();
            let entry = |(key, value): (&MapKey, &Field)| {
                let key = key.as_str().unwrap().to_owned();
                (key, expected_field(value, &kind, with_defaults))
            };
            Value::Object(entries.iter().map(entry).collect())
        }
        Field::F32(_) | Field::F64(_) => panic!("the protocol has no fractions"),
    }
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| name + &word[..1].to_ascii_uppercase() + &word[1..])
}

/// Messages that, taken together, set every field, every field of each oneof, and every value of each
/// enum.
fn samples(descriptor: &MessageDescriptor) -> Vec<DynamicMessage> {
    let mut message = DynamicMessage::new(descriptor.clone());
    match descriptor.full_name() {
        "google.protobuf.Timestamp" => {
            message.set_field_by_name("seconds", Field::I64(1_769_860_800));
            message.set_field_by_name("nanos", Field::I32(250_000_000));
            return vec![message];
        }
        "google.protobuf.Duration" => {
            message.set_field_by_name("seconds", Field::I64(90));
            message.set_field_by_name("nanos", Field::I32(500_000_000));
            return vec![message];
        }
        _ => {}
    }
    // What can be set together with everything else: a field, or one of a oneof's.
    let with_value =
        |field: FieldDescriptor| values(&field).into_iter().map(move |it| (field.clone(), it));
    let alone = descriptor
        .fields()
        .filter(|field| field.containing_oneof().is_none_or(|oneof| oneof.is_synthetic()));
    let mut choices: Vec<Vec<_>> = alone.map(|field| with_value(field).collect()).collect();
    let oneofs = descriptor.oneofs().filter(|oneof| !oneof.is_synthetic());
    choices.extend(oneofs.map(|oneof| oneof.fields().flat_map(with_value).collect()));

    let count = choices.iter().map(Vec::len).max().unwrap_or(0);
    let sample = |number: usize| {
        let mut message = message.clone();
        for choice in &choices {
            let (field, value) = &choice[number % choice.len()];
            message.set_field(field, value.clone());
        }
        message
    };
    (0..count).map(sample).collect()
}

/// Values of a field, of which none is all that there is to it.
fn values(field: &FieldDescriptor) -> Vec<Field> {
    if field.is_map() {
        let values =
            kind_values(&field.kind().as_message().unwrap().map_entry_value_field().kind());
        let keys = (0..values.len()).rev().map(|key| MapKey::String(format!("key {key}")));
        return vec![Field::Map(keys.zip(values).collect::<HashMap<_, _>>())];
    }
    let values = kind_values(&field.kind());
    if field.is_list() { vec![Field::List(values)] } else { values }
}

fn kind_values(kind: &Kind) -> Vec<Field> {
    match kind {
        Kind::Bool => vec![Field::Bool(true)],
        Kind::Int32 => vec![Field::I32(i32::MIN)],
        Kind::Uint32 => vec![Field::U32(u32::MAX)],
        Kind::Int64 => vec![Field::I64(i64::MIN)],
        Kind::Uint64 => vec![Field::U64(u64::MAX)],
        Kind::String => vec![Field::String("\"ü\"\n".to_owned())],
        Kind::Bytes => vec![Field::Bytes(Bytes::from_static(&[0xfb, 0xff, 0xfe, 0]))],
        Kind::Enum(descriptor) => {
            descriptor.values().map(|value| Field::EnumNumber(value.number())).collect()
        }
        Kind::Message(descriptor) => samples(descriptor).into_iter().map(Field::Message).collect(),
        other => panic!("the protocol has no {other:?} so far"),
    }
}

fn text<M: Name>(message: &M) -> String {
    serde_json::to_string(&ProtoJson(message)).unwrap()
}

#[test]
fn the_same_message_is_the_same_text_each_time() {
    let attributes = (0..50).map(|key| (format!("{key:02}"), String::new()));
    let evidence = Evidence { attributes: attributes.collect(), ..Evidence::default() };
    let row = ImportRow { evidence: Some(evidence), row_key: "k".into(), ..ImportRow::default() };
    let json = text(&row);
    assert!(
        json.starts_with(r#"{"line":"0","subject":"","actor":"ACTOR_UNSPECIFIED","changes":[],"#)
    );
    assert!(json.ends_with(r#""rowKey":"k"}"#), "fields go by their numbers: {json}");
    let places: Vec<_> = (0..50).map(|key| json.find(&format!("\"{key:02}\""))).collect();
    assert!(places.is_sorted() && places[0].is_some(), "entries of maps go by their keys: {json}");
}

#[test]
fn what_a_message_does_not_have_is_an_error_that_names_it() {
    let error = |text: &str| from_str::<RecordConsentRequest>(text).unwrap_err().to_string();
    for (text, want) in [
        (r#"{"subject":"a:b","evidance":{}}"#, "'evidance'"),
        (r#"{"evidence":{"touch_point":""}}"#, "'touch_point'"),
        (r#"{"actor":"subject"}"#, "'subject'"),
        (r#"{"effectiveAt":"yesterday"}"#, "field 'effectiveAt': invalid"),
        (r#"{"effectiveAt":"2026-01-01"}"#, "field 'effectiveAt': invalid"),
        (r#"{"changes":[{"expires_at":"never"}]}"#, "field 'changes': invalid"),
        (r#"{"evidence":{"noticeHash":"0!"}}"#, "base64"),
        (r#"{"subject":7}"#, "a string"),
        (r#"{"subject":"a:b"} {}"#, "trailing characters"),
        (r#"["subject"]"#, "is not a JSON object"),
        ("not json", "at line 1 column"),
    ] {
        assert!(error(text).contains(want), "{text}: {}", error(text));
    }
}

#[test]
fn names_of_the_protocol_and_nulls_are_read_too() {
    let json = r#"{"idempotency_key":"k","effectiveAt":null,"wait_for_checkpoint":true}"#;
    let request: RecordConsentRequest = from_str(json).unwrap();
    assert_eq!((&*request.idempotency_key, request.wait_for_checkpoint), ("k", true));
}

#[test]
fn a_value_of_a_newer_server_is_its_number() {
    let answer = CheckResponse { reason: 999, ..CheckResponse::default() };
    assert!(text(&answer).contains(r#""reason":999"#));
    assert_eq!(from_str::<CheckResponse>(&text(&answer)).unwrap(), answer);
}

#[test]
fn a_field_that_is_given_twice_is_an_error() {
    for text in [
        r#"{"subject":"user:1","subject":"user:2"}"#,
        r#"{"subject":"user:1","changes":[],"changes":[]}"#,
        r#"{"changes":[{"scope":{"purpose":"a","purpose":"b"}}]}"#,
        r#"{"evidence":{"attributes":{"a":"1","a":"2"}}}"#,
        r#"{"effectiveAt":"2026-01-01T00:00:00Z","effective_at":"2026-01-02T00:00:00Z"}"#,
        r#"{"changes":[{"expiresAt":null,"expires_at":"2026-01-02T00:00:00Z"}]}"#,
    ] {
        let error = from_str::<ImportRow>(text).unwrap_err().to_string();
        assert!(error.contains("is given twice"), "{text}: {error}");
    }
    let row: ImportRow = from_str(r#"{"evidence":{"attributes":{"a_b":"1","aB":"2"}}}"#).unwrap();
    assert_eq!(row.evidence.unwrap().attributes.len(), 2);
}

#[test]
fn the_field_of_a_oneof_is_named() {
    let body = entry::Body::PurposePut(PurposePut::default());
    let field = field_in_oneof(&Entry { body: Some(body), ..Entry::default() }, "body").unwrap();
    assert_eq!((field.name(), field.json_name()), ("purpose_put", "purposePut"));
    assert!(field_in_oneof(&Entry::default(), "body").is_none());
}

#[test]
fn a_message_without_a_descriptor_is_an_error() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Stranger {}
    impl Name for Stranger {
        const NAME: &'static str = "Stranger";
        const PACKAGE: &'static str = "elsewhere";
    }
    let error = to_value(ProtoJson(&Stranger {})).unwrap_err().to_string();
    assert!(error.contains("elsewhere.Stranger"), "{error}");
    assert!(from_str::<Stranger>("{}").is_err());
    assert!(Stranger {}.encode_to_vec().is_empty());
}
