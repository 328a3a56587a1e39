//! The methods that the server knows, and what kind of call each is.
//!
//! A path is looked up once a request; everything else about a method (its limit, its counters) is
//! found by its number.

/// How a call holds the server's resources, and with it which limit is for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// One answer.
    Unary,
    /// Many messages in or out at the client's pace, but some last one.
    Stream,
    /// Many messages in, and one answer at their end, however long they take to come.
    Upload,
    /// Answers until somebody ends it; the server does when it drains.
    Endless,
    /// Always let in: whoever asks whether the server lives must hear it under load, too.
    Free,
}

/// A method, by its number in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method(usize);

/// Path without the leading slash, and class. The last stands for every path that is not known.
const METHODS: [(&str, Class); 37] = [
    ("consent.v1.CheckService/Check", Class::Unary),
    ("consent.v1.CheckService/BatchCheck", Class::Unary),
    ("consent.v1.CheckService/FilterAudience", Class::Stream),
    ("consent.v1.CheckService/GetDecisionKey", Class::Unary),
    ("consent.v1.ConsentService/RecordConsent", Class::Unary),
    ("consent.v1.ConsentService/ConfirmConsent", Class::Unary),
    ("consent.v1.ConsentService/ImportConsents", Class::Upload),
    ("consent.v1.ConsentService/RecordUse", Class::Unary),
    ("consent.v1.ConsentService/GetPreferences", Class::Unary),
    ("consent.v1.ConsentService/ListHistory", Class::Stream),
    // Ends itself when the server drains, with the index to resume from.
    ("consent.v1.WatchService/Watch", Class::Stream),
    ("consent.v1.WatchService/CreateSubscription", Class::Unary),
    ("consent.v1.WatchService/ListSubscriptions", Class::Unary),
    ("consent.v1.WatchService/DeleteSubscription", Class::Unary),
    // Ends itself, too.
    ("consent.v1.WatchService/Consume", Class::Stream),
    ("consent.v1.WatchService/GetPropagation", Class::Unary),
    ("consent.v1.WatchService/ListDeadLetters", Class::Unary),
    ("consent.v1.WatchService/ReplayDeadLetters", Class::Unary),
    ("consent.v1.AuditService/GetCheckpoint", Class::Unary),
    ("consent.v1.AuditService/ListEntries", Class::Stream),
    ("consent.v1.AuditService/GetInclusionProof", Class::Unary),
    ("consent.v1.AuditService/GetConsistencyProof", Class::Unary),
    ("consent.v1.AuditService/GetReceipt", Class::Unary),
    ("consent.v1.AuditService/ListDecisions", Class::Stream),
    ("consent.v1.CatalogService/PutPurpose", Class::Unary),
    ("consent.v1.CatalogService/PutChannel", Class::Unary),
    ("consent.v1.CatalogService/GetPurpose", Class::Unary),
    ("consent.v1.CatalogService/PreviewPurposeChange", Class::Unary),
    ("consent.v1.CatalogService/ListPurposes", Class::Unary),
    ("consent.v1.CatalogService/ListChannels", Class::Unary),
    ("consent.v1.PrivacyService/LinkSubjects", Class::Unary),
    ("consent.v1.PrivacyService/UnlinkSubjects", Class::Unary),
    ("grpc.health.v1.Health/Check", Class::Free),
    ("grpc.health.v1.Health/Watch", Class::Endless),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Class::Endless),
    ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Class::Endless),
    ("unknown", Class::Unary),
];

impl Method {
    /// The method of a request's path.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        let path = path.strip_prefix('/').unwrap_or_default();
        let unknown = METHODS.len() - 1;
        Self(METHODS[..unknown].iter().position(|(own, _)| *own == path).unwrap_or(unknown))
    }

    /// Every method, by number.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..METHODS.len()).map(Self)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> usize {
        self.0
    }

    /// `package.Service/Method`.
    #[must_use]
    pub fn name(self) -> &'static str {
        METHODS[self.0].0
    }

    /// What kind of call it is.
    #[must_use]
    pub fn class(self) -> Class {
        METHODS[self.0].1
    }

    /// Whether it is a method of `consent.v1`, and its errors ours to word.
    #[must_use]
    pub fn is_ours(self) -> bool {
        self.name().starts_with("consent.v1.")
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_of_the_protocol_is_known_with_its_class() {
        let ours = FileDescriptorSet::decode(crate::proto::FILE_DESCRIPTOR_SET).unwrap();
        let health = FileDescriptorSet::decode(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
        let mut seen = 0;
        for file in ours.file.iter().chain(&health.file) {
            for service in &file.service {
                for method in &service.method {
                    let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                    let known = Method::of_path(&format!("/{name}"));
                    assert_eq!(known.name(), name);
                    let streams =
                        matches!(known.class(), Class::Stream | Class::Upload | Class::Endless);
                    let want = method.server_streaming() || method.client_streaming();
                    assert_eq!(streams, want, "{name}");
                    seen += 1;
                }
            }
        }
        // What is left is reflection, twice, and the unknown.
        assert_eq!(seen, METHODS.len() - 3);
    }

    #[test]
    fn other_paths_are_unknown() {
        for path in ["", "/", "/consent.v1.CheckService/check", "consent.v1.CheckService/Check"] {
            assert_eq!(Method::of_path(path).name(), "unknown", "{path:?}");
        }
    }
}
