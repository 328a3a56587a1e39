//! A preview states the effect that the change then has: over gRPC and by the command line, against
//! the built binary.

use std::{collections::BTreeMap, fs};

use consent_ledger::proto::{
    self, Action, Actor, Effect, LegalBasis, LinkConfidence, PreviewPurposeChangeResponse, Purpose,
    Reason, batch_check_result::Result as Outcome,
};

use crate::support::{self, Clients, Server, act, change, check_request, typed};

const NEWS: &str = "marketing.newsletter";
const CHANNELS: [&str; 2] = ["email", "sms"];
const NOBODY: &str = "user:nobody";

/// Subjects that the ledger knows, one for each way to become known.
const KNOWN: [&str; 13] = [
    "user:granted",
    "user:withdrew",
    "user:refused",
    "user:objected",
    "user:everything-stopped",
    "user:opted-in-after-all",
    "user:imported",
    "user:only-elsewhere",
    "user:linked-to-granted",
    "user:maybe-withdrew",
    "user:withdrew-here",
    "user:granted-there",
    "user:linked-to-nothing",
];

/// The number of cells of a channel that go from one reason to another.
type Flips = BTreeMap<(String, Reason, Reason), u64>;

struct Ledger {
    server: Server,
    clients: Clients,
    dir: tempfile::TempDir,
}

impl Ledger {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(&dir.path().join("data"));
        let mut clients = server.clients_with_catalog(&[NEWS, "other"], &CHANNELS).await;
        clients.put_channel("fax", true).await;
        let mut ledger = Self { server, clients, dir };
        ledger.populate().await;
        ledger
    }

    async fn populate(&mut self) {
        use Action::{Grant, Object, Refuse, Withdraw};
        for (subject, action, purpose, channel) in [
            ("user:maybe-withdrew", Grant, NEWS, "sms"),
            ("user:granted", Grant, NEWS, "email"),
            ("user:withdrew", Grant, NEWS, "email"),
            ("user:withdrew", Withdraw, NEWS, "*"),
            ("user:refused", Refuse, NEWS, "sms"),
            ("user:objected", Object, NEWS, "email"),
            ("user:everything-stopped", Withdraw, "*", "*"),
            ("user:opted-in-after-all", Withdraw, "*", "*"),
            ("user:opted-in-after-all", Grant, NEWS, "sms"),
            ("user:only-elsewhere", Grant, "other", "email"),
            ("user:withdrew-here", Withdraw, NEWS, "*"),
            ("user:granted-there", Grant, NEWS, "email"),
        ] {
            self.clients.record_change(subject, action, purpose, channel).await;
        }
        let mut imported = act("user:imported", vec![change(Grant, NEWS, "sms")]);
        imported.actor = Actor::Import.into();
        self.clients.record(imported).await;
        for (subject, other, confidence) in [
            ("user:granted", "user:linked-to-granted", LinkConfidence::Verified),
            ("user:maybe-withdrew", "user:withdrew", LinkConfidence::Asserted),
            ("user:withdrew-here", "user:granted-there", LinkConfidence::Verified),
            ("user:linked-to-nothing", "user:only-elsewhere", LinkConfidence::Asserted),
        ] {
            self.clients.link(subject, other, confidence).await;
        }
    }

    /// The reason of every cell of a purpose; those of an unknown subject come last.
    async fn reasons(&mut self, purpose: &str, region: &str) -> Vec<(String, Reason)> {
        let cells = KNOWN.iter().chain([&NOBODY]).flat_map(|who| CHANNELS.map(|to| (*who, to)));
        let cells: Vec<_> = cells.collect();
        let check = |(who, to): &(&str, &str)| proto::CheckRequest {
            region: region.to_owned(),
            ..check_request(who, purpose, to)
        };
        let checks = cells.iter().map(check).collect();
        let request = proto::BatchCheckRequest { checks, at_least_revision: None };
        let answer = self.clients.check.batch_check(request).await.unwrap().into_inner();
        let reason = |((_, channel), result): (&(&str, &str), proto::BatchCheckResult)| {
            let Some(Outcome::Decision(decision)) = result.result else { panic!("{result:?}") };
            ((*channel).to_owned(), decision.reason())
        };
        cells.iter().zip(answer.results).map(reason).collect()
    }

    async fn preview(
        &mut self,
        purpose: &Purpose,
        requires_reconsent: bool,
        region: &str,
    ) -> PreviewPurposeChangeResponse {
        let request = proto::PreviewPurposeChangeRequest {
            purpose: Some(purpose.clone()),
            requires_reconsent,
            region: region.to_owned(),
            at_least_revision: None,
        };
        self.clients.catalog.preview_purpose_change(request).await.unwrap().into_inner()
    }

    /// Makes a change, and compares its effect in each region with the preview.
    async fn change(&mut self, purpose: Purpose, requires_reconsent: bool) -> Flips {
        let regions = ["", "DE", "US-CA"];
        let key = purpose.key.clone();
        let mut previews = Vec::new();
        for region in regions {
            let preview = self.preview(&purpose, requires_reconsent, region).await;
            previews.push((preview, self.reasons(&key, region).await));
        }
        let request = proto::PutPurposeRequest {
            purpose: Some(purpose.clone()),
            requires_reconsent,
            ..Default::default()
        };
        let put = self.clients.catalog.put_purpose(request).await.unwrap().into_inner();
        let mut all = Flips::new();
        for ((preview, before), region) in previews.into_iter().zip(regions) {
            let context = format!("{purpose:?} {requires_reconsent} {region}");
            assert_eq!(preview.changed, put.changed, "{context}");
            assert_eq!(preview.version, put.purpose.as_ref().unwrap().version, "{context}");
            let after = self.reasons(&key, region).await;
            let flips = assert_preview_is_right(&preview, &before, &after, &context);
            if region.is_empty() {
                all = flips;
            }
        }
        all
    }
}

/// Counts the changed answers from checks alone, and compares the preview with them.
fn assert_preview_is_right(
    preview: &PreviewPurposeChangeResponse,
    before: &[(String, Reason)],
    after: &[(String, Reason)],
    context: &str,
) -> Flips {
    let known = KNOWN.len() * CHANNELS.len();
    assert_eq!(preview.cells, known as u64, "{context}");
    let mut flips = Flips::new();
    for ((channel, before), (_, after)) in before[..known].iter().zip(&after[..known]) {
        if before != after {
            *flips.entry((channel.clone(), *before, *after)).or_default() += 1;
        }
    }
    let flip_count =
        |flip: &proto::CellFlips| ((flip.channel.clone(), flip.before(), flip.after()), flip.count);
    let previewed: Flips = preview.flips.iter().map(flip_count).collect();
    assert_eq!(previewed.len(), preview.flips.len(), "no two rows of one kind: {context}");
    assert_eq!(previewed, flips, "{context}");
    let turned = |effect: Effect| {
        let turns = |(_, before, after): &(String, Reason, Reason)| {
            effect_of(*before) != effect && effect_of(*after) == effect
        };
        flips.iter().filter(|(key, _)| turns(key)).map(|(_, count)| count).sum::<u64>()
    };
    let counts = (preview.would_allow, preview.would_deny);
    assert_eq!(counts, (turned(Effect::Allow), turned(Effect::Deny)), "{context}");
    let unknown = preview.unknown_subject.as_ref().unwrap();
    assert_eq!(unknown.before(), before[known].1, "{context}");
    assert_eq!(unknown.after(), after[known].1, "{context}");
    flips
}

fn effect_of(reason: Reason) -> Effect {
    match reason {
        Reason::Granted | Reason::NoObjection | Reason::NotConsentBased => Effect::Allow,
        _ => Effect::Deny,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_of_any_change_equals_its_effect() {
    let mut ledger = Ledger::new().await;
    let unchanged = support::consent_purpose(NEWS);
    let with_basis = |basis: LegalBasis| Purpose { legal_basis: basis.into(), ..unchanged.clone() };
    let regional = Purpose {
        basis_by_region: BTreeMap::from([
            ("DE".to_owned(), LegalBasis::Consent.into()),
            ("US".to_owned(), LegalBasis::Contract.into()),
        ]),
        ..with_basis(LegalBasis::LegitimateInterest)
    };
    let retired = Purpose { retired: true, ..unchanged.clone() };
    let reworded = Purpose { title: "Our letter".into(), ..unchanged.clone() };
    let confirmed = Purpose { double_opt_in: true, ..unchanged.clone() };
    for (purpose, requires_reconsent, flips) in [
        (unchanged.clone(), false, false),
        (retired, false, true),
        (unchanged.clone(), false, true),
        (regional, false, true),
        (with_basis(LegalBasis::Contract), false, true),
        (with_basis(LegalBasis::LegitimateInterest), false, true),
        (unchanged.clone(), false, true),
        (confirmed, false, false),
        (reworded.clone(), false, false),
        (reworded.clone(), true, true),
        (reworded, true, false),
        // A new purpose, with and without a need for consent.
        (support::consent_purpose("brand.new"), false, true),
        (Purpose { key: "service".into(), ..with_basis(LegalBasis::Contract) }, false, true),
    ] {
        let context = format!("{purpose:?} {requires_reconsent}");
        let flipped = ledger.change(purpose, requires_reconsent).await;
        assert_eq!(!flipped.is_empty(), flips, "{context}: {flipped:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn linked_subjects_count_with_their_links() {
    let mut ledger = Ledger::new().await;
    let retired = Purpose { retired: true, ..support::consent_purpose(NEWS) };
    let flips = ledger.preview(&retired, false, "").await.flips;
    let count = |channel: &str, before: Reason| {
        let is_wanted =
            |flip: &&proto::CellFlips| flip.channel == channel && flip.before() == before;
        flips.iter().find(is_wanted).map_or(0, |flip| flip.count)
    };
    // A grant counts for its subject, for verified links to it, and after an earlier withdrawal
    // under another identifier.
    assert_eq!(count("email", Reason::Granted), 4);
    // A later withdrawal over an asserted link stops a grant: two of three are left.
    assert_eq!(count("sms", Reason::Granted), 2, "{flips:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_refuses_what_the_change_refuses() {
    let mut ledger = Ledger::new().await;
    let valid = || support::consent_purpose(NEWS);
    let wrong = [
        None,
        Some(Purpose { key: "No Key".into(), ..valid() }),
        Some(Purpose { title: String::new(), ..valid() }),
        Some(Purpose { legal_basis: 0, ..valid() }),
        Some(Purpose { data_categories: vec!["a".into(); 101], ..valid() }),
        Some(Purpose { oldest_compatible_version: 2, ..valid() }),
        Some(Purpose { basis_by_region: BTreeMap::from([("UK".into(), 1)]), ..valid() }),
    ];
    let put = |purpose| proto::PutPurposeRequest {
        purpose,
        requires_reconsent: false,
        ..Default::default()
    };
    let preview = |purpose| proto::PreviewPurposeChangeRequest { purpose, ..Default::default() };
    for purpose in wrong {
        let refused = ledger.clients.catalog.put_purpose(put(purpose.clone())).await.unwrap_err();
        let asked = ledger.clients.catalog.preview_purpose_change(preview(purpose)).await;
        assert_eq!(typed(&asked.unwrap_err()), typed(&refused));
    }
    let nowhere =
        proto::PreviewPurposeChangeRequest { region: "Atlantis".into(), ..preview(Some(valid())) };
    let refused = ledger.clients.catalog.preview_purpose_change(nowhere).await.unwrap_err();
    assert_eq!(typed(&refused).fields, ["region"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_previewed_applied_and_listed() {
    let ledger = Ledger::new().await;
    let path = ledger.dir.path().join("catalog.toml");
    let file = path.to_str().unwrap();
    let write = |more: &str| {
        let text = format!(
            "[[purposes]]\nkey = \"{NEWS}\"\ntitle = \"{NEWS}\"\nlegal_basis = \"consent\"\n{more}"
        );
        fs::write(&path, text).unwrap();
    };
    write("");
    let catalog = |words: &[&str]| ledger.server.cli(&[&["catalog"], words].concat());
    let same = catalog(&["preview", file]).expect_code(0);
    assert!(same.stdout.starts_with("marketing.newsletter stays as it is: of 26 cells 0 would"));

    let preview = ["preview", file, "--requires-reconsent", "--json"];
    assert_eq!(
        catalog(&preview).expect_code(0).json()["preview"]["wouldDeny"],
        "0",
        "the only version"
    );
    write("description = \"Now with tulips.\"\n");
    let json = catalog(&preview).expect_code(0).json();
    assert_eq!(json["purpose"], NEWS, "{json}");
    let json = &json["preview"];
    assert_eq!((&json["changed"], &json["version"]), (&true.into(), &2.into()), "{json}");
    let denied = json["wouldDeny"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(denied > 0, "{json}");
    let table = catalog(&["preview", file, "--requires-reconsent"]).expect_code(0).stdout;
    assert!(table.contains(&format!("of 26 cells 0 would be allowed and {denied} denied")));
    assert!(table.contains("reconsent_required"), "{table}");

    let apply = ["apply", file, "--reconsent", NEWS, "--json"];
    let fields = serde_json::json!(["description", "oldest_compatible_version"]);
    let dry = catalog(&[&apply[..], &["--dry-run"]].concat()).expect_code(0).json();
    assert_eq!((&dry["changed"], &dry["results"][0]["fields"]), (&1.into(), &fields), "{dry}");
    let applied = catalog(&apply).expect_code(0).json();
    assert_eq!(applied["results"][0]["fields"], fields, "{applied}");
    let again = catalog(&apply).expect_code(1).stderr;
    assert!(again.contains("changes nothing"), "{again}");
    assert_eq!(catalog(&["apply", file, "--json"]).expect_code(0).json()["unchanged"], 1, "once");
    let listed = catalog(&["list"]).expect_code(0).stdout;
    assert!(listed.contains("counts from version 2"), "{listed}");

    write("basis_by_region = { US = \"legitimate_interest\", \"US-CA\" = \"consent\" }\n");
    let json = catalog(&["preview", file, "--region", "US", "--json"]).expect_code(0).json();
    assert_eq!(json["preview"]["unknownSubject"]["after"], "REASON_NO_OBJECTION", "{json}");
    catalog(&["apply", file]).expect_code(0);
    let listed = catalog(&["list"]).expect_code(0).stdout;
    assert!(listed.contains("consent in US-CA, legitimate_interest in US"), "{listed}");

    for words in [["apply", file, "--reconsent", "other"], ["preview", file, "--purpose", "other"]]
    {
        let refused = catalog(&words).expect_code(2);
        assert!(refused.stderr.contains("has no purpose `other`"), "{}", refused.stderr);
    }
}
