//! ProtoJSON: messages of the protocol as JSON, as the protobuf specification maps them
//! (<https://protobuf.dev/programming-guides/json/>).
//!
//! The descriptors of the protocol say which fields there are: a field that a message gains is
//! printed and read from then on, with no line of code for it. Names are lowerCamelCase, enum values
//! are names, 64-bit integers are strings, bytes are base64, times are RFC 3339, and spans of time
//! are seconds with an `s`.
//!
//! The specification leaves choices. [`ProtoJson`] prints every field without presence, also with its
//! default value, so that a script finds the same fields in every message. A field with presence is
//! printed if it is set. Reading accepts fields in any order, under their JSON name or their name in the
//! protocol; an unknown field is an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use prost::Name;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor,
    ReflectMessage as _, SerializeOptions,
};
use serde::{Deserializer, Serialize, Serializer, de, ser};
use serde_json::{Map, Value};

use self::unique::Unique;
use crate::proto::{FILE_DESCRIPTOR_SET, ledger};

mod unique;

static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool =
        DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build compiled these descriptors");
    // Files that both sets have are the same.
    pool.decode_file_descriptor_set(ledger::FILE_DESCRIPTOR_SET)
        .expect("the build compiled these descriptors");
    pool
});

const EVERY_FIELD: SerializeOptions = SerializeOptions::new().skip_default_fields(false);
const SET_FIELDS: SerializeOptions = SerializeOptions::new();

/// A message that serializes as ProtoJSON, with every field that has no presence.
#[derive(Debug, Clone, Copy)]
pub struct ProtoJson<'a, M>(pub &'a M);

impl<M: Name> Serialize for ProtoJson<'_, M> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        write(&reflect(self.0).map_err(ser::Error::custom)?, &EVERY_FIELD, to)
    }
}

/// A message that serializes as ProtoJSON, without the fields that have their default: for requests
/// that people read and write.
#[derive(Debug, Clone, Copy)]
pub struct Compact<'a, M>(pub &'a M);

impl<M: Name> Serialize for Compact<'_, M> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        write(&reflect(self.0).map_err(ser::Error::custom)?, &SET_FIELDS, to)
    }
}

/// Writes a message as [`ProtoJson`] does, for `#[serde(serialize_with)]`.
///
/// # Errors
/// The message holds a time or a span of time that has no JSON form, or the serializer fails.
pub fn serialize<M: Name, S: Serializer>(message: &M, to: S) -> Result<S::Ok, S::Error> {
    ProtoJson(message).serialize(to)
}

/// As [`serialize`], for a message that may be missing: it is `null` then.
///
/// # Errors
/// As [`serialize`].
pub fn serialize_option<M: Name, S: Serializer>(
    message: &Option<M>,
    to: S,
) -> Result<S::Ok, S::Error> {
    message.as_ref().map(ProtoJson).serialize(to)
}

/// As [`serialize`], for a list of messages.
///
/// # Errors
/// As [`serialize`].
pub fn serialize_list<M: Name, S: Serializer>(messages: &[M], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(messages.iter().map(ProtoJson))
}

/// Reads a message from ProtoJSON.
///
/// # Errors
/// The JSON does not fit the message: an unknown field, or a value of another kind.
pub fn deserialize<'de, M: Name + Default, D: Deserializer<'de>>(from: D) -> Result<M, D::Error> {
    let descriptor = descriptor::<M>().map_err(de::Error::custom)?;
    read(descriptor, from)?.transcode_to().map_err(de::Error::custom)
}

/// Reads a message from the text of one JSON object.
///
/// # Errors
/// The text is not JSON, has a field twice, or as [`deserialize`].
pub fn from_str<M: Name + Default>(text: &str) -> serde_json::Result<M> {
    from_object(object_from_str(text)?)
}

/// Reads a message from a JSON object.
///
/// # Errors
/// A field is given under both of its names, or as [`deserialize`].
pub fn from_object<M: Name + Default>(object: Map<String, Value>) -> serde_json::Result<M> {
    let descriptor = descriptor::<M>().map_err(de::Error::custom)?;
    if let Some(name) = given_twice(&descriptor, &object) {
        return Err(de::Error::custom(format_args!("field '{name}' is given twice")));
    }
    let fails = |object: Map<String, Value>| deserialize::<M, _>(&Value::Object(object)).err();
    deserialize(Value::Object(object.clone())).map_err(|error: serde_json::Error| {
        let mut fields = object.into_iter().map(|(name, value)| (name.clone(), [(name, value)]));
        let failing = fields.find(|(_, only)| fails(only.clone().into_iter().collect()).is_some());
        match failing {
            Some((name, _)) if !error.to_string().contains(&name) => {
                de::Error::custom(format_args!("field '{name}': {error}"))
            }
            _ => error,
        }
    })
}

/// A field of an object, or of an object within it, that is given under both of its names.
fn given_twice(message: &MessageDescriptor, object: &Map<String, Value>) -> Option<String> {
    let mut numbers = BTreeSet::new();
    object.iter().find_map(|(name, value)| {
        let mut fields = message.fields();
        let field = fields.find(|field| field.json_name() == name || field.name() == name)?;
        if !numbers.insert(field.number()) {
            return Some(name.clone());
        }
        let Kind::Message(inner) = field.kind() else { return None };
        let within = |value: &Value| given_twice(&inner, value.as_object()?);
        match value {
            _ if field.is_map() => None,
            Value::Array(items) => items.iter().find_map(within),
            value => within(value),
        }
    })
}

/// Reads a JSON object.
///
/// # Errors
/// The text is not a JSON object, or an object of it has a field twice.
pub fn object_from_str(text: &str) -> serde_json::Result<Map<String, Value>> {
    match serde_json::from_str(text)? {
        Unique(Value::Object(object)) => Ok(object),
        Unique(_) => Err(de::Error::custom("is not a JSON object")),
    }
}

/// The field of a oneof that is set.
#[must_use]
pub fn field_in_oneof<M: Name>(message: &M, oneof: &str) -> Option<FieldDescriptor> {
    let message = reflect(message).ok()?;
    let oneof = message.descriptor().oneofs().find(|candidate| candidate.name() == oneof)?;
    oneof.fields().find(|field| message.has_field(field))
}

fn descriptor<M: Name>() -> Result<MessageDescriptor, String> {
    let name = M::full_name();
    DESCRIPTORS.get_message_by_name(&name).ok_or_else(|| format!("{name} has no descriptor"))
}

fn reflect<M: Name>(message: &M) -> Result<DynamicMessage, String> {
    let mut reflected = DynamicMessage::new(descriptor::<M>()?);
    reflected.transcode_from(message).map_err(|error| error.to_string())?;
    Ok(reflected)
}

fn write<S: Serializer>(
    message: &DynamicMessage,
    options: &SerializeOptions,
    to: S,
) -> Result<S::Ok, S::Error> {
    let json = message.serialize_with_options(serde_json::value::Serializer, options);
    let json = json.map_err(ser::Error::custom)?;
    Ordered { json: &json, descriptor: &message.descriptor() }.serialize(to)
}

fn read<'de, D: Deserializer<'de>>(
    descriptor: MessageDescriptor,
    from: D,
) -> Result<DynamicMessage, D::Error> {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(descriptor, from, &options)
}

/// JSON of a message, or of a list of them, in a fixed order: fields by their number in the protocol,
/// entries of maps by their key. Reflection keeps maps in no order, and the same message is to be the
/// same text each time.
struct Ordered<'a> {
    json: &'a Value,
    descriptor: &'a MessageDescriptor,
}

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self { json, descriptor } = self;
        match json {
            Value::Object(entries) if descriptor.is_map_entry() => {
                to.collect_map(entries.iter().collect::<BTreeMap<_, _>>())
            }
            Value::Object(values) => {
                let fields = descriptor.fields();
                to.collect_map(fields.filter_map(|field| {
                    let json = values.get(field.json_name())?;
                    Some((field.json_name().to_owned(), OrderedField { json, kind: field.kind() }))
                }))
            }
            Value::Array(items) => {
                to.collect_seq(items.iter().map(|json| Ordered { json, descriptor }))
            }
            // Well-known types are texts.
            text => text.serialize(to),
        }
    }
}

/// JSON of a field.
struct OrderedField<'a> {
    json: &'a Value,
    kind: Kind,
}

impl Serialize for OrderedField<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.kind {
            Kind::Message(descriptor) => Ordered { json: self.json, descriptor }.serialize(to),
            _ => self.json.serialize(to),
        }
    }
}

#[cfg(test)]
mod tests;
