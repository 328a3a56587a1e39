//! Advice on standard error for keys that the catalogue lacks.

use serde_json::json;

use super::{
    Context,
    catalog::{self, CatalogKey},
    client,
};
use crate::{
    near::{asked, near_or_of_kind},
    proto::{Reason, catalog_service_client::CatalogServiceClient},
};

/// Keys of the catalogue, as they were given.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    pub(super) purposes: Vec<String>,
    pub(super) channels: Vec<String>,
    pub(super) namespaces: Vec<String>,
}

impl Keys {
    /// The keys of a question, as far as these reasons say that the catalogue lacks them.
    pub(super) fn unknown(
        reasons: impl IntoIterator<Item = Reason>,
        purpose: &str,
        channel: &str,
        namespace: Option<&str>,
    ) -> Self {
        let mut unknown = Self::default();
        for reason in reasons {
            match reason {
                Reason::UnknownPurpose => unknown.purposes.push(purpose.to_owned()),
                Reason::UnknownChannel => unknown.channels.push(channel.to_owned()),
                Reason::UnknownNamespace => unknown.namespaces.extend(namespace.map(str::to_owned)),
                _ => {}
            }
        }
        unknown
    }
}

/// Says on standard error which of the keys the catalogue lacks, and which may have been meant. It is
/// advice: if the catalogue can not be read, nothing is said.
pub(super) async fn advise(keys: &Keys, context: &Context) {
    if [&keys.purposes, &keys.channels, &keys.namespaces].iter().all(|keys| keys.is_empty()) {
        return;
    }
    let Ok(channel) = client::connect(&context.global).await else { return };
    let mut client = CatalogServiceClient::new(channel);
    let Ok(known) = catalog::keys(&mut client).await else { return };
    let purposes = advice("purpose", &keys.purposes, &known.purposes);
    let channels = advice("channel", &keys.channels, &known.channels);
    let namespaces = advice("namespace", &keys.namespaces, &known.namespaces);
    for text in [purposes, channels, namespaces].concat() {
        match context.global.printing.json {
            true => eprintln!("{}", json!({ "hint": text })),
            false => eprintln!("hint: {text}"),
        }
    }
}

/// What is said of those keys that the catalogue lacks.
fn advice(kind: &str, given: &[String], known: &[CatalogKey]) -> Vec<String> {
    // A class has what is below its key.
    let is_named = |name: &str, key: &str| match name.strip_suffix('*') {
        Some(prefix) if prefix.ends_with('.') => key.starts_with(prefix),
        _ => key == name,
    };
    let is_known = |name: &str| known.iter().any(|other| is_named(name, &other.key));
    let live: Vec<_> = (known.iter().filter(|other| !other.retired))
        .map(|other| (other.key.as_str(), other.kind.as_str()))
        .collect();
    let text = |key: &String| {
        format!("no {kind} `{key}` in the catalogue{}", asked(&near_or_of_kind(key, &live)))
    };
    given.iter().filter(|key| !is_known(key)).map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_told_with_the_near_ones_that_are_not_retired() {
        let known = [("marketing.newsletter", false), ("marketing.newsletters", true)];
        let known = known.map(|(key, retired)| {
            let kind = String::new();
            CatalogKey { key: key.to_owned(), retired, kind }
        });
        let given =
            ["marketing.newsleter", "marketing.newsletters", "billing", "marketing.*", "trade.*"];
        let given = given.map(str::to_owned);
        assert_eq!(
            advice("purpose", &given, &known),
            [
                "no purpose `marketing.newsleter` in the catalogue; did you mean \
                 `marketing.newsletter`?",
                "no purpose `billing` in the catalogue",
                "no purpose `trade.*` in the catalogue",
            ]
        );
    }
}
