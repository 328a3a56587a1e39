//! The answers of one `VERSION`, whatever is compiled in.
//!
//! The crates below follow Unicode and the world's numbering plans. If one of them gives another answer
//! than the recorded one, stored identities would no longer be found. Raise `VERSION` together with the
//! digest here; a ledger of an older version then has its identities brought into the new form.

use consent_ledger_identity::{NamespaceKind, PhoneRegion, VERSION, canonical};

/// The answers that belong to a version.
const ANSWERS: (u32, &str) =
    (1, "88bc56eeb05c6259f32c861d5a556a0e84a9f112824b624b040ba4ce58c3d684");

#[test]
fn the_answers_of_this_version_are_the_recorded_ones() {
    let mut answers = blake3::Hasher::new();
    let mut add = |kind: NamespaceKind, text: &str| {
        match canonical(kind, text) {
            Ok(form) => answers.update(form.as_bytes()),
            Err(_) => answers.update(&[0xff]),
        };
        answers.update(&[0]);
    };
    characters(&mut add);
    numbers(&mut add);
    assert_eq!((VERSION, answers.finalize().to_hex().as_str()), ANSWERS);
}

/// Characters of Unicode, each where it can make a difference.
fn characters(add: &mut impl FnMut(NamespaceKind, &str)) {
    let email = NamespaceKind::Email { fold_local_part: true };
    let phone = NamespaceKind::Phone { default_region: None };
    let all: Vec<char> = ('\0'..=char::MAX).filter(|ch| !ch.is_control()).collect();
    for some in all.chunks(128) {
        let apart: String = some.iter().flat_map(|&ch| ['a', ch]).collect();
        add(NamespaceKind::Opaque, &apart);
    }
    for &ch in &all {
        let has_cases = !ch.to_lowercase().eq([ch]) || !ch.to_uppercase().eq([ch]);
        if has_cases || ch < '\u{2100}' {
            add(email, &format!("a{ch}@x.example"));
        }
        let is_cjk =
            matches!(ch, '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7ff}' | '\u{20000}'..);
        if ch.is_alphanumeric() && !is_cjk {
            add(NamespaceKind::Domain, &format!("a{ch}.example"));
        }
        if ch.is_numeric() {
            add(phone, &format!("+4366{ch}1234567"));
        }
    }
}

/// Numbers of every region: with every beginning of two digits, and of every length.
fn numbers(add: &mut impl FnMut(NamespaceKind, &str)) {
    for region in regions() {
        let kind = NamespaceKind::Phone { default_region: Some(region) };
        for start in 0..100 {
            for length in [8, 10] {
                add(kind, &format!("{start:02}{}", &"2718281828"[..length - 2]));
            }
        }
        for length in 1..=16 {
            add(kind, &"2718281828459045"[..length]);
        }
    }
    let kind = NamespaceKind::Phone { default_region: None };
    for code in 1..1_000 {
        for length in 4..=12 {
            add(kind, &format!("+{code}{}", &"271828182845"[..length]));
        }
    }
}

fn regions() -> impl Iterator<Item = PhoneRegion> {
    let letters = || 'A'..='Z';
    letters().flat_map(move |first| {
        letters().filter_map(move |second| PhoneRegion::parse(&format!("{first}{second}")).ok())
    })
}
