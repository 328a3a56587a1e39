//! `docs/format-messages.md`: every message, field and enum number of the ledger's own bytes.

use std::{collections::BTreeMap, error::Error, fmt::Write as _};

use protox::prost_reflect::{
    Cardinality, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor,
};

use crate::protocol::Protocol;

/// The document: messages in the order of their files, then the enums that they use.
///
/// # Errors
/// A message, field or value has no comment.
pub fn document(ledger: &Protocol, package: &str) -> Result<String, Box<dyn Error>> {
    let mut text = include_str!("messages.md").to_owned();
    let mut enums = BTreeMap::new();
    for file in ledger.pool().files().filter(|file| file.package_name() == package) {
        let name = file.name().rsplit('/').next().unwrap_or_default();
        let _ = write!(text, "\n## {name}\n");
        for message in file.messages() {
            write_message(&mut text, &message)?;
            for field in message.fields() {
                if let Kind::Enum(used) = field.kind() {
                    enums.insert(used.full_name().to_owned(), used);
                }
            }
        }
        for declared in file.enums() {
            enums.insert(declared.full_name().to_owned(), declared);
        }
    }
    text.push_str("\n## Enums\n");
    for used in enums.values() {
        write_enum(&mut text, used)?;
    }
    Ok(text)
}

fn write_message(text: &mut String, message: &MessageDescriptor) -> Result<(), Box<dyn Error>> {
    let file = message.parent_file();
    let about = comment(&file, message.path(), message.full_name())?;
    let _ = write!(text, "\n### {}\n\n{about}\n\n", message.name());
    text.push_str("| number | field | type | meaning |\n| --- | --- | --- | --- |\n");
    let mut fields: Vec<_> = message.fields().collect();
    fields.sort_by_key(FieldDescriptor::number);
    for field in fields {
        let about = comment(&file, field.path(), field.full_name())?;
        let (number, name, kind) = (field.number(), field.name(), type_of(&field));
        let _ = writeln!(text, "| {number} | `{name}` | {kind} | {about} |");
    }
    Ok(())
}

fn write_enum(text: &mut String, used: &EnumDescriptor) -> Result<(), Box<dyn Error>> {
    let file = used.parent_file();
    let about = comment(&file, used.path(), used.full_name())?;
    let _ = write!(text, "\n### {}\n\n{about}\n\n", used.name());
    text.push_str("| number | name | meaning |\n| --- | --- | --- |\n");
    for value in used.values() {
        let about = comment(&file, value.path(), value.full_name())?;
        let _ = writeln!(text, "| {} | `{}` | {about} |", value.number(), value.name());
    }
    Ok(())
}

fn type_of(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        Kind::Message(message) => message.name().to_owned(),
        Kind::Enum(used) => used.name().to_owned(),
        kind => format!("{kind:?}").to_lowercase(),
    };
    let choice = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
    match (field.cardinality(), choice) {
        (Cardinality::Repeated, _) => format!("repeated {kind}"),
        (_, Some(oneof)) => format!("{kind}, one of `{}`", oneof.name()),
        (_, None) if field.field_descriptor_proto().proto3_optional() => format!("optional {kind}"),
        (_, None) => kind,
    }
}

/// The comment above something of a file, as one line.
fn comment(file: &FileDescriptor, path: &[i32], name: &str) -> Result<String, Box<dyn Error>> {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let locations = info.map(|info| info.location.as_slice()).unwrap_or_default();
    let location = locations.iter().find(|location| location.path == path);
    let about = location.and_then(|location| location.leading_comments.as_deref());
    let about = about.ok_or_else(|| format!("{name} has no comment"))?;
    Ok(about.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|"))
}
