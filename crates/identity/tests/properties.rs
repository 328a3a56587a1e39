//! What must be true of every text, and of every spelling of one identity.

use consent_ledger_identity::{NamespaceKind, PhoneRegion, canonical};
use proptest::{prelude::*, sample::select};

fn kinds() -> impl Strategy<Value = NamespaceKind> {
    let region = |code: &str| PhoneRegion::parse(code).ok();
    let default_region = select(vec![
        None,
        region("AT"),
        region("DE"),
        region("US"),
        region("GB"),
        region("IT"),
        region("AR"),
        region("BR"),
        region("MX"),
        region("RU"),
        region("JP"),
        region("HU"),
        region("CN"),
    ]);
    prop_oneof![
        any::<bool>().prop_map(|fold_local_part| NamespaceKind::Email { fold_local_part }),
        default_region.prop_map(|default_region| NamespaceKind::Phone { default_region }),
        Just(NamespaceKind::Domain),
        Just(NamespaceKind::Opaque),
    ]
}

/// Texts of the characters that the parsers know, which random texts hardly ever hit.
fn near_misses() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ 'a-cA-C.@\"<>=,;:\\\\()\\[\\]%+-]{0,24}",
        "[ '+0-9()/.;x#,-]{0,24}(;?ext=?[0-9]{0,3})?",
        "\\+?(00)?[0-9]{1,20}",
        "[äÄßẞİıςΣǆǅﬁＫ@.ａ\u{301}\u{307}\u{345}\u{200c}\u{200d}\u{200b}\u{feff}a]{1,12}@[äßａ。.b\u{200c}\u{94d}\u{915}-]{1,8}",
        "(mailto:|tel:|smtp:|'|\"|=\"|<)?[kK]im(@|%40|＠)x\\.example(>|\"|'|;|\\?a=b)?",
    ]
}

/// Changes that leave an identity the same one, for every kind.
fn decorated(text: String) -> impl Strategy<Value = String> {
    let edge =
        select(vec!["", " ", "\u{a0}", "\t", "\u{feff}", "\u{3000}", "\u{200b} ", "\u{202a}"]);
    let invisible =
        select(vec!['\u{200b}', '\u{ad}', '\u{2060}', '\u{200e}', '\u{fe0f}', '\u{feff}']);
    let place = any::<prop::sample::Index>();
    (edge.clone(), edge, proptest::option::of((invisible, place))).prop_map(
        move |(before, after, inside)| {
            let mut chars: Vec<char> = text.chars().collect();
            if let Some((invisible, place)) = inside {
                chars.insert(place.index(chars.len() + 1), invisible);
            }
            format!("{before}{}{after}", chars.into_iter().collect::<String>())
        },
    )
}

fn spellings_of_an_address() -> impl Strategy<Value = (String, String)> {
    let names =
        ["kim", "kim.example", "kim+shop", "rené", "zoë", "o'brien", "νικοσ", "straße", "k_1"];
    let hosts = [
        ("x.example", "x.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
    ];
    (select(names.to_vec()), select(hosts.to_vec()), 0..4, 0..3, 0..9).prop_flat_map(
        |(local, (host, ascii_host), local_form, host_form, wrapping)| {
            let spelled_local = match local_form {
                0 => local.to_owned(),
                1 => local.replace('ß', "ẞ").to_uppercase(),
                2 => local.replace('é', "e\u{301}").replace('ë', "E\u{308}"),
                _ => format!("\"{local}\""),
            };
            let spelled_host = match host_form {
                0 => host.to_owned(),
                1 => ascii_host.to_uppercase(),
                _ => host.replace('ü', "U\u{308}").replace('.', "．"),
            };
            let address = format!("{spelled_local}@{spelled_host}");
            let wrapped = match wrapping {
                0 => format!("<{address}>"),
                1 => format!("Kim Example <{address}>"),
                2 => format!("'{address}"),
                3 => format!("=\"{}\"", address.replace('"', "")),
                4 => format!("mailto:{address}"),
                5 => format!("\"Example, Kim\" <{address}>"),
                6 => format!("{address}."),
                7 => format!("{address};"),
                _ => address,
            };
            (decorated(wrapped), Just(format!("{local}@{ascii_host}")))
        },
    )
}

fn spellings_of_a_number() -> impl Strategy<Value = (String, String)> {
    let prefix =
        select(vec!["+43", "0043", "0", "+43 (0)", "(+43) ", "tel:+43-", "'+43", "'0", "=\"0"]);
    let separator = select(vec!["", " ", "-", "/", ".", "\u{a0}", "\u{2011}"]);
    let digits = prop::collection::vec(0..10_u8, 7);
    (prefix, separator, digits, any::<bool>()).prop_flat_map(
        |(prefix, separator, digits, arabic)| {
            let digit = |zero: u32| {
                move |digit: &u8| char::from_u32(zero + u32::from(*digit)).unwrap_or_default()
            };
            let ascii: String = digits.iter().map(digit(0x30)).collect();
            let spelled: String =
                if arabic { digits.iter().map(digit(0x660)).collect() } else { ascii.clone() };
            let close = if prefix.starts_with('=') { "\"" } else { "" };
            let text = format!("{prefix}664{separator}{spelled}{close}");
            (decorated(text), Just(format!("+43664{ascii}")))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_canonical_form_is_its_own(kind in kinds(), text in near_misses()) {
        if let Ok(form) = canonical(kind, &text) {
            prop_assert_eq!(canonical(kind, &form), Ok(form.clone()), "{:?}: {:?}", kind, text);
        }
    }

    #[test]
    fn what_nobody_sees_changes_nothing(
        kind in kinds(),
        (text, decorated) in near_misses().prop_flat_map(|text| (Just(text.clone()), decorated(text))),
    ) {
        // What stood between two parts that now touch may join them.
        let joins = text.contains(['\u{200c}', '\u{200d}']);
        if let (Ok(form), false) = (canonical(kind, &text), joins) {
            prop_assert_eq!(canonical(kind, &decorated), Ok(form), "{:?}: {:?} {:?}", kind, text, decorated);
        }
    }

    #[test]
    fn every_spelling_of_an_address_is_one_identity((spelled, form) in spellings_of_an_address()) {
        let kind = NamespaceKind::Email { fold_local_part: true };
        prop_assert_eq!(canonical(kind, &spelled), Ok(form), "{:?}", spelled);
    }

    #[test]
    fn every_spelling_of_a_number_is_one_identity((spelled, form) in spellings_of_a_number()) {
        let kind = NamespaceKind::Phone { default_region: PhoneRegion::parse("AT").ok() };
        prop_assert_eq!(canonical(kind, &spelled), Ok(form), "{:?}", spelled);
    }
}
