//! A catalogue as a TOML file.
//!
//! ```toml
//! [[namespaces]]
//! key = "email"
//! kind = "email"                                   # email, phone, domain or opaque
//! fold_local_part = true                           # for email; absent: true
//! default_region = "AT"                            # for phone; absent: numbers need a country code
//! title = "E-mail address"                         # optional
//!
//! [[channels]]
//! key = "email"
//! title = "Email"
//!
//! [[parties]]
//! key = "acme"
//! roles = ["controller", "recipient"]              # one or both
//! name = "Acme AG"
//! contact = "Data Protection Officer"              # optional, like all that follow
//! address = "Example Street 1, 10115 Berlin"
//! email = "dpo@acme.example"
//! phone = "+49 30 123456"
//! url = "https://acme.example"
//! privacy_policy_url = "https://acme.example/privacy"
//! jurisdictions = ["DE"]
//! sensitive_categories = ["user.health"]           # for controllers; []: none is sensitive
//!
//! [[purposes]]
//! key = "marketing.newsletter"
//! title = "Newsletter"
//! description = "…"                                # optional, like all that follow
//! legal_basis = "consent"                          # required
//! basis_by_region = { US = "legitimate_interest" } # ISO 3166; `legal_basis` holds elsewhere
//! data_categories = ["user.contact.email"]
//! default_validity = "730d"
//! double_opt_in = false
//! oldest_compatible_version = 2                    # absent: unchanged
//! retired = false
//! controller = "acme"                              # a party that is a controller
//! recipients = ["mailer"]                          # parties that are recipients; []: nobody
//! obligations = [
//!     { frequency_limit = { uses_max = 4, period = "30d" } },
//!     { quiet_hours = { start = "21:00", end = "08:00", time_zone = "Europe/Berlin" } },
//! ]
//! ```

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Deserializer, de};

use crate::{
    cli::{error::CliError, words},
    config::CatalogPut,
    proto::{self, LegalBasis, NamespaceKind, PartyRole, obligation::Kind},
};

/// Namespaces, channels, parties and purposes, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CatalogFile {
    /// Namespaces.
    pub namespaces: Vec<proto::Namespace>,
    /// Channels.
    pub channels: Vec<proto::Channel>,
    /// Parties.
    pub parties: Vec<proto::Party>,
    /// Purposes.
    pub purposes: Vec<proto::Purpose>,
}

impl CatalogFile {
    /// Reads a file.
    ///
    /// # Errors
    /// The file can not be read, or is not a catalogue.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let text = fs::read_to_string(path).map_err(|error| CliError::file(path, error))?;
        Self::parse(&text).map_err(|error| {
            CliError::failed(format!("{}: {error}", path.display()))
                .with_hint("examples/catalog.toml shows every field")
        })
    }

    /// The calls that apply the file, in the order of `catalog apply`.
    #[must_use]
    pub fn into_puts(self) -> Vec<CatalogPut> {
        let namespaces = self.namespaces.into_iter().map(|namespace| {
            CatalogPut::Namespace(proto::PutNamespaceRequest {
                namespace: Some(namespace),
                ..Default::default()
            })
        });
        let channels = self.channels.into_iter().map(|channel| {
            CatalogPut::Channel(proto::PutChannelRequest {
                channel: Some(channel),
                ..Default::default()
            })
        });
        let purposes = self.purposes.into_iter().map(|purpose| {
            let (purpose, requires_reconsent) = (Some(purpose), false);
            CatalogPut::Purpose(proto::PutPurposeRequest {
                purpose,
                requires_reconsent,
                ..Default::default()
            })
        });
        let parties = self.parties.into_iter();
        let parties = parties.map(|party| {
            CatalogPut::Party(proto::PutPartyRequest { party: Some(party), ..Default::default() })
        });
        namespaces.chain(channels).chain(parties).chain(purposes).collect()
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// The first error in the text, and its position.
    pub fn parse(text: &str) -> Result<Self, String> {
        let raw: RawCatalog =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let catalog = Self {
            namespaces: raw.namespaces.into_iter().map(Into::into).collect(),
            channels: raw.channels.into_iter().map(Into::into).collect(),
            parties: raw.parties.into_iter().map(Into::into).collect(),
            purposes: raw.purposes.into_iter().map(Into::into).collect(),
        };
        check_unique("channel", catalog.channels.iter().map(|channel| channel.key.as_str()))?;
        check_unique("party", catalog.parties.iter().map(|party| party.key.as_str()))?;
        check_unique("purpose", catalog.purposes.iter().map(|purpose| purpose.key.as_str()))?;
        Ok(catalog)
    }
}

fn check_unique<'a>(kind: &str, mut keys: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen = HashSet::new();
    match keys.find(|key| !seen.insert(*key)) {
        Some(key) => Err(format!("the {kind} `{key}` is given twice")),
        None => Ok(()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCatalog {
    #[serde(default)]
    namespaces: Vec<RawNamespace>,
    #[serde(default)]
    channels: Vec<RawChannel>,
    #[serde(default)]
    parties: Vec<RawParty>,
    #[serde(default)]
    purposes: Vec<RawPurpose>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNamespace {
    key: String,
    #[serde(default)]
    title: String,
    #[serde(deserialize_with = "words::deserialize")]
    kind: NamespaceKind,
    #[serde(default)]
    default_region: String,
    #[serde(default)]
    fold_local_part: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChannel {
    key: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    retired: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawParty {
    key: String,
    roles: Vec<Role>,
    name: String,
    #[serde(default)]
    contact: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    email: String,
    #[serde(default)]
    phone: String,
    #[serde(default)]
    url: String,
    #[serde(default)]
    privacy_policy_url: String,
    #[serde(default)]
    jurisdictions: Vec<String>,
    #[serde(default)]
    sensitive_categories: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Role(#[serde(deserialize_with = "words::deserialize")] PartyRole);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPurpose {
    key: String,
    title: String,
    #[serde(default)]
    description: String,
    #[serde(deserialize_with = "words::deserialize")]
    legal_basis: LegalBasis,
    #[serde(default)]
    basis_by_region: BTreeMap<String, Basis>,
    #[serde(default)]
    data_categories: Vec<String>,
    #[serde(default, deserialize_with = "some_duration")]
    default_validity: Option<prost_types::Duration>,
    #[serde(default)]
    double_opt_in: bool,
    #[serde(default)]
    oldest_compatible_version: u32,
    #[serde(default)]
    retired: bool,
    #[serde(default)]
    obligations: Vec<RawObligation>,
    #[serde(default)]
    controller: String,
    #[serde(default)]
    recipients: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Basis(#[serde(deserialize_with = "words::deserialize")] LegalBasis);

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum RawObligation {
    FrequencyLimit {
        uses_max: u32,
        #[serde(deserialize_with = "duration")]
        period: prost_types::Duration,
    },
    QuietHours {
        #[serde(deserialize_with = "minute")]
        start: u32,
        #[serde(deserialize_with = "minute")]
        end: u32,
        #[serde(default)]
        time_zone: String,
    },
}

impl From<RawNamespace> for proto::Namespace {
    fn from(raw: RawNamespace) -> Self {
        Self {
            key: raw.key,
            title: raw.title,
            kind: raw.kind.into(),
            default_region: raw.default_region,
            fold_local_part: raw.fold_local_part,
            ..Self::default()
        }
    }
}

impl From<RawChannel> for proto::Channel {
    fn from(raw: RawChannel) -> Self {
        Self { key: raw.key, title: raw.title, retired: raw.retired }
    }
}

impl From<RawParty> for proto::Party {
    fn from(raw: RawParty) -> Self {
        let sensitive = raw.sensitive_categories;
        Self {
            key: raw.key,
            roles: raw.roles.into_iter().map(|Role(role)| role.into()).collect(),
            name: raw.name,
            contact: raw.contact,
            address: raw.address,
            email: raw.email,
            phone: raw.phone,
            url: raw.url,
            privacy_policy_url: raw.privacy_policy_url,
            jurisdictions: raw.jurisdictions,
            sensitive_categories: sensitive
                .map(|data_categories| proto::SensitiveCategories { data_categories }),
            ..Self::default()
        }
    }
}

impl From<RawPurpose> for proto::Purpose {
    fn from(raw: RawPurpose) -> Self {
        Self {
            key: raw.key,
            title: raw.title,
            description: raw.description,
            legal_basis: raw.legal_basis.into(),
            basis_by_region: raw
                .basis_by_region
                .into_iter()
                .map(|(region, Basis(basis))| (region, basis.into()))
                .collect(),
            data_categories: raw.data_categories,
            default_validity: raw.default_validity,
            double_opt_in: raw.double_opt_in,
            oldest_compatible_version: raw.oldest_compatible_version,
            retired: raw.retired,
            obligations: raw.obligations.into_iter().map(Into::into).collect(),
            controller: raw.controller,
            recipients: raw.recipients.map(|parties| proto::Recipients { parties }),
            ..Self::default()
        }
    }
}

impl From<RawObligation> for proto::Obligation {
    fn from(raw: RawObligation) -> Self {
        let kind = match raw {
            RawObligation::FrequencyLimit { uses_max, period } => {
                Kind::FrequencyLimit(proto::FrequencyLimit { uses_max, period: Some(period) })
            }
            RawObligation::QuietHours { start, end, time_zone } => {
                let hours = proto::QuietHours { start_minute: start, end_minute: end, time_zone };
                Kind::QuietHours(hours)
            }
        };
        Self { kind: Some(kind), ..Self::default() }
    }
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<prost_types::Duration, D::Error> {
    let text = String::deserialize(from)?;
    let duration: Duration = humantime::parse_duration(&text)
        .map_err(|error| de::Error::custom(format!("`{text}` is not a duration: {error}")))?;
    duration.try_into().map_err(|_| de::Error::custom(format!("`{text}` is too long")))
}

fn some_duration<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<prost_types::Duration>, D::Error> {
    duration(from).map(Some)
}

fn minute<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let text = String::deserialize(from)?;
    let time: jiff::civil::Time = text
        .parse()
        .map_err(|_| de::Error::custom(format!("`{text}` is not a time of day such as 21:00")))?;
    u32::try_from(i32::from(time.hour()) * 60 + i32::from(time.minute())).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../examples/catalog.toml");

    fn basis(catalog: &CatalogFile, key: &str) -> LegalBasis {
        catalog.purposes.iter().find(|purpose| purpose.key == key).unwrap().legal_basis()
    }

    #[test]
    fn the_example_has_what_it_promises() {
        let catalog = CatalogFile::parse(EXAMPLE).unwrap();
        let tcf = catalog.purposes.iter().filter(|purpose| purpose.key.starts_with("tcf."));
        assert_eq!(tcf.count(), 11);
        assert!(catalog.purposes.len() >= 23);
        assert_eq!(catalog.channels.len(), 7);
        assert_eq!(basis(&catalog, "marketing.newsletter"), LegalBasis::Consent);
        assert_eq!(basis(&catalog, "tcf.store-access"), LegalBasis::Consent);
        assert_eq!(basis(&catalog, "transactional.order-updates"), LegalBasis::Contract);
        assert_eq!(basis(&catalog, "legal.tax-records"), LegalBasis::LegalObligation);
        assert_eq!(basis(&catalog, "product.analytics"), LegalBasis::LegitimateInterest);
        let newsletter =
            catalog.purposes.iter().find(|purpose| purpose.key == "marketing.newsletter").unwrap();
        assert!(!newsletter.double_opt_in);
        assert!(catalog.purposes.iter().any(|purpose| purpose.double_opt_in));
        assert!(catalog.purposes.iter().any(|purpose| purpose.default_validity.is_some()));
        assert!(catalog.purposes.iter().any(|purpose| purpose.obligations.len() == 2));
    }

    #[test]
    fn every_purpose_of_the_example_names_its_controller_and_its_recipients() {
        let catalog = CatalogFile::parse(EXAMPLE).unwrap();
        let has = |key: &String, role: PartyRole| {
            let party = catalog.parties.iter().find(|party| party.key == *key);
            party.is_some_and(|party| party.roles.contains(&role.into()))
        };
        for purpose in &catalog.purposes {
            assert!(has(&purpose.controller, PartyRole::Controller), "{}", purpose.key);
            let recipients = &purpose.recipients.as_ref().unwrap().parties;
            assert!(recipients.iter().all(|key| has(key, PartyRole::Recipient)), "{}", purpose.key);
        }
        let named = |party: &&proto::Party| {
            let purposes = catalog.purposes.iter();
            let recipients = purposes.flat_map(|purpose| &purpose.recipients);
            let mut recipients = recipients.flat_map(|recipients| &recipients.parties);
            catalog.purposes.iter().any(|purpose| purpose.controller == party.key)
                || recipients.any(|key| *key == party.key)
        };
        assert_eq!(catalog.parties.iter().filter(named).count(), catalog.parties.len());
    }

    #[test]
    fn every_key_of_the_example_is_valid() {
        let catalog = CatalogFile::parse(EXAMPLE).unwrap();
        let purposes = catalog.purposes.iter().map(|purpose| &purpose.key);
        for key in purposes.chain(catalog.channels.iter().map(|channel| &channel.key)) {
            crate::domain::Key::parse(key).unwrap();
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let purpose = "[[purposes]]\nkey = \"a\"\ntitle = \"A\"\nlegal_basis = \"consent\"\n";
        for (text, want) in [
            (format!("{purpose}{purpose}"), "`a` is given twice"),
            (format!("{purpose}validity = \"1d\""), "unknown field `validity`"),
            (format!("{purpose}default_validity = \"soon\""), "`soon` is not a duration"),
            (
                "[[parties]]\nkey = \"a\"\nname = \"A\"\nroles = [\"boss\"]\n".to_owned(),
                "`boss` is not a known word",
            ),
            (purpose.replace("consent", "whim"), "`whim` is not a known word"),
            (
                format!(
                    "{purpose}[[purposes.obligations]]
quiet_hours = {{ start = \"25\", end = \"8\" }}"
                ),
                "is not a time of day",
            ),
        ] {
            let error = CatalogFile::parse(&text).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn durations_and_hours_are_read() {
        let catalog = CatalogFile::parse(EXAMPLE).unwrap();
        let obligations =
            catalog.purposes.iter().flat_map(|purpose| &purpose.obligations).map(|o| &o.kind);
        let kinds: Vec<_> = obligations.flatten().collect();
        assert!(kinds.iter().any(|kind| matches!(
            kind,
            Kind::QuietHours(hours) if hours.start_minute == 21 * 60 && hours.end_minute == 8 * 60
        )));
        assert!(kinds.iter().any(|kind| matches!(
            kind,
            Kind::FrequencyLimit(limit) if limit.period.unwrap().seconds % 86_400 == 0
        )));
    }
}
