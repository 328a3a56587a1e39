//! The controller, as the server's settings name it, and the checks of those settings.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::domain::{Key, KeyError, Region, RegionError, covers_category};

/// The longest text about a controller, in bytes.
pub const CONTROLLER_TEXT_BYTES_MAX: usize = 1_024;
/// The greatest number of jurisdictions.
pub const JURISDICTIONS_MAX: usize = 32;
/// The greatest number of sensitive data categories, and of third parties.
pub const CONTROLLER_ITEMS_MAX: usize = 100;

/// The longest names of all third parties together, in bytes: Kantara wants them at every purpose.
pub const THIRD_PARTIES_BYTES_MAX: usize = 4_096;
/// The value of `--third-party` and `--sensitive-category` that stands for an empty list.
const NONE: &str = "none";

/// The controller, as receipts name it. Receipts leave out fields that were not given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Controller {
    /// Name; none means the origin of the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Contact for questions about data protection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// Postal address, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Email address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Telephone number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// Web page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Web page of the privacy policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy_policy_url: Option<String>,
    /// ISO 3166 regions whose law applies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jurisdictions: Vec<String>,
    /// Data categories that are sensitive, with all categories below them; none if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitive_categories: Option<Vec<String>>,
    /// Third parties that data is disclosed to; none if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub third_parties: Option<Vec<String>>,
}

/// A setting of the controller that is not valid, by its flag.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ControllerError {
    /// A text that is empty, too long, or has control characters.
    #[error("--{flag} must be 1 to {CONTROLLER_TEXT_BYTES_MAX} bytes without control characters")]
    Text {
        /// The flag.
        flag: &'static str,
    },
    /// Not a web address.
    #[error("--{flag} must be a URL such as `https://example.org/privacy`, got `{got}`")]
    Url {
        /// The flag.
        flag: &'static str,
        /// What was given.
        got: String,
    },
    /// Not an email address.
    #[error("--controller-email must be an address such as `dpo@example.org`, got `{0}`")]
    Email(String),
    /// Not a region.
    #[error("--jurisdiction {problem}, got `{got}`")]
    Jurisdiction {
        /// What was given.
        got: String,
        /// Why.
        problem: RegionError,
    },
    /// Not a data category.
    #[error("--sensitive-category {problem}, got `{got}`; `none` says that there is none")]
    Category {
        /// What was given.
        got: String,
        /// Why.
        problem: KeyError,
    },
    /// Too many items.
    #[error("--{flag} must be given at most {limit} times, got {got}")]
    TooMany {
        /// The flag.
        flag: &'static str,
        /// The limit.
        limit: usize,
        /// How often it was given.
        got: usize,
    },
    /// Names so long that receipts would be too long.
    #[error(
        "--third-party must have at most {THIRD_PARTIES_BYTES_MAX} bytes in all, got {0}: name \
         groups of recipients"
    )]
    LongThirdParties(usize),
    /// `none` beside other values.
    #[error("--{flag} `none` says that there is none: it must stand alone")]
    NoneAndSome {
        /// The flag.
        flag: &'static str,
    },
}

impl Controller {
    /// Checks every field against the limits of a receipt.
    ///
    /// # Errors
    /// The first part that is wrong.
    pub fn check(&self) -> Result<(), ControllerError> {
        for (flag, text) in [
            ("controller-name", &self.name),
            ("controller-contact", &self.contact),
            ("controller-address", &self.address),
            ("controller-email", &self.email),
            ("controller-phone", &self.phone),
            ("controller-url", &self.url),
            ("privacy-policy-url", &self.privacy_policy_url),
        ] {
            text.as_deref().map_or(Ok(()), |text| check_text(flag, text))?;
        }
        if let Some(email) = self.email.as_ref().filter(|email| !is_email(email)) {
            return Err(ControllerError::Email(email.clone()));
        }
        for (flag, url) in
            [("controller-url", &self.url), ("privacy-policy-url", &self.privacy_policy_url)]
        {
            if let Some(url) = url.as_ref().filter(|url| !is_web_url(url)) {
                return Err(ControllerError::Url { flag, got: url.clone() });
            }
        }
        check_count("jurisdiction", JURISDICTIONS_MAX, self.jurisdictions.len())?;
        for region in &self.jurisdictions {
            let wrong = |problem| ControllerError::Jurisdiction { got: region.clone(), problem };
            Region::parse(region).map_err(wrong)?;
        }
        self.check_lists()
    }

    fn check_lists(&self) -> Result<(), ControllerError> {
        let categories = self.sensitive_categories.as_deref().unwrap_or_default();
        let parties = self.third_parties.as_deref().unwrap_or_default();
        for (flag, names) in [("sensitive-category", categories), ("third-party", parties)] {
            check_count(flag, CONTROLLER_ITEMS_MAX, names.len())?;
            if names.iter().any(|name| name == NONE) {
                return Err(ControllerError::NoneAndSome { flag });
            }
        }
        for category in categories {
            let wrong = |problem| ControllerError::Category { got: category.clone(), problem };
            Key::check(category).map_err(wrong)?;
        }
        parties.iter().try_for_each(|name| check_text("third-party", name))?;
        match parties.iter().map(String::len).sum() {
            0..=THIRD_PARTIES_BYTES_MAX => Ok(()),
            bytes => Err(ControllerError::LongThirdParties(bytes)),
        }
    }

    /// The sensitive ones among some data categories; none if the sensitive categories were not
    /// given.
    #[must_use]
    pub fn sensitive_among<'a>(&self, categories: &'a [String]) -> Option<Vec<&'a str>> {
        let sensitive = self.sensitive_categories.as_ref()?;
        let is_sensitive = |category: &&String| {
            sensitive.iter().any(|declared| covers_category(declared, category))
        };
        Some(categories.iter().filter(is_sensitive).map(String::as_str).collect())
    }
}

/// The list that a repeatable flag gives: no value means that it is not known, and `none` alone an
/// empty list. `none` beside other values is kept, and [`Controller::check`] refuses it.
#[must_use]
pub fn said_list(given: Vec<String>) -> Option<Vec<String>> {
    match given.as_slice() {
        [] => None,
        [one] if one == NONE => Some(Vec::new()),
        _ => Some(given),
    }
}

fn check_count(flag: &'static str, limit: usize, got: usize) -> Result<(), ControllerError> {
    if got <= limit { Ok(()) } else { Err(ControllerError::TooMany { flag, limit, got }) }
}

fn check_text(flag: &'static str, text: &str) -> Result<(), ControllerError> {
    let fits = (1..=CONTROLLER_TEXT_BYTES_MAX).contains(&text.len());
    if fits && !text.chars().any(char::is_control) && !text.trim().is_empty() {
        return Ok(());
    }
    Err(ControllerError::Text { flag })
}

fn is_email(text: &str) -> bool {
    let parts = text.rsplit_once('@');
    parts.is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty())
        && !text.contains(char::is_whitespace)
}

fn is_web_url(text: &str) -> bool {
    let location = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = location.map(|location| location.split(['/', '?', '#']).next().unwrap_or_default());
    host.is_some_and(|host| !host.is_empty() && !host.contains('@'))
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Controller)) -> Result<(), String> {
        let mut controller = Controller::default();
        change(&mut controller);
        controller.check().map_err(|error| error.to_string())
    }

    #[test]
    fn none_is_an_empty_list_and_no_value_is_unknown() {
        assert_eq!(said_list(Vec::new()), None);
        assert_eq!(said_list(vec!["none".to_owned()]), Some(Vec::new()));
        assert_eq!(said_list(vec!["a".to_owned()]), Some(vec!["a".to_owned()]));
        let categories = ["user.health.blood".to_owned(), "user.name".to_owned()];
        let mut controller = Controller::default();
        assert_eq!(controller.sensitive_among(&categories), None);
        controller.sensitive_categories = Some(vec!["user.health".to_owned()]);
        assert_eq!(controller.sensitive_among(&categories), Some(vec!["user.health.blood"]));
    }

    #[test]
    fn errors_name_the_flag() {
        assert_eq!(check(|_| {}), Ok(()));
        assert_eq!(
            check(|controller| {
                controller.name = Some("Example AG".to_owned());
                controller.email = Some("dpo@example.org".to_owned());
                controller.url = Some("https://example.org".to_owned());
                controller.privacy_policy_url =
                    Some("https://example.org/privacy?lang=de#top".to_owned());
                controller.jurisdictions = vec!["DE".to_owned(), "US-CA".to_owned()];
            }),
            Ok(())
        );
        let long = "x".repeat(CONTROLLER_TEXT_BYTES_MAX + 1);
        for (name, wrong) in [("", true), (" ", true), ("a\nb", true), (long.as_str(), true)] {
            let refused = check(|controller| controller.name = Some(name.to_owned()));
            assert_eq!(refused.is_err_and(|text| text.contains("--controller-name")), wrong);
        }
        for url in ["example.org", "ftp://example.org", "https://", "https://a b", "https://u@h/"] {
            let refused = check(|controller| controller.privacy_policy_url = Some(url.to_owned()))
                .unwrap_err();
            assert!(refused.contains("--privacy-policy-url") && refused.contains(url), "{refused}");
        }
        for email in ["dpo", "@example.org", "dpo@", "d po@example.org"] {
            assert!(
                check(|controller| controller.email = Some(email.to_owned())).is_err(),
                "{email}"
            );
        }
        let list = |text: &str| said_list(vec![text.to_owned()]);
        assert_eq!(
            check(|controller| controller.sensitive_categories = list("user.health")),
            Ok(())
        );
        let refused =
            check(|controller| controller.sensitive_categories = list("User Health")).unwrap_err();
        assert!(refused.contains("--sensitive-category"), "{refused}");
        let refused = check(|controller| controller.third_parties = Some(vec![String::new(); 101]))
            .unwrap_err();
        assert!(refused.contains("--third-party") && refused.contains("101"), "{refused}");
        let long = vec!["x".repeat(1_000); 5];
        let refused = check(|controller| controller.third_parties = Some(long)).unwrap_err();
        assert!(refused.contains("at most 4096 bytes in all, got 5000"), "{refused}");
        let both = || said_list(vec!["none".to_owned(), "user.health".to_owned()]);
        let refused = check(|controller| controller.third_parties = both()).unwrap_err();
        assert!(refused.contains("--third-party `none`"), "{refused}");
        let refused = check(|controller| controller.sensitive_categories = both()).unwrap_err();
        assert!(refused.contains("--sensitive-category `none`"), "{refused}");
        let refused =
            check(|controller| controller.jurisdictions = vec!["UK".to_owned()]).unwrap_err();
        assert!(refused.contains("--jurisdiction") && refused.contains("UK"), "{refused}");
        let many =
            check(|controller| controller.jurisdictions = vec!["DE".to_owned(); 33]).unwrap_err();
        assert!(many.contains("at most 32"), "{many}");
    }
}
