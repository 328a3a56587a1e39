//! E-mail addresses: RFC 5321, and RFC 6531 for those beyond ASCII.
//!
//! The domain is one of [`crate::domain`], or an address literal. The local part is NFC and, where the
//! namespace says so, folded to one case. `kim+shop@` stays another mailbox than `kim@`, and `k.im@`
//! another than `kim@`: what a provider makes of those is that provider's rule, and may change.
//!
//! Fullwidth forms of ASCII characters, as input methods for East Asian scripts type them, become the
//! ASCII characters (RFC 8264, 5.2.1). Nothing else of compatibility is mapped in a local part.

use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr},
};

use icu_casemap::{CaseMapper, CaseMapperBorrowed};
use thiserror::Error;

use crate::{
    IdentityError, domain,
    domain::DomainError,
    text::{self, Joiners},
    wrapping,
};

const CASES: CaseMapperBorrowed<'static> = CaseMapper::new();

/// The longest local part, in bytes of UTF-8 (RFC 5321, 4.5.3.1.1).
pub const LOCAL_PART_BYTES_MAX: usize = 64;

/// The longest address, in bytes of UTF-8: a path of 256 (RFC 5321, 4.5.3.1.3) without its brackets.
pub const EMAIL_BYTES_MAX: usize = 254;

/// Hosts whose addresses may have dots where RFC 5321 has none: Japanese phone companies gave them out
/// until 2009.
const HOSTS_WITH_LOOSE_DOTS: [&str; 3] = ["docomo.ne.jp", "ezweb.ne.jp", "au.com"];

/// How a text can fail to be one e-mail address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EmailError {
    /// No `@`.
    #[error("it has no `@`")]
    NoAt,
    /// More than one address in the field.
    #[error("it holds more than one address; give each its own record")]
    SeveralAddresses,
    /// `kim @x.example`.
    #[error("it must not contain spaces")]
    Space,
    /// `@x.example`.
    #[error("nothing stands before the `@`")]
    NoLocalPart,
    /// `kim@`.
    #[error("nothing stands after the `@`")]
    NoDomain,
    /// Longer than [`LOCAL_PART_BYTES_MAX`].
    #[error("the part before the `@` must be at most {LOCAL_PART_BYTES_MAX} bytes, got {0}")]
    LocalPartTooLong(usize),
    /// Longer than [`EMAIL_BYTES_MAX`].
    #[error("it must be at most {EMAIL_BYTES_MAX} bytes, got {0}")]
    TooLong(usize),
    /// `.kim@`, `kim.@`, `k..im@`.
    #[error("dots before the `@` must stand singly and between other characters, or in quotes")]
    Dots,
    /// `ki(m@`.
    #[error("a character before the `@` is not allowed there without quotes (RFC 5321, 4.1.2)")]
    LocalPart,
    /// `"kim@`.
    #[error("the quotes before the `@` must be closed, and enclose all that stands there")]
    Quotes,
    /// `Kim <kim@x.example`, `<kim@x.example> x`.
    #[error("angle brackets must enclose the address and end the value")]
    Brackets,
    /// A `%` that begins no octet of UTF-8 text.
    #[error("its percent-encoding is broken (RFC 6068, 2)")]
    PercentEncoding,
    /// `kim@[x]`.
    #[error("in brackets after the `@` must be `192.0.2.1` or `IPv6:` and an address")]
    AddressLiteral,
    /// The domain is none.
    #[error("the part after the `@` is no domain name: {0}")]
    Domain(#[from] DomainError),
}

pub(crate) fn canonical(id: &str, fold: bool) -> Result<String, IdentityError> {
    let visible = text::visible(id, Joiners::Keep)?;
    if text::is_misread_utf8(text::trimmed(id)) || text::is_misread_utf8(&visible) {
        return Err(IdentityError::WrongEncoding);
    }
    let without_fullwidth = without_fullwidth(&visible);
    let ascii_forms = text::with_ascii_marks(&without_fullwidth);
    let mut email = ascii_forms.as_ref();
    while let Some(inner) = unwrapped(email, fold)? {
        email = inner;
    }
    if let Some(encoded) = wrapping::after_scheme(email, "mailto") {
        return canonical(&percent_decoded(without_headers(encoded))?, fold);
    }
    if email.is_empty() {
        return Err(IdentityError::Empty);
    }
    wrapping::refuse_stand_in(email)?;
    let address = address(email, fold)?;
    // Folding can make what reads as another encoding of what did not.
    if text::is_misread_utf8(&address) {
        return Err(IdentityError::WrongEncoding);
    }
    Ok(address)
}

/// `＠` and `ｋｉｍ` as `@` and `kim`.
fn without_fullwidth(text: &str) -> Cow<'_, str> {
    let ascii = |ch: char| match ch {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(ch) - 0xfee0),
        '\u{fe6b}' => Some('@'),
        _ => None,
    };
    if text.contains(|ch| ascii(ch).is_some()) {
        Cow::Owned(text.chars().map(|ch| ascii(ch).unwrap_or(ch)).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// One layer less around the address, if there is one.
fn unwrapped(text: &str, fold: bool) -> Result<Option<&str>, EmailError> {
    let inner = wrapping::unwrapped(text)
        .or_else(|| wrapping::after_scheme(text, "smtp")) // Exchange's proxyAddresses
        .or_else(|| text.strip_suffix([',', ';']).map(str::trim_end))
        .or_else(|| text.strip_prefix([',', ';']).map(str::trim_start));
    match inner {
        Some(inner) => Ok(Some(inner)),
        None => match without_comment(text, fold)? {
            Some(address) => Ok(Some(address)),
            None => in_brackets(text, fold),
        },
    }
}

/// `kim@x.example (Kim Example)`: the address. Another address in the comment is a second person.
fn without_comment(text: &str, fold: bool) -> Result<Option<&str>, EmailError> {
    let parts = text.strip_suffix(')').and_then(|open| open.rsplit_once(" ("));
    let Some((address, comment)) = parts else { return Ok(None) };
    let address = address.trim_end();
    if comment.contains('@') && canonical(comment, fold) != canonical(address, fold) {
        return Err(EmailError::SeveralAddresses);
    }
    Ok(Some(address))
}

/// `Kim Example <kim@x.example>`: the address.
fn in_brackets(text: &str, fold: bool) -> Result<Option<&str>, EmailError> {
    let Some(open) = text.strip_suffix('>') else { return Ok(None) };
    let (name, address) = open.rsplit_once('<').ok_or(EmailError::Brackets)?;
    let (name, address) = (name.trim(), address.trim());
    let is_quoted = name.len() > 1 && name.starts_with('"') && name.ends_with('"');
    // Some programs repeat the address as the name. Any other address there is a second person.
    if name.contains('@') && !is_quoted && canonical(name, fold) != canonical(address, fold) {
        return Err(EmailError::SeveralAddresses);
    }
    Ok(Some(address))
}

/// What `mailto:` names, without `?subject=…`.
fn without_headers(encoded: &str) -> &str {
    encoded.split_once('?').map_or(encoded, |(address, _)| address)
}

fn percent_decoded(encoded: &str) -> Result<String, EmailError> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut nibble = || char::from(bytes.next()?).to_digit(16);
            let octet = nibble().zip(nibble()).map(|(high, low)| 16 * high + low);
            let octet = octet.and_then(|octet| u8::try_from(octet).ok());
            decoded.push(octet.ok_or(EmailError::PercentEncoding)?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).map_err(|_| EmailError::PercentEncoding)
}

fn address(email: &str, fold: bool) -> Result<String, EmailError> {
    let (local, domain) = email.rsplit_once('@').ok_or(EmailError::NoAt)?;
    let has_loose_dots = HOSTS_WITH_LOOSE_DOTS.iter().any(|host| domain.eq_ignore_ascii_case(host));
    let local = without_quotes(local, has_loose_dots)?;
    if domain.contains(char::is_whitespace) {
        return Err(EmailError::Space);
    }
    if local.chars().any(|ch| !ch.is_ascii() && !is_of_local_part(ch)) {
        return Err(EmailError::LocalPart);
    }
    let local = of_one_case(&text::without(&local, text::is_joiner), fold);
    let local = if needs_quotes(&local) { quoted(&local) } else { local };
    if local.len() > LOCAL_PART_BYTES_MAX {
        return Err(EmailError::LocalPartTooLong(local.len()));
    }
    let domain = host(domain)?;
    let address = format!("{local}@{domain}");
    if address.len() > EMAIL_BYTES_MAX {
        return Err(EmailError::TooLong(address.len()));
    }
    Ok(address)
}

/// The local part as it is meant: what a quoted string holds (RFC 5321, 4.1.2), or a dot-string.
fn without_quotes(local: &str, has_loose_dots: bool) -> Result<Cow<'_, str>, EmailError> {
    if local.is_empty() {
        return Err(EmailError::NoLocalPart);
    }
    if let Some(rest) = local.strip_prefix('"') {
        return in_quotes(rest).map(Cow::Owned);
    }
    if local.contains('@') {
        return Err(EmailError::SeveralAddresses);
    }
    if local.contains(char::is_whitespace) {
        return Err(EmailError::Space);
    }
    if local.contains('"') {
        return Err(EmailError::Quotes);
    }
    if local.contains(['<', '>']) {
        return Err(EmailError::Brackets);
    }
    if !local.chars().all(|ch| ch == '.' || is_atext(ch)) {
        return Err(EmailError::LocalPart);
    }
    if local.split('.').any(str::is_empty) && (!has_loose_dots || local.starts_with('.')) {
        return Err(EmailError::Dots);
    }
    Ok(Cow::Borrowed(local))
}

/// The content of a quoted string, from after its first quote.
fn in_quotes(rest: &str) -> Result<String, EmailError> {
    let mut content = String::with_capacity(rest.len());
    let mut chars = rest.chars();
    loop {
        match chars.next().ok_or(EmailError::Quotes)? {
            '"' => break,
            '\\' => content.push(chars.next().ok_or(EmailError::Quotes)?),
            ch => content.push(ch),
        }
    }
    match chars.as_str() {
        "" if content.is_empty() => Err(EmailError::NoLocalPart),
        "" => Ok(content),
        more if more.contains('@') => Err(EmailError::SeveralAddresses),
        _ => Err(EmailError::Quotes),
    }
}

/// Characters that stand in an address without quotes (RFC 5322, 3.2.3; RFC 6531, 3.3).
fn is_atext(ch: char) -> bool {
    ch.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(ch)
        || !ch.is_ascii() && is_of_local_part(ch)
}

/// RFC 6531 lets every character beyond ASCII stand in a local part. Quotes and other symbols there come
/// from around an address, so only what names are made of is taken.
fn is_of_local_part(ch: char) -> bool {
    text::is_of_names(ch) || text::is_joiner(ch)
}

/// Quotes go where they say nothing. They stay before an apostrophe, which without them would be the
/// mark by which spreadsheets keep a text a text.
fn needs_quotes(local: &str) -> bool {
    let is_dot_string = local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext));
    !is_dot_string || local.starts_with('\'')
}

fn quoted(local: &str) -> String {
    format!("\"{}\"", local.replace('\\', r"\\").replace('"', "\\\""))
}

/// NFC, and in one case where both cases are one mailbox.
///
/// Folding is the simple one of Unicode: it never makes one character two, so that `ß` stays apart from
/// `ss`, which is another person. `İ`, which it leaves alone, becomes `i`.
fn of_one_case(local: &str, fold: bool) -> String {
    let mut form = text::nfc(local).into_owned();
    if !fold || is_lower_ascii(&form) {
        return form;
    }
    // Folding can make characters that compose, and composing ones that fold: at most once each.
    for _ in 0..3 {
        let folded: String =
            text::with_plain_i(&form).chars().map(|ch| CASES.simple_fold(ch)).collect();
        let composed = text::nfc(&folded).into_owned();
        if composed == form {
            break;
        }
        form = composed;
    }
    form
}

fn is_lower_ascii(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase())
}

/// A domain name, or an address literal (RFC 5321, 4.1.3).
fn host(domain: &str) -> Result<Cow<'_, str>, EmailError> {
    if domain.is_empty() {
        return Err(EmailError::NoDomain);
    }
    match domain.strip_prefix('[') {
        Some(rest) => address_literal(rest).map(Cow::Owned).ok_or(EmailError::AddressLiteral),
        None => Ok(domain::ascii(domain)?),
    }
}

fn address_literal(rest: &str) -> Option<String> {
    let literal = rest.strip_suffix(']')?;
    if let Some(address) = wrapping::after_scheme(literal, "IPv6") {
        return Some(format!("[IPv6:{}]", address.parse::<Ipv6Addr>().ok()?));
    }
    Some(format!("[{}]", literal.parse::<Ipv4Addr>().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_every_spelling_of_an_address_one_form() {
        for (given, want) in [
            ("kim@x.example", "kim@x.example"),
            ("Kim@X.Example", "kim@x.example"),
            ("<kim@x.example>", "kim@x.example"),
            ("Kim Example <kim@x.example>", "kim@x.example"),
            ("\"Example, Kim\" <KIM@x.example>", "kim@x.example"),
            ("'Kim' <kim@x.example>", "kim@x.example"),
            ("Example, Kim <kim@x.example>", "kim@x.example"),
            ("Kim@x.example <kim@x.example>", "kim@x.example"),
            ("\"via lee@y.example\" <kim@x.example>", "kim@x.example"),
            ("kim@x.example (Kim Example)", "kim@x.example"),
            ("mailto:kim@x.example", "kim@x.example"),
            ("MAILTO:kim%40x.example?subject=a@b", "kim@x.example"),
            ("<mailto:kim@x.example>", "kim@x.example"),
            ("smtp:Kim@x.example", "kim@x.example"),
            ("'kim@x.example", "kim@x.example"),
            ("'kim@x.example'", "kim@x.example"),
            ("\"kim@x.example\"", "kim@x.example"),
            ("“kim@x.example”", "kim@x.example"),
            ("=\"kim@x.example\"", "kim@x.example"),
            ("kim@x.example;", "kim@x.example"),
            ("\u{feff}kim@x.example\r\n", "kim@x.example"),
            ("\u{200b}kim@x.example", "kim@x.example"),
            ("ki\u{200d}m@x.exam\u{200c}ple", "kim@x.example"),
            ("kim@x.example.", "kim@x.example"),
            ("ｋｉｍ＠ｘ．ｅｘａｍｐｌｅ", "kim@x.example"),
            ("\"kim\"@x.example", "kim@x.example"),
            ("\"k\\im\"@x.example", "kim@x.example"),
            ("K\u{130}M@x.example", "kim@x.example"),
            ("kim+shop@x.example", "kim+shop@x.example"),
            ("k.im@x.example", "k.im@x.example"),
            ("o'brien@x.example", "o'brien@x.example"),
            ("o\u{2019}brien@x.example", "o'brien@x.example"),
            ("o\u{2bc}brien@x.example", "o'brien@x.example"),
            ("kim\u{2011}lee@x.example", "kim-lee@x.example"),
            ("kim@my\u{2011}shop.example", "kim@my-shop.example"),
            ("ki\u{307}m@x.example", "kim@x.example"),
            ("kim@F\u{130}RMA.example", "kim@firma.example"),
            ("\u{201e}kim@x.example\u{201d}", "kim@x.example"),
            ("\u{bb}kim@x.example\u{ab}", "kim@x.example"),
            ("\u{201d}kim@x.example\u{201d}", "kim@x.example"),
            ("kim@x.example (Kim@x.example)", "kim@x.example"),
            ("abc..def@docomo.ne.jp", "\"abc..def\"@docomo.ne.jp"),
            ("abc.@docomo.ne.jp", "\"abc.\"@docomo.ne.jp"),
            ("\"abc.\"@DOCOMO.ne.jp", "\"abc.\"@docomo.ne.jp"),
            ("\"john doe\"@x.example", "\"john doe\"@x.example"),
            ("\"a@b\"@x.example", "\"a@b\"@x.example"),
            ("\"kim.\"@x.example", "\"kim.\"@x.example"),
            ("\"'kim\"@x.example", "\"'kim\"@x.example"),
            ("ren\u{e9}@x.example", "ren\u{e9}@x.example"),
            ("RENE\u{301}@x.example", "ren\u{e9}@x.example"),
            ("stra\u{df}e@x.example", "stra\u{df}e@x.example"),
            ("STRA\u{1e9e}E@x.example", "stra\u{df}e@x.example"),
            ("νικος@x.example", "νικοσ@x.example"),
            ("ΝΙΚΟΣ@x.example", "νικοσ@x.example"),
            ("kim@b\u{fc}cher.example", "kim@xn--bcher-kva.example"),
            ("kim@XN--BCHER-KVA.example", "kim@xn--bcher-kva.example"),
            ("kim@[192.0.2.1]", "kim@[192.0.2.1]"),
            ("kim@[ipv6:2001:DB8:0::1]", "kim@[IPv6:2001:db8::1]"),
            ("root@localhost", "root@localhost"),
        ] {
            assert_eq!(canonical(given, true).as_deref(), Ok(want), "{given:?}");
            assert_eq!(canonical(want, true).as_deref(), Ok(want), "again: {want:?}");
        }
    }

    #[test]
    fn keeps_the_case_of_the_local_part_where_it_counts() {
        for (given, want) in
            [("<Kim@X.Example>", "Kim@x.example"), ("RENE\u{301}@x.example", "REN\u{c9}@x.example")]
        {
            assert_eq!(canonical(given, false).as_deref(), Ok(want), "{given:?}");
        }
    }

    #[test]
    fn says_why_a_text_is_no_address() {
        let long = format!("{}@x.example", "k".repeat(65));
        let labels = vec!["x".repeat(60); 4].join(".");
        let too_long = format!("kim.example@{labels}");
        for (given, want) in [
            ("kim.x.example", EmailError::NoAt),
            ("42", EmailError::NoAt),
            ("kim@x.example, lee@x.example", EmailError::SeveralAddresses),
            ("kim@x.example;lee@x.example", EmailError::SeveralAddresses),
            ("kim@x.example lee@x.example", EmailError::SeveralAddresses),
            ("kim@x.example/lee@x.example", EmailError::SeveralAddresses),
            ("\"kim@x.example\",\"lee@x.example\"", EmailError::SeveralAddresses),
            ("kim@x.example <lee@x.example>", EmailError::SeveralAddresses),
            ("<kim@x.example>, <lee@x.example>", EmailError::SeveralAddresses),
            ("mailto:kim@x.example,lee@x.example", EmailError::SeveralAddresses),
            ("kim@@x.example", EmailError::SeveralAddresses),
            ("kim@x.example (lee@y.example)", EmailError::SeveralAddresses),
            ("kim@old.example (kim@x.example)", EmailError::SeveralAddresses),
            ("\u{2018}kim@x.example", EmailError::LocalPart),
            ("\u{201e}rger@x.example", EmailError::LocalPart),
            ("\u{2022}kim@x.example", EmailError::LocalPart),
            ("\u{2013}kim@x.example", EmailError::LocalPart),
            ("kim\u{2013}lee@x.example", EmailError::LocalPart),
            ("\u{1f4e7}kim@x.example", EmailError::LocalPart),
            ("\"k\u{2022}im\"@x.example", EmailError::LocalPart),
            ("kim@x.example\u{2019}", EmailError::Domain(DomainError::Character)),
            ("kim@x.example\u{2122}", EmailError::Domain(DomainError::Character)),
            (".abc@docomo.ne.jp", EmailError::Dots),
            ("ki m@x.example", EmailError::Space),
            ("kim@x .example", EmailError::Space),
            ("@x.example", EmailError::NoLocalPart),
            ("\"\"@x.example", EmailError::NoLocalPart),
            ("kim@", EmailError::NoDomain),
            (".kim@x.example", EmailError::Dots),
            ("k..im@x.example", EmailError::Dots),
            ("kim,lee@x.example", EmailError::LocalPart),
            ("\"kim@x.example", EmailError::Quotes),
            ("k\"im@x.example", EmailError::Quotes),
            ("kim@x.example>", EmailError::Brackets),
            ("<kim@x.example", EmailError::Brackets),
            ("mailto:kim%4@x.example", EmailError::PercentEncoding),
            ("kim@[x]", EmailError::AddressLiteral),
            ("kim@192.0.2.1", EmailError::Domain(DomainError::IpAddress)),
            ("kim@x..example", EmailError::Domain(DomainError::EmptyLabel)),
            (long.as_str(), EmailError::LocalPartTooLong(65)),
            (too_long.as_str(), EmailError::TooLong(255)),
        ] {
            assert_eq!(canonical(given, true), Err(IdentityError::Email(want)), "{given:?}");
        }
        for (given, want) in [
            ("#N/A", IdentityError::SpreadsheetError("#N/A")),
            ("'#REF!", IdentityError::SpreadsheetError("#REF!")),
            ("null", IdentityError::MissingValue("null")),
            ("4.36641E+11", IdentityError::ScientificNotation),
            ("ren\u{fffd}@x.example", IdentityError::Undecodable),
            ("ren\u{c3}\u{a9}@x.example", IdentityError::WrongEncoding),
            ("stra\u{c3}\u{178}e@x.example", IdentityError::WrongEncoding),
            ("\u{ef}\u{bb}\u{bf}kim@x.example", IdentityError::WrongEncoding),
            ("\u{c1}\u{160}\u{160}@x.example", IdentityError::WrongEncoding),
            ("<>", IdentityError::Empty),
            ("\"\"", IdentityError::Empty),
            ("mailto:kim%0a@x.example", IdentityError::ControlCharacter),
        ] {
            assert_eq!(canonical(given, true), Err(want), "{given:?}");
        }
    }
}
