//! Every way in which a request can be wrong, and round trips of what is right.

use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message;

use super::{scalar::*, *};
use crate::{
    domain::{
        Action, Actor, Catalog, EventKind, EvidenceError, IdentityError, Key, KeyError, LegalBasis,
        Millis, Namespace, NamespaceKind, Obligation, Outcome, Purpose, PurposeVersion, Reason,
        Region, ScopeKeys, Subject, SubjectError,
    },
    messages::{self, effect},
    node::{Act, LikelyCause, Linking, PurposeDraft},
    proto,
};

/// A catalogue with the namespaces of these tests.
fn names() -> Catalog {
    let mut catalog = Catalog::default();
    let namespaces = [
        ("user", NamespaceKind::Opaque),
        ("device", NamespaceKind::Opaque),
        ("email", NamespaceKind::Email { fold_local_part: true }),
    ];
    for (key, kind) in namespaces {
        let (key, title) = (Key::parse(key).unwrap(), String::new());
        catalog.put_namespace(Namespace { key, title, kind, form_version: 1 });
    }
    catalog
}

fn act(request: proto::RecordConsentRequest) -> Result<(Act, LeftOut), Invalid> {
    super::act(&names(), request)
}

fn check(request: &proto::CheckRequest) -> Result<(Option<Subject>, Option<Region>), Invalid> {
    super::check(&names(), request, |_| false)
}

fn history(request: &proto::ListHistoryRequest) -> Result<(Subject, usize), Invalid> {
    super::history(&names(), request)
}

fn link(request: proto::LinkSubjectsRequest) -> Result<Linking, Invalid> {
    super::link(&names(), request)
}

fn at(field: &str, problem: Problem) -> Invalid {
    Invalid { field: field.to_owned(), problem }
}

fn grant(purpose: &str, channel: &str) -> proto::Change {
    change(proto::Action::Grant, purpose, channel)
}

fn change(action: proto::Action, purpose: &str, channel: &str) -> proto::Change {
    let scope = proto::Scope { purpose: purpose.to_owned(), channel: channel.to_owned() };
    proto::Change { action: action.into(), scope: Some(scope), ..Default::default() }
}

fn good_act() -> proto::RecordConsentRequest {
    proto::RecordConsentRequest {
        subject: "user:42".to_owned(),
        actor: proto::Actor::Subject.into(),
        changes: vec![
            grant("marketing.newsletter", "email"),
            change(proto::Action::Object, "*", "phone"),
        ],
        effective_at: Some(prost_types::Timestamp { seconds: 1, nanos: 999_999_999 }),
        evidence: Some(proto::Evidence { touchpoint: "web".to_owned(), ..Default::default() }),
        idempotency_key: "k-1".to_owned(),
        ..Default::default()
    }
}

fn moment_of(seconds: i64, nanos: i32) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos })
}

#[test]
fn reasons_and_effects_have_the_names_of_the_protocol() {
    for reason in Reason::ALL {
        let name = proto::Reason::from(reason).as_str_name();
        assert_eq!(name, format!("REASON_{}", reason.name()));
        let effect = effect(reason.effect()).as_str_name();
        assert_eq!(effect, format!("EFFECT_{}", reason.effect().name()));
    }
    let known = (1..).take_while(|&number| proto::Reason::try_from(number).is_ok()).count();
    assert_eq!(known, Reason::ALL.len());
}

#[test]
fn a_check_of_an_unknown_namespace_is_a_question_and_an_act_is_refused() {
    let request = proto::CheckRequest {
        subject: "crm:42".to_owned(),
        purpose: "news".to_owned(),
        channel: "email".to_owned(),
        ..proto::CheckRequest::default()
    };
    assert_eq!(check(&request).map(|(subject, _)| subject), Ok(None));
    let unknown = SubjectError::UnknownNamespace(Key::parse("crm").unwrap());
    let refused = act(proto::RecordConsentRequest { subject: request.subject, ..good_act() });
    assert_eq!(refused.unwrap_err(), at("subject", unknown.into()));
}

#[test]
fn an_act_names_the_canonical_form_and_keeps_what_was_given() {
    let spelled = |text: &str| {
        let act = act(proto::RecordConsentRequest { subject: text.to_owned(), ..good_act() });
        let (act, _) = act.unwrap();
        (act.subject.as_str().to_owned(), act.evidence.subject_given)
    };
    let kim = "email:kim@x.example".to_owned();
    assert_eq!(spelled(&kim), (kim.clone(), String::new()));
    assert_eq!(spelled("Email:<Kim@X.example>"), (kim, "Email:<Kim@X.example>".to_owned()));
}

#[test]
fn an_act_is_parsed_whole() {
    let request = good_act();
    let (act, left_out) = act(request.clone()).unwrap();
    assert!(left_out.warnings(&[]).is_empty());
    assert_eq!(act.subject.as_str(), "user:42");
    assert_eq!(act.actor, Actor::Subject);
    assert_eq!(act.effective_at, Some(Millis(1_999)), "finer than a millisecond is cut off");
    assert_eq!(act.evidence.touchpoint, "web");
    assert_eq!(act.changes[0].action, Action::Grant);
    assert_eq!(act.changes[0].scope.to_string(), "marketing.newsletter:email");
    assert_eq!(act.changes[0].purpose_version, None);
    assert_eq!(act.changes[1].scope.to_string(), "*:phone");
    let idempotency = act.idempotency.unwrap();
    assert_eq!(idempotency.key, "k-1");
    assert_eq!(idempotency.request, request.encode_to_vec());
}

#[test]
fn an_act_without_a_key_carries_no_request() {
    let request = proto::RecordConsentRequest { idempotency_key: String::new(), ..good_act() };
    assert!(act(request).unwrap().0.idempotency.is_none());
}

type Spoil<T> = Box<dyn Fn(&mut T)>;

/// Every way in which an act can be wrong.
fn bad_acts() -> Vec<(Spoil<proto::RecordConsentRequest>, Invalid)> {
    fn row(
        spoil: impl Fn(&mut proto::RecordConsentRequest) + 'static,
        field: &str,
        problem: Problem,
    ) -> (Spoil<proto::RecordConsentRequest>, Invalid) {
        (Box::new(spoil), at(field, problem))
    }
    fn evidence_row(
        spoil: impl Fn(&mut proto::Evidence) + 'static,
        part: &'static str,
        limit: usize,
        got: usize,
    ) -> (Spoil<proto::RecordConsentRequest>, Invalid) {
        row(
            move |act| spoil(act.evidence.get_or_insert_default()),
            &format!("evidence.{part}"),
            EvidenceError::TooLong { part, limit, got }.into(),
        )
    }
    let long = |length| "x".repeat(length);
    vec![
        row(|act| act.subject.clear(), "subject", SubjectError::Missing.into()),
        row(|act| act.subject = "user".into(), "subject", SubjectError::NotNamespaced.into()),
        row(|act| act.subject = "us er:4".into(), "subject", SubjectError::Namespace.into()),
        row(
            |act| act.subject = "user:4\u{7f}".into(),
            "subject",
            SubjectError::Identity(IdentityError::ControlCharacter).into(),
        ),
        row(
            move |act| act.subject = format!("user:{}", "x".repeat(257)),
            "subject",
            SubjectError::TooLong(257).into(),
        ),
        row(|act| act.actor = 0, "actor", Problem::Required),
        row(|act| act.actor = 7, "actor", Problem::UnknownValue(7)),
        row(|act| act.actor = -1, "actor", Problem::UnknownValue(-1)),
        row(|act| act.changes.clear(), "changes", Problem::Required),
        row(
            |act| {
                act.changes = (0..101).map(|i| grant(&format!("p{i}"), "email")).collect();
            },
            "changes",
            Problem::TooMany { limit: 100, got: 101 },
        ),
        row(|act| act.changes[1].action = 0, "changes[1].action", Problem::Required),
        row(|act| act.changes[1].action = 99, "changes[1].action", Problem::UnknownValue(99)),
        row(|act| act.changes[0].scope = None, "changes[0].scope", Problem::Required),
        row(
            |act| act.changes[0] = grant("", "email"),
            "changes[0].scope.purpose",
            KeyError::Missing.into(),
        ),
        row(
            |act| act.changes[0] = grant("a", "E Mail"),
            "changes[0].scope.channel",
            KeyError::Characters.into(),
        ),
        row(
            move |act| act.changes[0] = grant(&long(129), "email"),
            "changes[0].scope.purpose",
            KeyError::TooLong(129).into(),
        ),
        row(
            |act| act.changes[0] = grant("*", "email"),
            "changes[0].scope.purpose",
            Problem::Wildcard,
        ),
        row(|act| act.changes[0] = grant("a", "*"), "changes[0].scope.channel", Problem::Wildcard),
        row(
            |act| act.changes.push(act.changes[0].clone()),
            "changes[2].scope",
            Problem::SameScope { first: 0 },
        ),
        row(
            |act| act.changes[1].purpose_version = 1,
            "changes[1].purpose_version",
            Problem::OnlyForGrants,
        ),
        row(
            |act| act.changes[1].expires_at = moment_of(1, 0),
            "changes[1].expires_at",
            Problem::OnlyForGrants,
        ),
        row(
            |act| act.changes[0].expires_at = moment_of(0, 1_000_000_000),
            "changes[0].expires_at",
            Problem::Timestamp,
        ),
        row(|act| act.effective_at = moment_of(0, -1), "effective_at", Problem::Timestamp),
        row(
            |act| act.effective_at = moment_of(253_402_300_800, 0),
            "effective_at",
            Problem::Timestamp,
        ),
        row(
            |act| act.effective_at = moment_of(-62_167_219_201, 0),
            "effective_at",
            Problem::Timestamp,
        ),
        row(
            |act| act.effective_at = moment_of(-62_135_596_801, 0),
            "effective_at",
            Problem::TimestampOf(LikelyCause::EmptyTime),
        ),
        row(|act| act.effective_at = moment_of(i64::MAX, 0), "effective_at", Problem::Timestamp),
        row(
            |act| act.idempotency_key = "x".repeat(257),
            "idempotency_key",
            Problem::TooLong { limit: 256, got: 257 },
        ),
        row(
            |act| act.idempotency_key = "a\nb".into(),
            "idempotency_key",
            Problem::ControlCharacter,
        ),
        evidence_row(|e| e.touchpoint = "x".repeat(257), "touchpoint", 256, 257),
        evidence_row(|e| e.notice_hash = vec![0; 65], "notice_hash", 64, 65),
        evidence_row(|e| e.user_agent = "x".repeat(1_025), "user_agent", 1_024, 1_025),
        evidence_row(
            |e| {
                e.attributes.insert("k".into(), "x".repeat(1_025));
            },
            "attributes",
            1_024,
            1_025,
        ),
        row(
            |act| {
                let attributes = (0..33).map(|i| (format!("k{i}"), String::new())).collect();
                act.evidence = Some(proto::Evidence { attributes, ..Default::default() });
            },
            "evidence.attributes",
            EvidenceError::TooManyAttributes(33).into(),
        ),
        row(
            |act| {
                let attributes = [(String::new(), "v".to_owned())].into();
                act.evidence = Some(proto::Evidence { attributes, ..Default::default() });
            },
            "evidence.attributes",
            EvidenceError::EmptyAttributeKey.into(),
        ),
    ]
}

#[test]
fn every_way_in_which_an_act_can_be_wrong_has_a_name_and_a_place() {
    for (spoil, want) in bad_acts() {
        let mut request = good_act();
        spoil(&mut request);
        let is_needed = want.field.starts_with("changes[1]")
            || ["subject", "actor", "changes"].contains(&want.field.as_str());
        if !is_needed {
            let (act, left_out) = act(request.clone()).unwrap();
            assert_eq!(act.changes.len(), 1, "{want}");
            assert_eq!(act.changes[0].scope.to_string(), "*:phone", "{want}");
            assert_eq!(left_out.warnings(&[])[0].field, want.field);
            // Without the stop, the act is refused.
            request.changes.retain(|change| change.action() == proto::Action::Grant);
            request.changes.dedup_by_key(|change| change.action);
        }
        match want.problem {
            Problem::SameScope { .. } => {}
            _ => assert_eq!(act(request).unwrap_err(), want),
        }
    }
}

#[test]
fn a_stop_counts_more_than_a_grant_and_the_stop_that_says_more_counts_most() {
    use proto::Action::{Grant, Object, Refuse, Withdraw};
    for (first, second, want) in [
        (Withdraw, Withdraw, Action::Withdraw),
        (Refuse, Object, Action::Object),
        (Object, Withdraw, Action::Object),
        (Grant, Withdraw, Action::Withdraw),
        (Refuse, Grant, Action::Refuse),
    ] {
        let mut request = good_act();
        request.changes = [first, second].map(|action| change(action, "a", "email")).into();
        let (act, left_out) = act(request.clone()).unwrap();
        assert_eq!(act.changes.len(), 1);
        assert_eq!(act.changes[0].action, want);
        assert_eq!(left_out.warnings(&[])[0].field, "changes[1].scope");
    }
    let mut request = good_act();
    request.changes = vec![grant("a", "email"), grant("a", "email")];
    let want = at("changes[1].scope", Problem::SameScope { first: 0 });
    assert_eq!(act(request).unwrap_err(), want);
}

#[test]
fn a_language_in_the_form_of_posix_is_accepted() {
    for (given, want) in [
        ("de_AT", Some("de-AT")),
        ("de_AT.UTF-8", Some("de-AT")),
        ("sr_RS@latin", Some("sr-RS")),
        ("de-AT", Some("de-AT")),
        ("german (austria)", None),
        ("C.UTF-8", None),
    ] {
        let mut request = good_act();
        request.changes.truncate(1);
        let language = given.to_owned();
        request.preferences =
            Some(proto::ContactPreferences { language: language.clone(), ..Default::default() });
        request.evidence = Some(proto::Evidence { language, ..Default::default() });
        match act(request) {
            Ok((act, _)) => {
                assert_eq!(act.contact.language, crate::domain::Said::Value(want.unwrap().into()));
                assert_eq!(Some(act.evidence.language.as_str()), want);
            }
            Err(invalid) => {
                assert_eq!((want, invalid.field.as_str()), (None, "preferences.language"));
            }
        }
    }
}

#[test]
fn what_is_wrong_beside_a_stop_is_kept_as_bounded_text() {
    let mut request = good_act();
    let evidence = request.evidence.get_or_insert_default();
    evidence.touchpoint = "t\u{e9}".repeat(200);
    evidence.notice_hash = vec![0xab; 65];
    evidence.attributes = (0..50).map(|n| (format!("k{n:02}"), "v".repeat(900))).collect();
    request.preferences =
        Some(proto::ContactPreferences { language: "??".to_owned(), ..Default::default() });
    let (act, left_out) = act(request).unwrap();
    let kept = &act.evidence.unreadable;
    let paths: Vec<_> = kept.keys().map(String::as_str).collect();
    let want = [
        "evidence.attributes",
        "evidence.notice_hash",
        "evidence.touchpoint",
        "preferences.language",
    ];
    assert_eq!(paths, want);
    assert_eq!(kept["preferences.language"], "??");
    assert!(kept["evidence.notice_hash"].starts_with("abab"));
    assert!(kept["evidence.attributes"].starts_with("k32=vv"));
    assert!(kept.values().all(|text| text.len() <= 256), "{kept:?}");
    assert_eq!((act.evidence.attributes.len(), act.contact.is_empty()), (32, true));
    assert_eq!(left_out.warnings(&[]).len(), 4);
    assert!(act.evidence.touchpoint.is_empty() && act.evidence.within_limits().1.is_empty());
}

#[test]
fn a_stop_whose_entry_would_be_too_large_loses_its_attributes() {
    let mut request = good_act();
    let key = |n: usize| format!("{n:03}{}", "x".repeat(125));
    let wide = |n| change(proto::Action::Withdraw, &key(n), &key(n));
    request.changes = (0..100).map(wide).collect();
    let attributes = (0..32).map(|n| (format!("{n:064}"), "v".repeat(1_024))).collect();
    request.evidence = Some(proto::Evidence { attributes, ..Default::default() });
    let (act, left_out) = act(request).unwrap();
    assert_eq!((act.changes.len(), act.evidence.attributes.len()), (100, 0));
    assert_eq!(left_out.warnings(&[]).last().unwrap().field, "evidence.attributes");
}

#[test]
fn stops_of_every_width_are_different_scopes() {
    let mut request = good_act();
    request.changes = [("*", "*"), ("*", "email"), ("a", "*"), ("a", "email")]
        .map(|(purpose, channel)| change(proto::Action::Withdraw, purpose, channel))
        .into();
    assert_eq!(act(request).unwrap().0.changes.len(), 4);
}

#[test]
fn problems_never_repeat_what_was_given() {
    for (spoil, _) in bad_acts() {
        let mut request = good_act();
        request.subject = "user:secret".to_owned();
        spoil(&mut request);
        if let Err(invalid) = act(request) {
            assert!(!invalid.to_string().contains("secret"), "{invalid}");
        }
    }
}

#[test]
fn the_same_request_in_another_order_on_the_wire_has_the_same_encoding() {
    // Evidence (5) before subject (1), and its attributes (9) against their order.
    let attribute = |key: &str| {
        let mut map = proto::Evidence::default();
        map.attributes.insert(key.to_owned(), "v".to_owned());
        map.encode_to_vec()
    };
    let evidence = [attribute("b"), attribute("a")].concat();
    let mut wire = vec![5 << 3 | 2, u8::try_from(evidence.len()).unwrap()];
    wire.extend(evidence);
    wire.extend(proto::RecordConsentRequest { evidence: None, ..good_act() }.encode_to_vec());
    let request = proto::RecordConsentRequest::decode(&wire[..]).unwrap();
    let mut other = good_act();
    other.evidence = Some(proto::Evidence {
        attributes: ["a", "b"].map(|key| (key.to_owned(), "v".to_owned())).into(),
        ..Default::default()
    });
    assert_ne!(wire, other.encode_to_vec());
    let encoding = |request| act(request).unwrap().0.idempotency.unwrap().request;
    assert_eq!(encoding(request), encoding(other));
}

#[test]
fn every_way_in_which_a_check_can_be_wrong_has_a_name_and_a_place() {
    let good = proto::CheckRequest {
        subject: "user:42".to_owned(),
        purpose: "marketing.newsletter".to_owned(),
        channel: "email".to_owned(),
        data_categories: vec!["user.contact.email".to_owned()],
        ..Default::default()
    };
    assert_eq!(check(&good).unwrap().0.unwrap().as_str(), "user:42");
    let spoiled = |spoil: fn(&mut proto::CheckRequest)| {
        let mut request = good.clone();
        spoil(&mut request);
        check(&request).unwrap_err()
    };
    assert_eq!(spoiled(|check| check.subject.clear()), at("subject", SubjectError::Missing.into()));
    assert_eq!(spoiled(|check| check.purpose.clear()), at("purpose", KeyError::Missing.into()));
    assert_eq!(spoiled(|check| check.purpose = "*".into()), at("purpose", Problem::Wildcard));
    assert_eq!(spoiled(|check| check.channel = "*".into()), at("channel", Problem::Wildcard));
    assert_eq!(
        spoiled(|check| check.channel = "É".into()),
        at("channel", KeyError::Characters.into())
    );
    assert_eq!(
        spoiled(|check| check.data_categories = vec!["a".into(); 101]),
        at("data_categories", Problem::TooMany { limit: 100, got: 101 })
    );
    assert_eq!(
        spoiled(|check| {
            check.want_token = true;
            check.as_of = Some(proto::AsOf::default());
        }),
        at("want_token", Problem::NotWith("as_of"))
    );
    assert_eq!(
        spoiled(|check| check.data_categories.push("user..mail".into())),
        at("data_categories[1]", KeyError::Characters.into())
    );
    assert_eq!(
        spoiled(|check| check.data_categories = vec!["a".repeat(129)]),
        at("data_categories[0]", KeyError::TooLong(129).into())
    );
}

#[test]
fn an_item_of_a_batch_names_its_place() {
    let wrong = at("subject", SubjectError::Missing.into());
    let result = batch_result(3, Err(wrong.into()));
    let Some(proto::batch_check_result::Result::Error(error)) = result.result else { panic!() };
    assert_eq!(
        (error.reason.as_str(), error.field.as_str()),
        ("INVALID_FIELD", "checks[3].subject")
    );
    assert!(error.message.starts_with("subject is required"), "{}", error.message);
    let unreadable = crate::node::ReadError::StateUnreadable("/data/x: broken".to_owned());
    let result = batch_result(4, Err(unreadable.into()));
    let Some(proto::batch_check_result::Result::Error(error)) = result.result else { panic!() };
    assert_eq!((error.reason.as_str(), error.field.as_str()), ("STATE_UNREADABLE", "checks[4]"));
    assert!(!error.message.contains("/data"), "{}", error.message);
}

fn good_purpose() -> proto::Purpose {
    proto::Purpose {
        key: "marketing.newsletter".to_owned(),
        title: "Newsletter".to_owned(),
        description: "Two lines\nare fine".to_owned(),
        legal_basis: proto::LegalBasis::Consent.into(),
        data_categories: vec!["user.contact.email".to_owned()],
        default_validity: Some(prost_types::Duration { seconds: 86_400, nanos: 500_000_000 }),
        double_opt_in: true,
        oldest_compatible_version: 2,
        retired: false,
        obligations: vec![limit(1, 7 * 86_400), quiet(1_320, 480, "Europe/Berlin")],
        version: 9,
        basis_by_region: BTreeMap::from([
            ("DE".to_owned(), proto::LegalBasis::Consent.into()),
            ("US-CA".to_owned(), proto::LegalBasis::LegitimateInterest.into()),
        ]),
        controller: "acme".to_owned(),
        recipients: Some(proto::Recipients { parties: vec!["mailer".to_owned()] }),
    }
}

fn limit(uses_max: u32, seconds: i64) -> proto::Obligation {
    let period = Some(prost_types::Duration { seconds, nanos: 0 });
    let limit = proto::FrequencyLimit { uses_max, period };
    proto::Obligation {
        kind: Some(proto::obligation::Kind::FrequencyLimit(limit)),
        ..Default::default()
    }
}

fn quiet(start_minute: u32, end_minute: u32, zone: &str) -> proto::Obligation {
    let hours = proto::QuietHours { start_minute, end_minute, time_zone: zone.to_owned() };
    proto::Obligation {
        kind: Some(proto::obligation::Kind::QuietHours(hours)),
        ..Default::default()
    }
}

fn draft_of(purpose: proto::Purpose) -> Result<PurposeDraft, Invalid> {
    purpose_draft(proto::PutPurposeRequest { purpose: Some(purpose), ..Default::default() })
}

#[test]
fn a_purpose_is_parsed_whole() {
    let draft = draft_of(good_purpose()).unwrap();
    assert_eq!(draft.key.as_str(), "marketing.newsletter");
    assert_eq!(draft.content.legal_basis, LegalBasis::Consent);
    assert_eq!(draft.content.default_validity_ms, Some(86_400_500));
    assert_eq!(draft.oldest_compatible, Some(2));
    assert_eq!(draft.content.obligations.len(), 2);
    let unset = proto::Purpose { oldest_compatible_version: 0, ..good_purpose() };
    assert_eq!(draft_of(unset).unwrap().oldest_compatible, None);
}

#[test]
fn every_way_in_which_a_purpose_can_be_wrong_has_a_name_and_a_place() {
    let missing = purpose_draft(proto::PutPurposeRequest::default()).unwrap_err();
    assert_eq!(missing, at("purpose", Problem::Required));
    let span = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let outside = |got_ms| Problem::SpanOutside { min_ms: 1, max_ms: SPAN_MS_MAX, got_ms };
    let spoiled = |spoil: &dyn Fn(&mut proto::Purpose)| {
        let mut purpose = good_purpose();
        spoil(&mut purpose);
        draft_of(purpose).unwrap_err()
    };
    type Spoiling<'a> = &'a dyn Fn(&mut proto::Purpose);
    let cases: [(Spoiling<'_>, &str, Problem); 29] = [
        (&|p| p.key.clear(), "key", KeyError::Missing.into()),
        (&|p| p.key = "*".into(), "key", Problem::Wildcard),
        (&|p| p.title.clear(), "title", Problem::Required),
        (&|p| p.title = " \u{200b}".into(), "title", Problem::Required),
        (&|p| p.title = "x".repeat(257), "title", Problem::TooLong { limit: 256, got: 257 }),
        (&|p| p.title = "a\tb".into(), "title", Problem::ControlCharacter),
        (
            &|p| p.description = "x".repeat(4_097),
            "description",
            Problem::TooLong { limit: 4_096, got: 4_097 },
        ),
        (&|p| p.legal_basis = 0, "legal_basis", Problem::Required),
        (&|p| p.legal_basis = 77, "legal_basis", Problem::UnknownValue(77)),
        (
            &|p| p.data_categories = vec!["a".into(); 101],
            "data_categories",
            Problem::TooMany { limit: 100, got: 101 },
        ),
        (&|p| p.data_categories[0] = String::new(), "data_categories[0]", KeyError::Missing.into()),
        (&|p| p.default_validity = span(0, 0), "default_validity", Problem::Zero),
        (&|p| p.default_validity = span(-1, 0), "default_validity", Problem::Negative),
        (&|p| p.default_validity = span(0, -1_000_000), "default_validity", Problem::Negative),
        (&|p| p.default_validity = span(1, -1), "default_validity", Problem::Duration),
        (&|p| p.default_validity = span(0, 1_000_000_000), "default_validity", Problem::Duration),
        (&|p| p.default_validity = span(0, 1), "default_validity", Problem::SubMillisecond),
        (&|p| p.default_validity = span(0, i32::MIN), "default_validity", Problem::Duration),
        (&|p| p.default_validity = span(i64::MAX, 0), "default_validity", outside(i64::MAX)),
        (
            &|p| p.obligations = vec![limit(1, 1); 17],
            "obligations",
            Problem::TooMany { limit: 16, got: 17 },
        ),
        (
            &|p| p.obligations[0] = proto::Obligation::default(),
            "obligations[0].kind",
            Problem::Required,
        ),
        (
            &|p| p.obligations[0] = limit(0, 1),
            "obligations[0].frequency_limit.uses_max",
            Problem::Zero,
        ),
        (
            &|p| p.obligations[0] = limit(1, 0),
            "obligations[0].frequency_limit.period",
            Problem::Zero,
        ),
        (
            &|p| {
                let limit = proto::FrequencyLimit { uses_max: 1, period: None };
                let kind = Some(proto::obligation::Kind::FrequencyLimit(limit));
                p.obligations[0] = proto::Obligation { kind, ..Default::default() };
            },
            "obligations[0].frequency_limit.period",
            Problem::Required,
        ),
        (
            &|p| p.obligations[1] = quiet(1_440, 0, ""),
            "obligations[1].quiet_hours.start_minute",
            Problem::Minute(1_440),
        ),
        (
            &|p| p.obligations[1] = quiet(0, 1_440, ""),
            "obligations[1].quiet_hours.end_minute",
            Problem::Minute(1_440),
        ),
        (
            &|p| p.obligations[1] = quiet(7, 7, ""),
            "obligations[1].quiet_hours.end_minute",
            Problem::EmptySpan,
        ),
        (
            &|p| p.obligations[1] = quiet(0, 1, "Mars/Olympus"),
            "obligations[1].quiet_hours.time_zone",
            Problem::TimeZone,
        ),
        (
            &|p| p.obligations[1] = quiet(0, 1, "europe/berlin"),
            "obligations[1].quiet_hours.time_zone",
            Problem::TimeZone,
        ),
    ];
    for (spoil, field, problem) in cases {
        assert_eq!(spoiled(spoil), at(&format!("purpose.{field}"), problem));
    }
}

#[test]
fn every_way_in_which_a_channel_can_be_wrong_has_a_name_and_a_place() {
    let put = |key: &str, title: &str| {
        let (key, title) = (key.to_owned(), title.to_owned());
        let message = proto::Channel { key, title, retired: true };
        channel(proto::PutChannelRequest { channel: Some(message), ..Default::default() })
    };
    let good = put("email", "").unwrap();
    assert!(good.key.as_str() == "email" && good.retired);
    let missing = channel(proto::PutChannelRequest::default()).unwrap_err();
    assert_eq!(missing, at("channel", Problem::Required));
    assert_eq!(put("", "").unwrap_err(), at("channel.key", KeyError::Missing.into()));
    assert_eq!(put("*", "").unwrap_err(), at("channel.key", Problem::Wildcard));
    assert_eq!(put("e.mail", "").unwrap_err(), at("channel.key", Problem::NotOneWord));
    assert_eq!(put("email", "\u{1}").unwrap_err(), at("channel.title", Problem::ControlCharacter));
    assert_eq!(
        put("email", &"x".repeat(257)).unwrap_err(),
        at("channel.title", Problem::TooLong { limit: 256, got: 257 })
    );
}

#[test]
fn pages_have_limits_and_tokens_one_list_and_question() {
    let list = List::purposes(false);
    assert_eq!(list.page(0, "").unwrap(), Page { size: 100, after: None });
    assert_eq!(list.page(1_000, "").unwrap().size, 1_000);
    assert_eq!(list.page(1_001, "").unwrap_err(), at("page_size", Problem::PageSize(1_001)));
    assert_eq!(list.page(-1, "").unwrap_err(), at("page_size", Problem::Negative));
    let last = Key::parse("marketing.newsletter").unwrap();
    let token = list.next_token(&last);
    assert_eq!(list.page(5, &token).unwrap(), Page { size: 5, after: Some(last) });
    for other in [List::purposes(true), List::channels(false), List::channels(true)] {
        assert_eq!(other.page(0, &token).unwrap_err(), at("page_token", Problem::PageToken));
    }
    let upper = token.to_uppercase();
    for bad in ["x", "p0", "p06", "p0zz", "p0+1", "p02a", "p0€", "p0ff", &upper, &token[..9]] {
        assert_eq!(list.page(0, bad).unwrap_err(), at("page_token", Problem::PageToken), "{bad}");
    }
}

#[test]
fn pages_of_subscriptions_have_tokens_of_one_owner() {
    let last = Key::parse("crm.production").unwrap();
    let ask = |owner: &str, token: &str| {
        let (owner, page_token) = (owner.to_owned(), token.to_owned());
        listed_subscriptions(&proto::ListSubscriptionsRequest { owner, page_token, page_size: 5 })
    };
    for owner in ["", "crm-team"] {
        let token = List::subscriptions(owner).next_token(&last);
        let listed = ask(owner, &token).unwrap();
        assert_eq!(listed.page, Page { size: 5, after: Some(last.clone()) });
        assert_eq!(listed.owner.as_deref(), Some(owner).filter(|owner| !owner.is_empty()));
        let (upper, cut) = (token.to_uppercase(), &token[..token.len() - 1]);
        let other = List::subscriptions("other").next_token(&last);
        let more = format!("{token}.63726d");
        for bad in ["x", "s", "s.", "s.€€", "s.+1", &upper, cut, &other, &more] {
            let error = ask(owner, bad).unwrap_err();
            assert_eq!(error, at("page_token", Problem::PageToken), "{bad}");
        }
    }
    let long = "x".repeat(257);
    let error = ask(&long, "").unwrap_err();
    assert_eq!(error, at("owner", Problem::TooLong { limit: 256, got: 257 }));
}

proptest! {
    #[test]
    fn pages_of_dead_letters_have_tokens_of_one_subscription(
        id in any::<u64>(), after in any::<(u32, u64)>(), other in any::<u64>(), junk in ".{0,12}",
    ) {
        use crate::domain::SubscriptionId;
        let of = |page_token: String| {
            let request = proto::ListDeadLettersRequest { page_token, ..Default::default() };
            dead_letters_page(&request).unwrap()
        };
        let page = of(next_dead_letters_token(SubscriptionId(id), after));
        prop_assert_eq!(page.size, 100);
        prop_assert_eq!(page.after(SubscriptionId(id)), Ok(Some(after)));
        prop_assert_eq!(page.after(SubscriptionId(other)).is_ok(), other == id);
        prop_assert_eq!(of(junk.clone()).after(SubscriptionId(id)).is_ok(), junk.is_empty());
    }
}

#[test]
fn what_a_watcher_asks_for_is_parsed_whole() {
    let parsed = watching(proto::WatchRequest::default()).unwrap();
    assert_eq!(parsed.start, None);
    assert_eq!(parsed.progress_interval.as_secs(), 10);
    assert!(parsed.filter.kinds.is_empty() && parsed.filter.purposes.is_empty());
    let parsed = watching(proto::WatchRequest {
        start_index: Some(0),
        filter: Some(proto::WatchFilter {
            purposes: vec!["a".into(), "b.c".into(), "a".into()],
            channels: vec!["email".into()],
            kinds: vec![proto::EventKind::Grant.into(), proto::EventKind::Object.into()],
            namespaces: vec!["user".into()],
        }),
        progress_interval: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }),
        ..Default::default()
    })
    .unwrap();
    assert_eq!(parsed.start, Some(0));
    assert_eq!(parsed.filter.purposes.len(), 2);
    assert_eq!(parsed.filter.kinds, [EventKind::Grant, EventKind::Object].into());
    assert!(parsed.filter.namespaces.contains("user"));
    assert_eq!(parsed.progress_interval.as_millis(), 100);
}

#[test]
fn every_way_in_which_a_watch_can_be_wrong_has_a_name_and_a_place() {
    let filtered = |spoil: fn(&mut proto::WatchFilter)| {
        let mut filter = proto::WatchFilter::default();
        spoil(&mut filter);
        let filter = Some(filter);
        watching(proto::WatchRequest { filter, ..Default::default() }).unwrap_err()
    };
    let too_many = || Problem::TooMany { limit: 1_000, got: 1_001 };
    for (invalid, want) in [
        (filtered(|f| f.purposes = vec!["a".into(); 1_001]), at("filter.purposes", too_many())),
        (filtered(|f| f.channels = vec!["a".into(); 1_001]), at("filter.channels", too_many())),
        (filtered(|f| f.kinds = vec![1; 1_001]), at("filter.kinds", too_many())),
        (filtered(|f| f.namespaces = vec!["a".into(); 1_001]), at("filter.namespaces", too_many())),
        (
            filtered(|f| f.purposes = vec!["a".into(), "*".into()]),
            at("filter.purposes[1]", Problem::Wildcard),
        ),
        (
            filtered(|f| f.channels = vec![String::new()]),
            at("filter.channels[0]", KeyError::Missing.into()),
        ),
        (filtered(|f| f.kinds = vec![1, 0]), at("filter.kinds[1]", Problem::Required)),
        (filtered(|f| f.kinds = vec![99]), at("filter.kinds[0]", Problem::UnknownValue(99))),
        (
            filtered(|f| f.namespaces = vec![String::new()]),
            at("filter.namespaces[0]", Problem::Required),
        ),
        (
            filtered(|f| f.namespaces = vec!["us:er".into()]),
            at("filter.namespaces[0]", Problem::Namespace),
        ),
        (
            filtered(|f| f.namespaces = vec!["x".repeat(257)]),
            at("filter.namespaces[0]", Problem::TooLong { limit: 128, got: 257 }),
        ),
    ] {
        assert_eq!(invalid, want);
    }
    let every = |seconds, nanos| {
        let progress_interval = Some(prost_types::Duration { seconds, nanos });
        watching(proto::WatchRequest { progress_interval, ..Default::default() })
    };
    let outside = |got_ms| {
        at("progress_interval", Problem::SpanOutside { min_ms: 100, max_ms: 3_600_000, got_ms })
    };
    assert_eq!(every(3_600, 0).unwrap().progress_interval.as_secs(), 3_600);
    assert_eq!(every(0, 99_000_000).unwrap_err(), outside(99));
    assert_eq!(every(3_600, 1_000_000).unwrap_err(), outside(3_600_001));
    assert_eq!(every(0, 0).unwrap_err(), at("progress_interval", Problem::Zero));
}

#[test]
fn ranges_of_entries_do_not_run_backwards() {
    assert_eq!(index_range(3, None), Ok((3, None)));
    assert_eq!(index_range(3, Some(3)), Ok((3, Some(3))));
    assert_eq!(index_range(3, Some(2)), Err(at("end_index", Problem::EndBeforeStart)));
}

#[test]
fn histories_have_a_subject_and_perhaps_an_end() {
    let request = |page_size| proto::ListHistoryRequest {
        subject: "user:42".to_owned(),
        start_index: 0,
        page_size,
        ..Default::default()
    };
    assert_eq!(history(&request(0)).unwrap().1, usize::MAX);
    assert_eq!(history(&request(7)).unwrap().1, 7);
    let nobody = history(&proto::ListHistoryRequest::default()).unwrap_err();
    assert_eq!(nobody, at("subject", SubjectError::Missing.into()));
    let nobody = preferences(&names(), &proto::GetPreferencesRequest::default()).unwrap_err();
    assert_eq!(nobody, at("subject", SubjectError::Missing.into()));
}

#[test]
fn only_limits_are_limits() {
    for problem in [
        Problem::Subject(SubjectError::TooLong(300)),
        Problem::Key(KeyError::TooLong(300)),
        Problem::Evidence(EvidenceError::TooManyAttributes(33)),
        Problem::Evidence(EvidenceError::TooLong { part: "method", limit: 256, got: 300 }),
        Problem::TooMany { limit: 1, got: 2 },
        Problem::TooLong { limit: 1, got: 2 },
        Problem::PageSize(2_000),
        Problem::SpanOutside { min_ms: 1, max_ms: 2, got_ms: 3 },
    ] {
        let limit = problem.limit().unwrap();
        assert!(problem.to_string().contains(&limit.to_string()), "{problem}: {limit}");
    }
    for problem in [Problem::Required, Problem::Subject(SubjectError::Missing), Problem::Zero] {
        assert_eq!(problem.limit(), None);
    }
}

#[test]
fn outcomes_keep_the_index_of_what_is_in_the_way() {
    let record = |outcome| crate::domain::ChangeRecord {
        action: Action::Grant,
        scope: ScopeKeys { purpose: None, channel: None },
        purpose_version: 2,
        expires_at: Some(Millis(-1)),
        data_categories: Vec::new(),
        outcome,
        linked_subjects: 0,
    };
    for (outcome, number, cause) in [
        (Outcome::Applied, 1, None),
        (Outcome::NoEffect, 2, None),
        (Outcome::BlockedByStop(Some(7)), 3, Some(7)),
        (Outcome::SupersededByLater(Some(8)), 4, Some(8)),
        (Outcome::PendingConfirmation, 5, None),
    ] {
        let message = messages::change_result(&record(outcome));
        assert_eq!((message.outcome, message.cause_index), (number, cause));
        let scope = message.scope.unwrap();
        assert_eq!((scope.purpose.as_str(), scope.channel.as_str()), ("*", "*"));
        let expires_at = message.expires_at.unwrap();
        assert_eq!((expires_at.seconds, expires_at.nanos), (-1, 999_000_000));
    }
}

fn key_text() -> impl Strategy<Value = String> {
    prop::collection::vec("[a-z0-9_-]{1,8}", 1..4).prop_map(|words| words.join("."))
}

fn obligations_of_a_purpose() -> impl Strategy<Value = Vec<Obligation>> {
    let limits = (1_u32.., 1..=SPAN_MS_MAX)
        .prop_map(|(uses_max, period_ms)| Obligation::FrequencyLimit { uses_max, period_ms });
    let zone = prop::sample::select(vec!["", "Europe/Berlin", "UTC", "America/New_York"]);
    let hours = (0_u32..1_440, 1_u32..1_440, zone).prop_map(|(start_minute, span, zone)| {
        let end_minute = (start_minute + span) % 1_440;
        Obligation::QuietHours { start_minute, end_minute, time_zone: zone.to_owned() }
    });
    prop::collection::vec(prop_oneof![limits, hours], 0..=OBLIGATIONS_MAX)
}

fn drafts() -> impl Strategy<Value = PurposeDraft> {
    let bases = prop::sample::select(vec![
        LegalBasis::Consent,
        LegalBasis::Contract,
        LegalBasis::LegalObligation,
        LegalBasis::VitalInterest,
        LegalBasis::PublicTask,
        LegalBasis::LegitimateInterest,
    ]);
    let shows_something = |title: &String| !crate::domain::trimmed(title).is_empty();
    let title = "[^\\p{Cc}]{1,50}".prop_filter("a title shows something", shows_something);
    let texts = (title, "\\PC{0,200}");
    let flags = (any::<bool>(), any::<bool>(), prop::option::of(1_u32..9));
    let categories = prop::collection::vec(key_text(), 0..5);
    let validity = prop::option::of(1..=SPAN_MS_MAX);
    let recipients = prop::option::of(prop::collection::btree_set(key_text(), 0..3));
    let parties = (prop::option::of(key_text()), recipients);
    let rest = (flags, obligations_of_a_purpose(), parties);
    (key_text(), texts, bases, categories, validity, rest).prop_map(
        |(key, (title, description), legal_basis, data_categories, validity, rest)| {
            let (flags, obligations, (controller, recipients)) = rest;
            let parse = |text: String| Key::parse(&text).unwrap();
            PurposeDraft {
                key: Key::parse(&key).unwrap(),
                content: PurposeVersion {
                    title,
                    description,
                    legal_basis,
                    basis_by_region: BTreeMap::new(),
                    data_categories,
                    default_validity_ms: validity,
                    double_opt_in: flags.0,
                    obligations,
                    controller: controller.map(parse),
                    recipients: recipients.map(|keys| keys.into_iter().map(parse).collect()),
                },
                oldest_compatible: flags.2,
                requires_reconsent: false,
                retired: flags.1,
            }
        },
    )
}

proptest! {
    #[test]
    fn moments_round_trip(ms in -62_135_596_800_000_i64..=253_402_300_799_999) {
        prop_assert_eq!(moment(timestamp(Millis(ms)), "f"), Ok(Millis(ms)));
    }

    #[test]
    fn every_moment_of_the_ledger_has_a_timestamp(ms: i64) {
        let timestamp = timestamp(Millis(ms));
        prop_assert!((0..1_000_000_000).contains(&timestamp.nanos));
    }

    #[test]
    fn spans_round_trip(ms in 0..=i64::MAX / 2) {
        prop_assert_eq!(span_ms(duration(ms), "f"), Ok(ms));
    }

    #[test]
    fn spans_never_panic(seconds: i64, nanos: i32) {
        if let Ok(ms) = span_ms(prost_types::Duration { seconds, nanos }, "f") {
            prop_assert!(ms >= 0);
        }
    }

    #[test]
    fn purposes_round_trip(draft in drafts()) {
        let purpose = Purpose {
            key: draft.key.clone(),
            classes: Vec::new(),
            version_indices: vec![1],
            versions: vec![std::sync::Arc::new(draft.content.clone())],
            oldest_compatible: draft.oldest_compatible.unwrap_or(0),
            oldest_compatible_index: 0,
            retired: draft.retired,
            index: 0,
        };
        let message = purpose_message(&purpose);
        prop_assert_eq!(message.version, 1);
        prop_assert_eq!(draft_of(message), Ok(draft));
    }

    #[test]
    fn scopes_round_trip(
        purpose in prop::option::of(key_text()),
        channel in prop::option::of(key_text()),
    ) {
        let parse = |text: Option<String>| text.map(|t| Key::parse(&t).unwrap());
        let keys = ScopeKeys { purpose: parse(purpose).map(Into::into), channel: parse(channel) };
        let message = proto::Change {
            action: proto::Action::Refuse.into(),
            scope: Some(messages::scope(&keys)),
            ..Default::default()
        };
        let act = act(proto::RecordConsentRequest { changes: vec![message], ..good_act() });
        prop_assert_eq!(&act.unwrap().0.changes[0].scope, &keys);
    }

    #[test]
    fn page_tokens_round_trip(key in key_text(), show_retired: bool) {
        let key = Key::parse(&key).unwrap();
        let list = List::channels(show_retired);
        let token = list.next_token(&key);
        prop_assert_eq!(list.page(0, &token).unwrap().after, Some(key));
    }

    #[test]
    fn page_tokens_never_panic(token in "\\PC{0,40}") {
        let _ = List::purposes(false).page(0, &token);
    }

    #[test]
    fn arbitrary_messages_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(request) = proto::RecordConsentRequest::decode(&bytes[..]) {
            let _ = act(request);
        }
        if let Ok(request) = proto::PutPurposeRequest::decode(&bytes[..]) {
            let _ = purpose_draft(request);
        }
        if let Ok(request) = proto::WatchRequest::decode(&bytes[..]) {
            let _ = watching(request);
        }
    }
}

fn good_link() -> proto::LinkSubjectsRequest {
    proto::LinkSubjectsRequest {
        subject: "user:42".to_owned(),
        other_subject: "device:ab12".to_owned(),
        confidence: proto::LinkConfidence::Asserted.into(),
        asserted_by: "login-service".to_owned(),
        dry_run: true,
    }
}

#[test]
fn a_link_is_parsed_whole() {
    let linking = link(good_link()).unwrap();
    assert_eq!((linking.subject.as_str(), linking.other.as_str()), ("user:42", "device:ab12"));
    assert_eq!(linking.confidence, Some(crate::domain::LinkConfidence::Asserted));
    assert_eq!(linking.asserted_by, "login-service");
    assert!(linking.dry_run);
    let back = unlink(
        &names(),
        proto::UnlinkSubjectsRequest {
            subject: "user:42".to_owned(),
            other_subject: "device:ab12".to_owned(),
            asserted_by: "support".to_owned(),
            dry_run: false,
        },
    );
    let back = back.unwrap();
    assert_eq!((back.confidence, back.dry_run), (None, false));
    assert!(!format!("{linking:?}").contains("login"), "who says so is for the ledger alone");
}

#[test]
fn every_way_in_which_a_link_is_wrong_is_named() {
    let problem = |change: &dyn Fn(&mut proto::LinkSubjectsRequest)| {
        let mut request = good_link();
        change(&mut request);
        link(request).unwrap_err()
    };
    let missing = || Problem::from(SubjectError::Missing);
    assert_eq!(problem(&|own| own.subject.clear()), at("subject", missing()));
    assert_eq!(problem(&|own| own.other_subject.clear()), at("other_subject", missing()));
    assert_eq!(problem(&|own| own.confidence = 0), at("confidence", Problem::Required));
    assert_eq!(problem(&|own| own.confidence = 3), at("confidence", Problem::UnknownValue(3)));
    assert_eq!(problem(&|own| own.asserted_by.clear()), at("asserted_by", Problem::Required));
    let too_long = Problem::TooLong { limit: ASSERTED_BY_BYTES_MAX, got: 257 };
    assert_eq!(problem(&|own| own.asserted_by = "x".repeat(257)), at("asserted_by", too_long));
    let control = problem(&|own| own.asserted_by = "a\nb".to_owned());
    assert_eq!(control, at("asserted_by", Problem::ControlCharacter));
}
