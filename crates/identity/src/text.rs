//! What is done to every text: invisible characters go, edges are trimmed, equivalent characters become
//! the same ones (NFC).

use std::borrow::Cow;

use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::{
    CodePointSetData, CodePointSetDataBorrowed, props::DefaultIgnorableCodePoint,
};

use crate::{GIVEN_BYTES_MAX, IdentityError};

const NFC: ComposingNormalizerBorrowed<'static> = ComposingNormalizerBorrowed::new_nfc();
const INVISIBLE: CodePointSetDataBorrowed<'static> =
    CodePointSetData::new::<DefaultIgnorableCodePoint>();

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
