//! Keys that are spelled like another: what somebody may have meant who names one that is not there.
//!
//! It is advice in an error and never an answer: nothing is looked up by a key that is only near.

/// The greatest number of keys that are proposed.
const PROPOSED_MAX: usize = 3;

/// Those of `known` that may have been meant by `given`, the nearest first, at most three.
///
/// A key is near if few letters differ (one in four, at most three; a transposition counts as one), or if
/// it only lacks its class, as `newsletter` for `marketing.newsletter`. Farther than these are a key of
/// the class that was given, the class of a key that was given, a key of the same name in another class,
/// and a word within a longer one, as `phone` in `telephone`.
#[must_use]
pub fn near<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let lower_case = given.trim().to_lowercase();
    let mut found: Vec<(usize, &str)> = known
        .into_iter()
        .filter(|key| *key != given)
        .filter_map(|key| Some((distance(&lower_case, key)?, key)))
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().take(PROPOSED_MAX).map(|(_, key)| key.to_owned()).collect()
}

/// As [`near`]; if no key is spelled like the given one, those of its kind: `phone` finds a namespace of
/// phone numbers that is called `tel`. `known` has keys and kinds.
#[must_use]
pub fn near_or_of_kind(given: &str, known: &[(&str, &str)]) -> Vec<String> {
    let found = near(given, known.iter().map(|(key, _)| *key));
    if !found.is_empty() {
        return found;
    }
    let given = given.trim().to_lowercase();
    let is_of = |kind: &str| kind == given || distance(&given, kind).is_some();
    let of_kind = known.iter().filter(|(_, kind)| is_of(kind));
    of_kind.take(PROPOSED_MAX).map(|(key, _)| (*key).to_owned()).collect()
}

/// The end of a sentence that proposes keys, for example "; did you mean `a` or `b`?"; empty without keys.
#[must_use]
pub fn asked(keys: &[String]) -> String {
    question(keys).map(|question| format!("; {question}")).unwrap_or_default()
}

/// The question that proposes keys; none without keys.
fn question(keys: &[String]) -> Option<String> {
    let quoted: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    let (last, others) = quoted.split_last()?;
    Some(match others {
        [] => format!("did you mean {last}?"),
        others => format!("did you mean {} or {last}?", others.join(", ")),
    })
}

/// How far a key is from what was given; none if it is not near.
fn distance(given: &str, key: &str) -> Option<usize> {
    let whole = few_letters_differ(given, key);
    let (_, name) = key.rsplit_once('.').unwrap_or_default();
    // A key without its class is as near as one with a letter that differs.
    let without_class = few_letters_differ(given, name).map(|letters| letters + 1);
    [whole, without_class, related(given, key)].into_iter().flatten().min()
}

/// Farther than any key in which few letters differ.
const RELATED: usize = 8;

/// The distance of a key that shares its class, its name or a word with what was given.
fn related(given: &str, key: &str) -> Option<usize> {
    let extends = |long: &str, short: &str| {
        let rest = long.strip_prefix(short).filter(|_| !short.is_empty());
        rest.is_some_and(|rest| rest.starts_with(['.', '-', '_']))
    };
    let same_name = match (given.rsplit_once('.'), key.rsplit_once('.')) {
        (Some((_, name)), Some((_, other))) => name == other,
        _ => false,
    };
    let is_word = |text: &str| text.len() >= 4 && !text.contains('.');
    let has_word = is_word(given) && is_word(key) && (given.contains(key) || key.contains(given));
    let is_related = extends(key, given) || extends(given, key) || same_name || has_word;
    is_related.then_some(RELATED)
}

fn few_letters_differ(given: &str, key: &str) -> Option<usize> {
    let letters_max = (given.len() / 4).clamp(1, 3);
    // Most keys are too long or too short, and need no further look.
    if key.is_empty() || given.len().abs_diff(key.len()) > letters_max {
        return None;
    }
    Some(strsim::osa_distance(given, key)).filter(|letters| *letters <= letters_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 6] =
        ["marketing.newsletter", "marketing.offers", "service.news", "analytics", "sms", "push"];

    #[test]
    fn misspelt_keys_find_the_one_that_was_meant() {
        for (given, meant) in [
            ("marketing.newsleter", "marketing.newsletter"),
            ("marketing.newsletetr", "marketing.newsletter"),
            ("Marketing.Newsletter", "marketing.newsletter"),
            ("marketing-newsletter", "marketing.newsletter"),
            ("newsletter", "marketing.newsletter"),
            ("offer", "marketing.offers"),
            ("analitics", "analytics"),
            ("sma", "sms"),
            ("psuh", "push"),
            ("sms ", "sms"),
            ("SMS", "sms"),
            ("marketing", "marketing.newsletter"),
            ("mktg.newsletter", "marketing.newsletter"),
            ("marketing.newsletter.email", "marketing.newsletter"),
            ("webpush", "push"),
        ] {
            let found = near(given, KNOWN);
            assert_eq!(found.first().map(String::as_str), Some(meant), "{given}");
        }
    }

    #[test]
    fn a_namespace_is_also_found_by_its_kind() {
        let known = [("user", "opaque"), ("tel", "phone"), ("mail", "email")];
        assert_eq!(near_or_of_kind("phone", &known), ["tel"]);
        assert_eq!(near_or_of_kind("telephone", &known), ["tel"]);
        assert_eq!(near_or_of_kind("EMAIL", &known), ["mail"]);
        assert_eq!(near_or_of_kind("usr", &known), ["user"]);
        assert!(near_or_of_kind("crm", &known).is_empty());
    }

    #[test]
    fn what_is_not_near_is_not_proposed() {
        for given in ["", "billing", "email", "x", "marketing.sms", "a.b.c.d.e.f.g.h"] {
            assert!(near(given, KNOWN).is_empty(), "{given}: {:?}", near(given, KNOWN));
        }
    }

    #[test]
    fn at_most_three_are_proposed_the_nearest_first() {
        let known = ["news4", "news", "news1", "news2", "news3"];
        assert_eq!(near("newss", known), ["news", "news1", "news2"]);
        let keys =
            |count: usize| known[..count].iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        assert_eq!(question(&keys(0)), None);
        assert_eq!(question(&keys(1)).unwrap(), "did you mean `news4`?");
        assert_eq!(question(&keys(3)).unwrap(), "did you mean `news4`, `news` or `news1`?");
    }
}
