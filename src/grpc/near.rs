//! What the catalogue has in place of a key that it lacks.

use crate::{
    near::near,
    node::Node,
    status::{Fault, UnknownKey},
};

/// The fault, with the keys that may have been meant if the catalogue lacks one. Retired keys are not
/// proposed.
pub(super) fn with_near_keys(node: &Node, fault: impl Into<Fault>) -> Fault {
    let fault = fault.into();
    let Some(unknown) = fault.unknown_key() else { return fault };
    fault.did_you_mean(&near_keys(node, &unknown))
}

/// The keys that may have been meant.
pub(super) fn near_keys(node: &Node, unknown: &UnknownKey) -> Vec<String> {
    let current = node.catalog();
    let catalog = &current.catalog;
    match unknown {
        UnknownKey::Purpose(given) => {
            if given.ends_with(".*") {
                let classes: Vec<_> = catalog.classes().map(|key| format!("{key}.*")).collect();
                return near(given, classes.iter().map(String::as_str));
            }
            let live = catalog.purposes().filter(|(_, purpose)| !purpose.retired);
            near(given, live.map(|(_, purpose)| purpose.key.as_str()))
        }
        UnknownKey::Channel(given) => {
            let live = catalog.channels().filter(|(_, channel)| !channel.retired);
            near(given, live.map(|(_, channel)| channel.key.as_str()))
        }
        UnknownKey::Party(given) => near(given, catalog.parties().map(|party| party.key.as_str())),
    }
}
