//! What is done to every text: invisible characters go, edges are trimmed, equivalent characters become
//! the same ones (NFC).

use std::borrow::Cow;

use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::{
    CodePointMapData, CodePointMapDataBorrowed, CodePointSetData, CodePointSetDataBorrowed,
    props::{DefaultIgnorableCodePoint, GeneralCategory},
};

use crate::{GIVEN_BYTES_MAX, IdentityError};

const NFC: ComposingNormalizerBorrowed<'static> = ComposingNormalizerBorrowed::new_nfc();
const INVISIBLE: CodePointSetDataBorrowed<'static> =
    CodePointSetData::new::<DefaultIgnorableCodePoint>();
const CATEGORIES: CodePointMapDataBorrowed<'static, GeneralCategory> =
    CodePointMapData::<GeneralCategory>::new();

/// What Windows-1252 has for the bytes from 0x80 to 0x9f. It leaves five of them out.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Whether the two zero-width joiners stay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joiners {
    /// They are invisible, and go.
    Drop,
    /// In some scripts they spell another domain name (RFC 5892, A.1 and A.2). Those between two
    /// characters beyond ASCII stay.
    Keep,
}

/// The text without what nobody sees, in NFC.
pub(crate) fn visible(text: &str, joiners: Joiners) -> Result<Cow<'_, str>, IdentityError> {
    if text.len() > GIVEN_BYTES_MAX {
        return Err(IdentityError::TooLong(text.len()));
    }
    let visible = if text.is_ascii() {
        Cow::Borrowed(text.trim())
    } else {
        normalized(without_invisible(text, joiners))
    };
    if visible.is_empty() {
        return Err(IdentityError::Empty);
    }
    if visible.chars().any(is_control) {
        return Err(IdentityError::ControlCharacter);
    }
    Ok(visible)
}

/// The text without white space and invisible characters at its edges.
pub(crate) fn trimmed(text: &str) -> &str {
    text.trim_matches(|ch: char| ch.is_whitespace() || is_invisible(ch))
}

/// Equivalent sequences of characters as the same sequence.
pub(crate) fn nfc(text: &str) -> Cow<'_, str> {
    NFC.normalize(text)
}

/// The text without some characters.
pub(crate) fn without(text: &str, is_dropped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.contains(&is_dropped) {
        Cow::Owned(text.chars().filter(|&ch| !is_dropped(ch)).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Whether a character is one of the zero-width joiners.
pub(crate) fn is_joiner(ch: char) -> bool {
    matches!(ch, '\u{200c}' | '\u{200d}')
}

/// Whether a character beyond ASCII can be part of a name: letters, marks and digits, and the few others
/// that RFC 5892 (2.6) lets stand in a domain name. Quotes, bullets and other symbols around a name are
/// no part of it.
pub(crate) fn is_of_names(ch: char) -> bool {
    // The two ordinal signs are letters to Unicode, and signs to everybody else.
    let is_ordinal = matches!(ch, 'ª' | 'º');
    let is_letter = matches!(
        CATEGORIES.get(ch),
        GeneralCategory::UppercaseLetter
            | GeneralCategory::LowercaseLetter
            | GeneralCategory::TitlecaseLetter
            | GeneralCategory::ModifierLetter
            | GeneralCategory::OtherLetter
            | GeneralCategory::NonspacingMark
            | GeneralCategory::SpacingMark
            | GeneralCategory::DecimalNumber
    );
    let is_exception = matches!(
        ch,
        '\u{375}'
            | '\u{5f3}'
            | '\u{5f4}'
            | '\u{6fd}'
            | '\u{6fe}'
            | '\u{f0b}'
            | '\u{3007}'
            | '\u{30fb}'
    );
    is_letter && !is_ordinal || is_exception
}

/// Apostrophes and hyphens of typographers as those of ASCII: inside a word they are the same.
pub(crate) fn with_ascii_marks(text: &str) -> Cow<'_, str> {
    if !text.contains(|ch| ascii_mark(ch).is_some()) {
        return Cow::Borrowed(text);
    }
    let chars: Vec<char> = text.chars().collect();
    let is_word = |at: Option<usize>| {
        let neighbour = at.and_then(|at| chars.get(at));
        neighbour.is_some_and(|&ch| ch.is_ascii_alphanumeric() || !ch.is_ascii() && is_of_names(ch))
    };
    let mapped = |(at, &ch): (usize, &char)| {
        let is_inside = is_word(at.checked_sub(1)) && is_word(at.checked_add(1));
        ascii_mark(ch).filter(|_| is_inside).unwrap_or(ch)
    };
    Cow::Owned(chars.iter().enumerate().map(mapped).collect())
}

/// The longer dashes and the opening quotes are left out: what an old encoding makes of `û` and `æ` is
/// one of them.
fn ascii_mark(ch: char) -> Option<char> {
    match ch {
        '’' | '\u{2bc}' | '′' | '´' => Some('\''),
        '\u{2010}' | '\u{2011}' | '−' | '\u{fe63}' => Some('-'),
        _ => None,
    }
}

/// `i` instead of `İ`, and of `i` with a dot above it, which is what programs without a Turkish locale
/// make of `İ`. Turkish writes a capital `i` so.
pub(crate) fn with_plain_i(text: &str) -> Cow<'_, str> {
    if !text.contains(['İ', '\u{307}']) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    for ch in text.chars() {
        match ch {
            'İ' => plain.push('i'),
            '\u{307}' if plain.ends_with('i') => {}
            _ => plain.push(ch),
        }
    }
    Cow::Owned(plain)
}

/// Whether the text holds UTF-8 that was read as Windows-1252, such as `Ã¼` for `ü`.
pub(crate) fn is_misread_utf8(text: &str) -> bool {
    if text.is_ascii() {
        return false;
    }
    let is_misread = |bytes: &[u8]| {
        let length = match bytes.first() {
            Some(0xc2..=0xdf) => 2,
            Some(0xe0..=0xef) => 3,
            Some(0xf0..=0xf4) => 4,
            _ => return false,
        };
        bytes.get(..length).is_some_and(|start| std::str::from_utf8(start).is_ok())
    };
    // Characters that Windows-1252 lacks become a byte that no text in UTF-8 has.
    let bytes: Vec<u8> = text.chars().map(|ch| byte_of(ch).unwrap_or(0xff)).collect();
    (0..bytes.len()).any(|start| {
        // A soft hyphen is also what a word processor puts between syllables. It counts only in `Ã­`.
        let is_syllable =
            bytes.get(start + 1) == Some(&0xad) && !matches!(bytes[start], 0xc2 | 0xc3);
        !is_syllable && is_misread(&bytes[start..])
    })
}

fn byte_of(ch: char) -> Option<u8> {
    if let Some(at) = WINDOWS_1252.iter().position(|&other| other == ch) {
        return u8::try_from(0x80 + at).ok();
    }
    u8::try_from(u32::from(ch)).ok().filter(|byte| !matches!(byte, 0x80..=0x9f))
}

fn without_invisible(text: &str, joiners: Joiners) -> Cow<'_, str> {
    match joiners {
        Joiners::Drop => without(text, is_invisible),
        Joiners::Keep => {
            let text = without(text, |ch| is_invisible(ch) && !is_joiner(ch));
            if text.contains(is_joiner) { Cow::Owned(without_stray_joiners(&text)) } else { text }
        }
    }
}

fn without_stray_joiners(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let may_join = |at: Option<usize>| {
        let neighbour = at.and_then(|at| chars.get(at));
        neighbour.is_some_and(|ch| !ch.is_ascii() && !ch.is_whitespace() && !is_joiner(*ch))
    };
    let stays = |at: usize| may_join(at.checked_sub(1)) && may_join(at.checked_add(1));
    let kept = chars.iter().enumerate().filter(|(at, ch)| !is_joiner(**ch) || stays(*at));
    kept.map(|(_, ch)| *ch).collect()
}

/// Trimmed, and in NFC.
fn normalized(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => nfc(text.trim()),
        Cow::Owned(text) => Cow::Owned(nfc(text.trim()).into_owned()),
    }
}

/// Unicode's own list of what is displayed as nothing, and the marks of interlinear annotations, which
/// are not on it.
fn is_invisible(ch: char) -> bool {
    INVISIBLE.contains(ch) || matches!(ch, '\u{fff9}'..='\u{fffb}')
}

fn is_control(ch: char) -> bool {
    ch.is_control() || matches!(ch, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_what_nobody_sees() {
        for (given, want) in [
            (" 42 ", "42"),
            ("\u{feff}42\r\n", "42"),
            ("\u{a0}\u{3000}42\u{2009}", "42"),
            ("4\u{200b}\u{200c}\u{200d}\u{2060}2", "42"),
            ("4\u{ad}2", "42"),
            ("\u{202a}42\u{202c}\u{2066}\u{2069}\u{61c}", "42"),
            ("a\u{fe0f}\u{e0100}", "a"),
            ("\u{fff9}42\u{fffb}", "42"),
            ("\u{200b} 42", "42"),
            ("e\u{301}", "\u{e9}"),
            ("e\u{200b}\u{301}", "\u{e9}"),
            ("Ab c", "Ab c"),
        ] {
            assert_eq!(visible(given, Joiners::Drop).as_deref(), Ok(want), "{given:?}");
        }
    }

    #[test]
    fn keeps_joiners_only_where_they_can_spell_something() {
        let joined = "\u{647}\u{200c}\u{627}";
        assert_eq!(visible(joined, Joiners::Keep).as_deref(), Ok(joined));
        assert_eq!(visible(joined, Joiners::Drop).as_deref(), Ok("\u{647}\u{627}"));
        for stray in ["\u{200c}\u{647}a", "\u{647}\u{200d}a", "\u{647}a\u{200c}"] {
            assert_eq!(visible(stray, Joiners::Keep).as_deref(), Ok("\u{647}a"), "{stray:?}");
        }
    }

    #[test]
    fn sees_text_that_was_read_in_another_encoding() {
        for word in
            ["rené", "müller", "straße", "maría", "łukasz", "ÄÖÜ", "Ángel", "\u{feff}kim", "日本"]
        {
            let misread: String = word.bytes().map(windows_1252).collect();
            assert!(is_misread_utf8(&misread), "{misread:?}");
            assert!(!is_misread_utf8(word), "{word:?}");
        }
        assert!(!is_misread_utf8("stra\u{df}\u{ad}e"));
    }

    fn windows_1252(byte: u8) -> char {
        match byte {
            0x80..=0x9f => WINDOWS_1252[usize::from(byte - 0x80)],
            _ => char::from(byte),
        }
    }

    #[test]
    fn refuses_what_is_no_text() {
        for (given, want) in [
            ("", IdentityError::Empty),
            (" \u{feff}\u{200b}\t", IdentityError::Empty),
            ("4\t2", IdentityError::ControlCharacter),
            ("4\n2", IdentityError::ControlCharacter),
            ("42\0", IdentityError::ControlCharacter),
            ("4\u{85}2", IdentityError::ControlCharacter),
            ("4\u{2028}2", IdentityError::ControlCharacter),
        ] {
            assert_eq!(visible(given, Joiners::Drop), Err(want), "{given:?}");
        }
        let long = "x".repeat(GIVEN_BYTES_MAX + 1);
        assert_eq!(visible(&long, Joiners::Drop), Err(IdentityError::TooLong(GIVEN_BYTES_MAX + 1)));
    }
}
