//! The methods of the server and their classes, from the descriptors of its services.
//!
//! A path is looked up once a request. The number of the method leads to its limit and counters.

use std::sync::LazyLock;

use hashbrown::HashMap;
use prost::Message as _;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};

/// How a call uses the server's resources, which decides its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// One answer.
    Unary,
    /// Messages in or out at the pace of the client, up to a last one.
    Stream,
    /// Messages in, and one answer after the last; without a time limit.
    Upload,
    /// A stream without an end; the server ends it when it drains.
    Endless,
    /// Never refused: health checks are answered under load, too.
    Free,
}

/// A method, by its number in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method(usize);

/// The services that the server offers.
const DESCRIPTORS: [&[u8]; 4] = [
    crate::proto::FILE_DESCRIPTOR_SET,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];
/// Stands for every unknown path.
const UNKNOWN: &str = "unknown";

static TABLE: LazyLock<Table> = LazyLock::new(Table::of_descriptors);

struct Table {
    /// Paths without the leading slash, and classes; the last row is [`UNKNOWN`].
    rows: Vec<(String, Class)>,
    by_name: HashMap<String, usize>,
}

impl Table {
    fn of_descriptors() -> Self {
        let mut rows = Vec::new();
        for encoded in DESCRIPTORS {
            let set = FileDescriptorSet::decode(encoded).expect("descriptors are generated");
            for file in &set.file {
                for service in &file.service {
                    rows.extend(service.method.iter().map(|method| {
                        let name =
                            format!("{}.{}/{}", file.package(), service.name(), method.name());
                        let class = Class::of(method, is_ours(&name));
                        (name, class)
                    }));
                }
            }
        }
        let by_name = (0..).zip(&rows).map(|(number, (name, _))| (name.clone(), number)).collect();
        rows.push((UNKNOWN.to_owned(), Class::Unary));
        Self { rows, by_name }
    }
}

impl Class {
    /// Our streams end by themselves when the server drains. Those of health and reflection do not.
    fn of(method: &MethodDescriptorProto, is_ours: bool) -> Self {
        match (method.client_streaming(), method.server_streaming()) {
            (false, false) if is_ours => Self::Unary,
            (false, false) => Self::Free,
            (true, false) if is_ours => Self::Upload,
            _ if is_ours => Self::Stream,
            _ => Self::Endless,
        }
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with("consent.v1.")
}

impl Method {
    /// The method of a request's path.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        let number = path.strip_prefix('/').and_then(|name| TABLE.by_name.get(name));
        Self(number.copied().unwrap_or(TABLE.rows.len() - 1))
    }

    /// Every method, by number.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..TABLE.rows.len()).map(Self)
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> usize {
        self.0
    }

    /// `package.Service/Method`.
    #[must_use]
    pub fn name(self) -> &'static str {
        &TABLE.rows[self.0].0
    }

    /// The class.
    #[must_use]
    pub fn class(self) -> Class {
        TABLE.rows[self.0].1
    }

    /// Whether it is a method of `consent.v1`, whose errors are faults of ours.
    #[must_use]
    pub fn is_ours(self) -> bool {
        is_ours(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_by_its_path() {
        for (number, method) in (0..).zip(Method::all()) {
            assert_eq!(method.number(), number);
            if method.name() != UNKNOWN {
                assert_eq!(Method::of_path(&format!("/{}", method.name())), method);
            }
        }
        let ours = Method::all().filter(|method| method.is_ours());
        assert_eq!(ours.count(), crate::proto::METHODS.len());
        // Health has two, reflection one in each of two versions.
        assert_eq!(Method::all().count(), crate::proto::METHODS.len() + 4 + 1);
    }

    #[test]
    fn a_method_has_the_class_of_its_messages_and_of_its_service() {
        for (path, class) in [
            ("/consent.v1.CheckService/Check", Class::Unary),
            ("/consent.v1.CheckService/FilterAudience", Class::Stream),
            ("/consent.v1.ConsentService/ImportConsents", Class::Upload),
            ("/consent.v1.ConsentService/ListHistory", Class::Stream),
            ("/consent.v1.WatchService/Watch", Class::Stream),
            ("/consent.v1.WatchService/Consume", Class::Stream),
            ("/grpc.health.v1.Health/Check", Class::Free),
            ("/grpc.health.v1.Health/Watch", Class::Endless),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Class::Endless),
            ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Class::Endless),
            ("/consent.v1.CheckService/Unheard", Class::Unary),
        ] {
            assert_eq!(Method::of_path(path).class(), class, "{path}");
        }
    }

    #[test]
    fn other_paths_are_unknown() {
        for path in ["", "/", "/consent.v1.CheckService/check", "consent.v1.CheckService/Check"] {
            assert_eq!(Method::of_path(path).name(), "unknown", "{path:?}");
        }
    }
}
