//! The events of all catalogue entries, for watchers that read the ledger: such an event depends on all
//! catalogue entries before it.

use std::collections::BTreeMap;

use crate::{entry::Entry, event::CatalogDetail, fold::CatalogAt};

/// The events of the catalogue entries, read on demand. It grows with the history of the catalogue,
/// like the catalogue in memory.
#[derive(Debug, Default)]
pub(super) struct CatalogHistory {
    /// The catalogue after the entries that were read.
    catalog: CatalogAt,
    events: BTreeMap<u64, CatalogDetail>,
}

impl CatalogHistory {
    /// The event of the catalogue entry at `index`; none if it has no effect. `entries` returns the
    /// indexes of all catalogue entries, ascending; `read` reads one of them.
    pub(super) fn event_at<E>(
        &mut self,
        index: u64,
        entries: impl FnOnce() -> Result<Vec<u64>, E>,
        read: impl Fn(u64) -> Result<Entry, E>,
    ) -> Result<Option<CatalogDetail>, E> {
        if index >= self.catalog.revision {
            let from = self.catalog.revision;
            let unread = entries()?.into_iter().filter(|at| (from..=index).contains(at));
            for at in unread {
                let event = self.catalog.fold(read(at)?.fact());
                self.events.extend(event.map(|event| (at, event)));
            }
        }
        Ok(self.events.get(&index).cloned())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{
        domain::{Key, LegalBasis, Millis, PurposeVersion},
        entry::{Body, ChannelPut, PurposePut},
        event::CatalogEffect,
    };

    fn news(retired: bool) -> Body {
        let content = PurposeVersion {
            title: "News".to_owned(),
            description: String::new(),
            legal_basis: LegalBasis::Consent,
            basis_by_region: BTreeMap::new(),
            data_categories: vec!["user.contact".to_owned()],
            default_validity_ms: None,
            double_opt_in: false,
            obligations: Vec::new(),
            controller: None,
            recipients: None,
        };
        let key = Key::parse("news").unwrap();
        Body::PurposePut(PurposePut { key, version: 1, content, oldest_compatible: 1, retired })
    }

    fn sms(title: &str, retired: bool) -> Body {
        let key = Key::parse("sms").unwrap();
        Body::ChannelPut(ChannelPut { key, title: title.to_owned(), retired })
    }

    #[test]
    fn each_entry_is_read_once_for_events_in_any_order() {
        let bodies =
            [(1, news(false)), (4, sms("SMS", false)), (5, sms("Text", false)), (9, news(true))];
        let entries = || Ok::<_, ()>(bodies.iter().map(|(at, _)| *at).collect());
        let reads = Cell::new(0);
        let read = |at| {
            reads.set(reads.get() + 1);
            let (index, body) = bodies.iter().find(|(index, _)| *index == at).unwrap().clone();
            Ok(Entry { index, prev_hash: [0; 32], recorded_at: Millis(0), body })
        };
        let mut history = CatalogHistory::default();
        let mut effects = |index| {
            let event = history.event_at(index, entries, read).unwrap();
            event.map(|event| event.effects)
        };
        assert_eq!(effects(4), Some(vec![CatalogEffect::Added]));
        assert_eq!(reads.get(), 2, "later entries are not read yet");
        assert_eq!(effects(9), Some(vec![CatalogEffect::Retired]));
        assert_eq!(effects(1), Some(vec![CatalogEffect::Added]));
        assert_eq!(effects(5), None);
        assert_eq!(reads.get(), 4);
    }
}
