//! The names of logs and witnesses. C2SP tlog-checkpoint and tlog-witness ask for a URL without a scheme,
//! for example `consent.example.org/eu`.
//!
//! A name identifies its owner for ever, in every checkpoint. So there is one spelling of it: no scheme,
//! no slash at the end, no upper case in the host.

use thiserror::Error;

use super::key::NAME_BYTES_MAX;

/// Why a text can not be the name of a log or a witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OriginError {
    /// Nothing, or more than the limit.
    #[error("must have 1 to {NAME_BYTES_MAX} bytes{EXAMPLE}")]
    Length,
    /// A scheme.
    #[error("must not have a scheme such as `https://`{EXAMPLE}")]
    Scheme,
    /// A character that has no place in it.
    #[error("must not contain {0:?}: host and path have letters, digits and `-._~`{EXAMPLE}")]
    Character(char),
    /// The host is not a name or an address, with or without a port.
    #[error("must begin with a host in lower case, and a port only as `:8080`{EXAMPLE}")]
    Host,
    /// A slash at the end, or two in a row.
    #[error("must not end with a slash or hold an empty part{EXAMPLE}")]
    EmptyPart,
    /// `.` or `..` in the path.
    #[error("must not have `.` or `..` in its path{EXAMPLE}")]
    Dots,
}

const EXAMPLE: &str = ", for example `consent.example.org/eu`";

/// Checks that a text is a URL without a scheme, in its one spelling.
///
/// # Errors
/// See [`OriginError`].
pub fn check_origin(text: &str) -> Result<(), OriginError> {
    if !(1..=NAME_BYTES_MAX).contains(&text.len()) {
        return Err(OriginError::Length);
    }
    if text.contains("://") {
        return Err(OriginError::Scheme);
    }
    let (host, path) = text.split_once('/').map_or((text, None), |(host, path)| (host, Some(path)));
    check_host(host)?;
    path.map_or(Ok(()), |path| path.split('/').try_for_each(check_part))
}

fn check_host(host: &str) -> Result<(), OriginError> {
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let is_port = |port: &str| {
        super::decimal(port).and_then(|port| u16::try_from(port).ok()).is_some_and(|port| port > 0)
    };
    if !port.is_none_or(is_port) {
        return Err(OriginError::Host);
    }
    if let Some(other) = name.chars().find(|&c| !is_unreserved(c)) {
        return Err(OriginError::Character(other));
    }
    let is_label = |label: &str| {
        let may_stand =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let (first, last) = (label.bytes().next(), label.bytes().next_back());
        first.is_some() && label.bytes().all(may_stand) && first != Some(b'-') && last != Some(b'-')
    };
    if name.split('.').all(is_label) { Ok(()) } else { Err(OriginError::Host) }
}

fn check_part(part: &str) -> Result<(), OriginError> {
    match part {
        "" => Err(OriginError::EmptyPart),
        "." | ".." => Err(OriginError::Dots),
        _ => part
            .chars()
            .find(|&c| !is_unreserved(c))
            .map_or(Ok(()), |other| Err(OriginError::Character(other))),
    }
}

/// The unreserved characters of RFC 3986, section 2.3.
fn is_unreserved(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::is_name;

    #[test]
    fn a_url_without_a_scheme_is_a_name() {
        for good in [
            "localhost/consent",
            "localhost",
            "consent.example.org/eu",
            "example.org:8080/Log_2~a.b",
            "127.0.0.1:7080/w1",
            "xn--bcher-kva.example/log",
        ] {
            assert_eq!(check_origin(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn every_other_spelling_is_refused_by_what_is_wrong_with_it() {
        for (bad, error) in [
            ("", OriginError::Length),
            (&"x".repeat(NAME_BYTES_MAX + 1), OriginError::Length),
            ("https://consent.example.org/eu", OriginError::Scheme),
            ("HTTP://example.org", OriginError::Scheme),
            ("mailto:a@example.org", OriginError::Host),
            ("https:example.org", OriginError::Host),
            ("consent.example.org/", OriginError::EmptyPart),
            ("consent.example.org/eu/", OriginError::EmptyPart),
            ("consent.example.org//eu", OriginError::EmptyPart),
            ("/consent", OriginError::Host),
            ("//consent.example.org", OriginError::Host),
            ("consent.example.org/../eu", OriginError::Dots),
            ("Consent.example.org/eu", OriginError::Host),
            (".example.org", OriginError::Host),
            ("example..org", OriginError::Host),
            ("-example.org", OriginError::Host),
            ("example.org:", OriginError::Host),
            ("example.org:0/eu", OriginError::Host),
            ("example.org:99999/eu", OriginError::Host),
            ("two words", OriginError::Character(' ')),
            ("example.org/a+b", OriginError::Character('+')),
            ("example.org/a?b", OriginError::Character('?')),
            ("example.org/a#b", OriginError::Character('#')),
            ("user@example.org", OriginError::Character('@')),
            ("bücher.example", OriginError::Character('ü')),
            ("example.org/line\n", OriginError::Character('\n')),
        ] {
            assert_eq!(check_origin(bad), Err(error), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_can_stand_in_a_note(text in "[a-zA-Z0-9:/.+~ ä-]{0,20}") {
            if check_origin(&text).is_ok() {
                prop_assert!(is_name(&text) && !text.ends_with('/'), "{}", text);
            }
        }
    }
}
