//! `NamespacePut`: a namespace was added to the catalogue, or changed.

use consent_ledger_identity::{NamespaceKind, PhoneRegion};

use super::{
    Content, EntryError, NamesNoSubject, OfCatalog, Place, Target,
    fields::{field, key},
};
use crate::{
    domain::{Catalog, Namespace},
    event::{CatalogDetail, CatalogEffect, EventOutline},
    format::entry::Body as ClearBody,
    proto::{self, ledger},
};

/// A catalogue entry for a namespace, as written to the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespacePut(pub Namespace);

impl NamesNoSubject for NamespacePut {
    fn content(&self) -> Content {
        let Namespace { key, title, kind, form_version } = &self.0;
        let (kind, default_region, fold_local_part) = namespace_kind_to_proto(*kind);
        Content::Clear(ClearBody::Namespace(ledger::NamespacePut {
            key: key.to_string(),
            title: title.clone(),
            kind: kind.into(),
            default_region,
            fold_local_part,
            canonical_form_version: *form_version,
        }))
    }

    fn target(&self) -> Target<'_> {
        Target::Catalog(self)
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Catalog
    }
}

impl OfCatalog for NamespacePut {
    fn fold(&self, _: Place, catalog: &mut Catalog) -> Option<CatalogDetail> {
        let kind_before = catalog.namespace(self.0.key.as_str()).map(|before| before.kind);
        catalog.put_namespace(self.0.clone());
        let effect = match kind_before {
            None => CatalogEffect::Added,
            Some(kind) if kind != self.0.kind => CatalogEffect::ContentChanged,
            Some(_) => return None,
        };
        Some(CatalogDetail {
            purpose: None,
            channel: None,
            namespace: Some(self.0.key.clone()),
            effects: vec![effect],
            version: 0,
            oldest_compatible: 0,
        })
    }
}

/// A kind as messages have it, with its default region and whether it folds local parts.
#[must_use]
pub fn namespace_kind_to_proto(kind: NamespaceKind) -> (proto::NamespaceKind, String, bool) {
    match kind {
        NamespaceKind::Email { fold_local_part } => {
            (proto::NamespaceKind::Email, String::new(), fold_local_part)
        }
        NamespaceKind::Phone { default_region } => {
            let region = default_region.map_or_else(String::new, |region| region.to_string());
            (proto::NamespaceKind::Phone, region, false)
        }
        NamespaceKind::Domain => (proto::NamespaceKind::Domain, String::new(), false),
        NamespaceKind::Opaque => (proto::NamespaceKind::Opaque, String::new(), false),
    }
}

impl TryFrom<&ledger::NamespacePut> for NamespacePut {
    type Error = EntryError;

    fn try_from(message: &ledger::NamespacePut) -> Result<Self, EntryError> {
        Ok(Self(Namespace {
            key: key("namespace_put.key", &message.key)?,
            kind: kind(message)?,
            title: message.title.clone(),
            form_version: message.canonical_form_version,
        }))
    }
}

fn kind(message: &ledger::NamespacePut) -> Result<NamespaceKind, EntryError> {
    let region = match message.default_region.as_str() {
        "" => None,
        text => Some(PhoneRegion::parse(text).map_err(|_| field("namespace_put.default_region"))?),
    };
    let kind = match message.kind() {
        proto::NamespaceKind::Email => {
            NamespaceKind::Email { fold_local_part: message.fold_local_part }
        }
        proto::NamespaceKind::Phone => NamespaceKind::Phone { default_region: region },
        proto::NamespaceKind::Domain => NamespaceKind::Domain,
        proto::NamespaceKind::Opaque => NamespaceKind::Opaque,
        proto::NamespaceKind::Unspecified => return Err(field("namespace_put.kind")),
    };
    // What another kind has alone is no field of this one.
    if region.is_some() && !matches!(kind, NamespaceKind::Phone { .. }) {
        return Err(field("namespace_put.default_region"));
    }
    if message.fold_local_part && !matches!(kind, NamespaceKind::Email { .. }) {
        return Err(field("namespace_put.fold_local_part"));
    }
    Ok(kind)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{option, prelude::*, sample::select};

    use super::*;
    use crate::{
        domain::{Key, Millis},
        entry::{Body, fields::tests::any_catalog_key, tests::reads_back},
    };

    fn any_kind() -> impl Strategy<Value = NamespaceKind> {
        let region =
            select(vec!["AT", "US", "IT"]).prop_map(|code| PhoneRegion::parse(code).unwrap());
        prop_oneof![
            any::<bool>().prop_map(|fold_local_part| NamespaceKind::Email { fold_local_part }),
            option::of(region).prop_map(|default_region| NamespaceKind::Phone { default_region }),
            Just(NamespaceKind::Domain),
            Just(NamespaceKind::Opaque),
        ]
    }

    pub(in crate::entry) fn any_namespace_put() -> impl Strategy<Value = NamespacePut> {
        (any_catalog_key(), ".{0,9}", any_kind(), any::<u32>()).prop_map(
            |(key, title, kind, form_version)| {
                NamespacePut(Namespace { key, title, kind, form_version })
            },
        )
    }

    proptest! {
        #[test]
        fn it_reads_back(put in any_namespace_put()) {
            reads_back(&Body::NamespacePut(put));
        }
    }

    #[test]
    fn a_field_of_another_kind_is_refused() {
        let refused = |kind: proto::NamespaceKind, region: &str, fold_local_part| {
            NamespacePut::try_from(&ledger::NamespacePut {
                key: "tel".to_owned(),
                kind: kind.into(),
                default_region: region.to_owned(),
                fold_local_part,
                ..ledger::NamespacePut::default()
            })
        };
        use proto::NamespaceKind::{Opaque, Phone, Unspecified};
        let wrong = |name| Err(field(name));
        assert_eq!(refused(Unspecified, "", false), wrong("namespace_put.kind"));
        assert_eq!(refused(Phone, "XX", false), wrong("namespace_put.default_region"));
        assert_eq!(refused(Opaque, "AT", false), wrong("namespace_put.default_region"));
        assert_eq!(refused(Phone, "AT", true), wrong("namespace_put.fold_local_part"));
    }

    #[test]
    fn a_title_of_a_namespace_changes_no_answer() {
        let mut catalog = Catalog::default();
        let mut effects = |title: &str, kind| {
            let key = Key::parse("email").unwrap();
            let put =
                NamespacePut(Namespace { key, title: title.to_owned(), kind, form_version: 1 });
            let place = Place { index: 1, recorded_at: Millis(0) };
            put.fold(place, &mut catalog).map(|detail| detail.effects)
        };
        let folded = NamespaceKind::Email { fold_local_part: true };
        assert_eq!(effects("Email", folded), Some(vec![CatalogEffect::Added]));
        assert_eq!(effects("E-mail", folded), None);
        assert_eq!(
            effects("E-mail", NamespaceKind::Opaque),
            Some(vec![CatalogEffect::ContentChanged])
        );
    }
}
