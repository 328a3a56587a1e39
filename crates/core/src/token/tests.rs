//! Round trips, and every way in which a token can be refused.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64, Engine as _};
use ed25519_dalek::Signer as _;
use proptest::prelude::*;

use super::*;

const SUBJECT: &str = "user:42";
const NOW: Millis = Millis(1_793_000_000_500);

fn signer() -> Signer {
    Signer::from_seed(&[7; 32])
}

fn statement() -> Statement {
    Statement {
        issuer: "consent.example.org/eu".to_owned(),
        lifetime: Lifetime::new(NOW, None, Duration::from_secs(900)),
        subject: SubjectHash::new(SUBJECT, *b"0123456789abcdef"),
        purpose: "marketing.newsletter".to_owned(),
        channel: "email".to_owned(),
        region: Some(Region::parse("DE").unwrap()),
        data_categories: vec!["user.contact.email".to_owned()],
        effect: Effect::Allow,
        reason: Reason::Granted,
        grounds: "opaque".to_owned(),
        has_obligations: true,
        obligations_ignored: false,
    }
}

fn about(subject: &str) -> Demand<'_> {
    Demand { subject: Some(subject), ..Demand::default() }
}

fn verify(token: &str) -> Result<Statement, TokenError> {
    super::verify(token, &signer().public_key(), &about(SUBJECT), NOW)
}

/// A token with other bytes for header or claims, signed as it should be.
fn forged(header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
    let signature = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).sign(signed.as_bytes());
    format!("{signed}.{}", BASE64.encode(signature.to_bytes()))
}

fn part(token: &str, part: usize) -> String {
    String::from_utf8(BASE64.decode(token.split('.').nth(part).unwrap()).unwrap()).unwrap()
}

#[test]
fn a_token_is_these_bytes() {
    let token = signer().sign(&statement());
    let id = signer().public_key().id();
    assert_eq!(
        part(&token, 0),
        format!(r#"{{"alg":"EdDSA","typ":"consent-decision+jwt","kid":"{id}"}}"#)
    );
    assert_eq!(
        part(&token, 1),
        "{\"iss\":\"consent.example.org/eu\",\"iat\":1793000000,\"exp\":1793000900,\
         \"sub\":\"sha256:zUnuuDQk03LGigeH5-bZRMrm0f0-AT_R8fkoOu8GGic\",\"salt\":\"MDEyMzQ1Njc4OWFiY2RlZg\",\
         \"purpose\":\"marketing.newsletter\",\"channel\":\"email\",\"region\":\"DE\",\
         \"data_categories\":[\"user.contact.email\"],\"effect\":\"ALLOW\",\"reason\":\"GRANTED\",\
         \"grounds\":\"opaque\",\"has_obligations\":true}"
    );
    assert_eq!(token, signer().sign(&statement()), "nothing about it is left to chance");
    assert!(!token.contains(SUBJECT) && !part(&token, 1).contains("42\""));
}

/// RFC 8037, appendices A.1 to A.3.
#[test]
fn keys_are_named_and_written_as_the_standard_has_it() {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let key = PublicKey::parse(x).unwrap();
    assert_eq!(key.id(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    let jwk = key.to_jwk();
    assert!(jwk.starts_with(&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":""#)));
    let standard = x.replace('-', "+").replace('_', "/") + "=";
    for text in [jwk.as_str(), &format!("\n{jwk}\n"), &standard] {
        assert_eq!(PublicKey::parse(text), Ok(key.clone()), "{text}");
    }
    let seed = BASE64.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
    let signer = Signer::from_seed(seed.as_slice().try_into().unwrap());
    assert_eq!(signer.public_key(), key);
    assert_eq!(
        format!("{signer:?}"),
        "Signer(Signer(kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k))"
    );
}

#[test]
fn texts_that_are_not_keys_are_refused() {
    let ec = r#"{"kty":"EC","crv":"P-256","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    for (text, error) in [
        ("", KeyError::Form),
        ("{}", KeyError::Form),
        ("AAAA", KeyError::Form),
        (ec, KeyError::Kind),
        // The neutral point: everything that one likes has a signature under it.
        ("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", KeyError::Point),
        ("AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", KeyError::Point),
    ] {
        assert_eq!(PublicKey::parse(text), Err(error), "{text}");
    }
}

#[test]
fn a_token_never_outlives_its_decision() {
    let validity = Duration::from_millis(10_999);
    for (decided_at, valid_until, issued_at_s, expires_at_s) in [
        (5_000, None, 5, 15),
        (5_999, None, 5, 15),
        (5_999, Some(15_000), 5, 15),
        (5_999, Some(14_999), 5, 14),
        (5_000, Some(6_000), 5, 6),
        // Less than its first second: at its end from the start.
        (5_000, Some(5_999), 5, 5),
        (5_000, Some(5_000), 5, 5),
        (5_000, Some(1_000), 5, 5),
        (-1, Some(500), -1, 0),
        (i64::MAX, None, i64::MAX / 1_000, i64::MAX / 1_000 + 10),
    ] {
        let lifetime = Lifetime::new(Millis(decided_at), valid_until.map(Millis), validity);
        assert_eq!(
            lifetime,
            Lifetime { issued_at_s, expires_at_s },
            "{decided_at} {valid_until:?}"
        );
    }
}

#[test]
fn a_token_is_good_from_its_first_second_to_the_one_before_its_last() {
    let token = signer().sign(&statement());
    let at = |ms: i64| {
        super::verify(&token, &signer().public_key(), &Demand::default(), Millis(ms)).map(|_| ())
    };
    let (from, since) = (Millis(1_793_000_000_000), Millis(1_793_000_900_000));
    assert_eq!(at(from.0 - 60_001), Err(TokenError::NotYetValid { from }));
    assert_eq!(at(from.0 - 60_000), Ok(()), "clocks differ");
    assert_eq!(at(from.0), Ok(()));
    assert_eq!(at(since.0 - 1), Ok(()));
    assert_eq!(at(since.0), Err(TokenError::Expired { since }));
    assert_eq!(at(i64::MAX), Err(TokenError::Expired { since }));
    assert_eq!(at(i64::MIN), Err(TokenError::NotYetValid { from }));
    let lifetime = Lifetime { issued_at_s: 5, expires_at_s: 5 };
    let dead = signer().sign(&Statement { lifetime, ..statement() });
    for ms in [4_999, 5_000] {
        let verified = super::verify(&dead, &signer().public_key(), &Demand::default(), Millis(ms));
        assert_eq!(verified.is_ok(), ms < 5_000, "{ms}");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let token = signer().sign(&statement());
    assert_eq!(verify(&token), Ok(statement()));
    for at in 0..token.len() {
        for bit in 0..8 {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            // Keys are texts, so only texts are tried.
            let Ok(flipped) = String::from_utf8(bytes) else { continue };
            assert!(verify(&flipped).is_err(), "byte {at}, bit {bit}: {flipped}");
        }
    }
    for cut in 0..token.len() {
        assert!(verify(&token[..cut]).is_err() && verify(&token[cut + 1..]).is_err(), "{cut}");
    }
}

#[test]
fn other_keys_and_other_subjects_are_refused() {
    let token = signer().sign(&statement());
    let other = Signer::from_seed(&[8; 32]).public_key();
    let (named, given) = (signer().public_key().id(), other.id());
    assert_eq!(
        super::verify(&token, &other, &Demand::default(), NOW),
        Err(JwsError::Key { named, given }.into())
    );
    let key = signer().public_key();
    for spelling in ["user:42", "user:42 ", "User:42", "\u{feff}user: 42"] {
        assert!(super::verify(&token, &key, &about(spelling), NOW).is_ok(), "{spelling}");
    }
    for subject in ["user:43", "", "users:42", "user:4 2"] {
        assert_eq!(
            super::verify(&token, &key, &about(subject), NOW),
            Err(TokenError::Subject),
            "{subject}"
        );
    }
    // A token of another key that claims to be of this one.
    let header = part(&token, 0);
    let claims = part(&Signer::from_seed(&[8; 32]).sign(&statement()), 1);
    let mut stolen = Signer::from_seed(&[8; 32]).sign(&statement());
    stolen =
        stolen.replacen(stolen.split('.').next().unwrap(), token.split('.').next().unwrap(), 1);
    assert_eq!(verify(&stolen), Err(JwsError::Signature.into()));
    assert_eq!(verify(&forged(&header, &claims)), Ok(statement()), "the forge works");
}

#[test]
fn a_demand_that_the_token_does_not_answer_is_not_met() {
    let region = |text| Some(Region::parse(text).unwrap());
    let of = |region, categories: &[&str]| Statement {
        region,
        data_categories: categories.iter().map(|category| (*category).to_owned()).collect(),
        ..statement()
    };
    let verify = |statement: &Statement, demand: Demand<'_>| {
        let token = signer().sign(statement);
        super::verify(&token, &signer().public_key(), &demand, NOW).map(drop)
    };
    let in_region = |text| Demand { region: region(text), ..Demand::default() };
    for (token, demanded, met) in [
        (region("DE"), "DE", true),
        (region("US"), "DE", false),
        (region("DE"), "DE-BY", false),
        (region("DE-BY"), "DE", false),
        (None, "DE", false),
    ] {
        let refused = Err(TokenError::Region { found: token });
        let want = if met { Ok(()) } else { refused };
        assert_eq!(verify(&of(token, &[]), in_region(demanded)), want, "{token:?} {demanded}");
        assert_eq!(verify(&of(token, &[]), Demand::default()), Ok(()));
    }
    for (token, demanded, missing) in [
        (&["user.contact"][..], &["user.contact"][..], None),
        (&["user.contact"], &["user.contact.email"], None),
        (&["user.contact.email"], &["user.contact"], Some("user.contact")),
        (&["user.contact"], &["user.contacts"], Some("user.contacts")),
        (&["user.contact", "user.age"], &["user.age", "user.contact.email"], None),
        (&["user.contact"], &["user.contact.email", "user.age"], Some("user.age")),
        (&[], &["user.contact"], Some("user.contact")),
        (&[], &[], None),
    ] {
        let demand = Demand { data_categories: demanded, ..Demand::default() };
        let want = missing.map_or(Ok(()), |missing: &str| {
            Err(TokenError::DataCategory { missing: missing.to_owned() })
        });
        assert_eq!(verify(&of(None, token), demand), want, "{token:?} {demanded:?}");
    }
    let purpose = Demand { purpose: Some("marketing"), ..Demand::default() };
    let channel = Demand { channel: Some("sms"), ..Demand::default() };
    let found = "marketing.newsletter".to_owned();
    assert_eq!(verify(&statement(), purpose), Err(TokenError::Purpose { found }));
    let found = "email".to_owned();
    assert_eq!(verify(&statement(), channel), Err(TokenError::Channel { found }));
}

#[test]
fn headers_are_taken_as_they_should_be_or_not_at_all() {
    let good = signer().sign(&statement());
    let (header, claims) = (part(&good, 0), part(&good, 1));
    let malformed = JwsError::Malformed("its header");
    for (from, to, error) in [
        ("EdDSA", "none", JwsError::Algorithm),
        ("EdDSA", "HS256", JwsError::Algorithm),
        ("EdDSA", "eddsa", JwsError::Algorithm),
        ("consent-decision+jwt", "JWT", JwsError::Type),
        (r#""alg":"EdDSA","#, "", malformed.clone()),
        (r#""alg":"EdDSA","#, r#""alg":"EdDSA","alg":"none","#, malformed.clone()),
        (r#""alg":"EdDSA","#, r#""alg":"EdDSA","crit":["b64"],"b64":false,"#, malformed.clone()),
        (r#""alg":"EdDSA","#, r#""alg":"EdDSA","jwk":{},"#, malformed.clone()),
        ("{", "[", malformed),
    ] {
        assert_eq!(
            verify(&forged(&header.replacen(from, to, 1), &claims)),
            Err(error.into()),
            "{to}"
        );
    }
    let unsigned = good.rsplit_once('.').unwrap().0;
    assert_eq!(verify(&format!("{unsigned}.")), Err(JwsError::Malformed("its signature").into()));
    for (text, parts) in [("", 1), ("a", 1), ("a.b", 2), (unsigned, 2), (&format!("{good}.x"), 4)] {
        assert!(
            matches!(verify(text), Err(TokenError::Jws(JwsError::Malformed(_)))),
            "{parts} parts"
        );
    }
    let long = format!("{good}{}", "A".repeat(TOKEN_BYTES_MAX));
    assert_eq!(verify(&long), Err(JwsError::Malformed("it is too long").into()));
}

#[test]
fn claims_that_contradict_or_repeat_themselves_are_refused() {
    let good = signer().sign(&statement());
    let (header, claims) = (part(&good, 0), part(&good, 1));
    for (from, to) in [
        ("ALLOW", "DENY"),
        ("GRANTED", "GRANTED_BY_MAGIC"),
        ("GRANTED", "WITHDRAWN"),
        ("\"DE\"", "\"XX\""),
        ("sha256:", "sha512:"),
        ("\"salt\":\"MDEy", "\"salt\":\""),
        (r#""exp":1793000900"#, r#""exp":"1793000900""#),
        (r#""exp":1793000900"#, r#""exp":1793000900,"exp":1893000900"#),
        (r#""exp":1793000900,"#, ""),
        (r#""grounds":"opaque""#, r#""grounds":1"#),
    ] {
        let changed = claims.replacen(from, to, 1);
        assert_ne!(changed, claims, "{from}");
        let refused = verify(&forged(&header, &changed));
        assert!(matches!(refused, Err(TokenError::Claims(_))), "{to}: {refused:?}");
    }
    let more = claims.replacen('{', r#"{"later":1,"#, 1);
    assert_eq!(verify(&forged(&header, &more)), Ok(statement()), "a later version may say more");
}

fn any_statement() -> impl Strategy<Value = (Statement, String)> {
    let subject = "[a-z]{1,5}:\\PC{1,20}";
    let times = (0..=i64::MAX / 2_000, 1..100_000i64);
    let categories = prop::collection::vec("[a-z.]{1,20}", 0..4);
    let options = (
        any::<prop::sample::Index>(),
        "[A-Za-z0-9_-]{0,64}",
        any::<bool>(),
        prop::option::of(Just("US-CA")),
        (any::<bool>(), any::<bool>()),
    );
    (subject, any::<[u8; 16]>(), times, "\\PC{0,20}", categories, options).prop_map(
        |(subject, salt, (from, span), text, data_categories, options)| {
            let (reason, grounds, has_obligations, region, now) = options;
            let reason = *reason.get(&Reason::ALL);
            let (is_later, obligations_ignored) = now;
            let is_later = is_later && reason.effect() == Effect::Allow;
            let statement = Statement {
                issuer: text.clone(),
                lifetime: Lifetime { issued_at_s: from, expires_at_s: from + span },
                subject: SubjectHash::new(&subject, salt),
                purpose: text.clone(),
                channel: text,
                region: region.map(|region| Region::parse(region).unwrap()),
                data_categories,
                effect: if is_later { Effect::NotNow } else { reason.effect() },
                reason,
                grounds,
                has_obligations,
                obligations_ignored,
            };
            (statement, subject)
        },
    )
}

proptest! {
    #[test]
    fn a_signed_statement_verifies((statement, subject) in any_statement(), seed: [u8; 32]) {
        let signer = Signer::from_seed(&seed);
        let token = signer.sign(&statement);
        let key = PublicKey::parse(&signer.public_key().to_jwk()).unwrap();
        let now = Millis(statement.lifetime.issued_at_s * 1_000);
        prop_assert_eq!(super::verify(&token, &key, &about(&subject), now), Ok(statement));
    }

    #[test]
    fn arbitrary_text_is_refused_without_panic(text in "\\PC{0,200}") {
        prop_assert!(verify(&text).is_err());
        let _ = PublicKey::parse(&text);
    }
}
