//! Domain names: UTS 46, non-transitional, as A-labels.
//!
//! A-labels (`xn--…`) are what DNS compares and what mail is routed by. They are ASCII, so no later
//! version of Unicode spells a stored one in another way, and two names that look alike differ to the
//! eye of whoever reads an audit.

use std::{borrow::Cow, net::Ipv4Addr};

use idna::{
    AsciiDenyList,
    uts46::{DnsLength, Hyphens, Uts46},
};
use thiserror::Error;

use crate::{
    IdentityError,
    text::{self, Joiners},
    wrapping,
};

/// How a text can fail to be a domain name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DomainError {
    /// `https://x.example`.
    #[error("give the host alone, without scheme, port, path or user")]
    NotAlone,
    /// Two words.
    #[error("it must not contain spaces")]
    Space,
    /// `192.0.2.1`.
    #[error("an IP address is no domain name")]
    IpAddress,
    /// An empty label.
    #[error("it must not have an empty part between its dots")]
    EmptyLabel,
    /// A symbol.
    #[error("it has a character that no domain name has (RFC 5892)")]
    Character,
    /// Not a name of UTS 46 with labels of letters, digits and hyphens, of at most 63 bytes, 253 in all.
    #[error(
        "its parts must be letters, digits and inner hyphens (UTS 46), each at most 63 bytes and all \
         together at most 253 in their ASCII form"
    )]
    Form,
}

pub(crate) fn canonical(id: &str) -> Result<String, IdentityError> {
    let visible = text::visible(id, Joiners::Keep)?;
    if text::is_misread_utf8(text::trimmed(id)) || text::is_misread_utf8(&visible) {
        return Err(IdentityError::WrongEncoding);
    }
    let mut name = visible.as_ref();
    while let Some(inner) = wrapping::unwrapped(name).or_else(|| without_leading_mark(name)) {
        name = inner;
    }
    if name.is_empty() {
        return Err(IdentityError::Empty);
    }
    wrapping::refuse_stand_in(name)?;
    Ok(ascii(name)?.into_owned())
}

/// `@x.example` and `*.x.example`, as lists of blocked domains write them.
fn without_leading_mark(name: &str) -> Option<&str> {
    name.strip_prefix(['@', '＠']).or_else(|| name.strip_prefix("*.")).map(str::trim_start)
}

/// The ASCII form of a domain name, without a dot at its end.
pub(crate) fn ascii(name: &str) -> Result<Cow<'_, str>, DomainError> {
    if name.is_ascii() {
        return ascii_of_letters(name);
    }
    let name = text::with_ascii_marks(name);
    let name = text::with_plain_i(&name);
    // UTS 46 would make letters of some symbols (`tm` of `™`), and labels of most others.
    if !name.char_indices().all(|(at, ch)| is_allowed(ch, &name[..at], &name[at + ch.len_utf8()..]))
    {
        return Err(DomainError::Character);
    }
    ascii_of_letters(&name).map(|ascii| Cow::Owned(ascii.into_owned()))
}

/// Whether a character can be in a name between two texts.
fn is_allowed(ch: char, before: &str, after: &str) -> bool {
    match ch {
        // The Catalan `l·l` (RFC 5892, A.3).
        '·' => before.ends_with(['l', 'L']) && after.starts_with(['l', 'L']),
        '。' | '．' | '｡' | '\u{ff01}'..='\u{ff5e}' => true,
        _ => ch.is_ascii() || ch.is_whitespace() || text::is_joiner(ch) || text::is_of_names(ch),
    }
}

fn ascii_of_letters(name: &str) -> Result<Cow<'_, str>, DomainError> {
    refuse_other_parts(name)?;
    let name = match to_ascii(name) {
        Some(ascii) => ascii,
        // Zero-width joiners that spell nothing are as invisible as the others.
        None => match text::without(name, text::is_joiner) {
            Cow::Owned(name) => {
                Cow::Owned(to_ascii(&name).ok_or_else(|| fault(&name))?.into_owned())
            }
            Cow::Borrowed(name) => return Err(fault(name)),
        },
    };
    let last_label = name.rsplit('.').next().unwrap_or_default();
    // No top-level domain is a number, so that a name is never taken for an address (RFC 3696, 2).
    if last_label.bytes().all(|byte| byte.is_ascii_digit()) {
        let is_address = name.parse::<Ipv4Addr>().is_ok();
        return Err(if is_address { DomainError::IpAddress } else { DomainError::Form });
    }
    Ok(name)
}

fn refuse_other_parts(name: &str) -> Result<(), DomainError> {
    if name.contains(char::is_whitespace) {
        return Err(DomainError::Space);
    }
    if name.contains([':', '/', '\\', '?', '#', '@', '＠']) {
        return Err(DomainError::NotAlone);
    }
    Ok(())
}

fn to_ascii(name: &str) -> Option<Cow<'_, str>> {
    let uts46 = Uts46::new();
    let length = DnsLength::VerifyAllowRootDot;
    let ascii = uts46
        .to_ascii(name.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, length)
        .ok()?;
    let ascii = match ascii {
        Cow::Borrowed(ascii) => Cow::Borrowed(ascii.strip_suffix('.').unwrap_or(ascii)),
        Cow::Owned(mut ascii) => {
            if ascii.ends_with('.') {
                ascii.pop();
            }
            Cow::Owned(ascii)
        }
    };
    (!ascii.is_empty()).then_some(ascii)
}

fn fault(name: &str) -> DomainError {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.split('.').any(str::is_empty) { DomainError::EmptyLabel } else { DomainError::Form }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_every_spelling_of_a_name_one_form() {
        for (given, want) in [
            ("x.example", "x.example"),
            ("X.Example.", "x.example"),
            ("@x.example", "x.example"),
            ("*.x.example", "x.example"),
            ("'x.example", "x.example"),
            ("\u{200b}x.exam\u{ad}ple\r\n", "x.example"),
            ("b\u{fc}cher.example", "xn--bcher-kva.example"),
            ("B\u{dc}CHER.example", "xn--bcher-kva.example"),
            ("bu\u{308}cher.example", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("stra\u{df}e.example", "xn--strae-oqa.example"),
            ("ｘ．ｅｘａｍｐｌｅ", "x.example"),
            ("x。example", "x.example"),
            ("my\u{2011}shop.example", "my-shop.example"),
            ("F\u{130}RMA.example", "firma.example"),
            ("fi\u{307}rma.example", "firma.example"),
            ("paral\u{b7}lel.example", "xn--parallel-koa.example"),
            ("„x.example”", "x.example"),
            ("r3---sn-4g5e.example", "r3---sn-4g5e.example"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(canonical(given).as_deref(), Ok(want), "{given:?}");
        }
    }

    #[test]
    fn zero_width_joiners_count_where_dns_counts_them() {
        let joined = "\u{646}\u{627}\u{645}\u{647}\u{200c}\u{627}\u{6cc}.example";
        let apart = canonical("\u{646}\u{627}\u{645}\u{647}\u{627}\u{6cc}.example").unwrap();
        let ascii = canonical(joined).unwrap();
        assert_ne!(ascii, apart);
        assert_eq!(canonical(&ascii), Ok(ascii.clone()));
        assert_eq!(canonical("b\u{fc}\u{200c}\u{e4}.example"), canonical("b\u{fc}\u{e4}.example"));
    }

    #[test]
    fn refuses_what_is_no_name() {
        let label = "x".repeat(64);
        for (given, want) in [
            ("https://x.example/", DomainError::NotAlone),
            ("x.example:443", DomainError::NotAlone),
            ("kim@x.example", DomainError::NotAlone),
            ("x.example y.example", DomainError::Space),
            ("x..example", DomainError::EmptyLabel),
            ("192.0.2.1", DomainError::IpAddress),
            ("2024.01", DomainError::Form),
            ("-x.example", DomainError::Form),
            ("x_y.example", DomainError::Form),
            ("xn--a.example", DomainError::Form),
            ("x.example\u{2122}", DomainError::Character),
            ("x.example\u{201d}", DomainError::Character),
            ("my\u{2013}shop.example", DomainError::Character),
            ("a\u{b7}b.example", DomainError::Character),
            ("\u{1f48c}.example", DomainError::Character),
            (label.as_str(), DomainError::Form),
        ] {
            assert_eq!(canonical(given), Err(IdentityError::Domain(want)), "{given:?}");
        }
        assert_eq!(canonical("NULL"), Err(IdentityError::MissingValue("null")));
        assert_eq!(canonical("*."), Err(IdentityError::Empty));
        assert_eq!(canonical("b\u{c3}\u{bc}cher.example"), Err(IdentityError::WrongEncoding));
    }
}
