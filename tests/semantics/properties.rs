//! Properties over random histories in random catalogues: all actors, all widths of stop, ties, late
//! arrivals, double opt-in, guardians, links, versions that change their legal basis, regions with
//! another one, expiry, retirement, erasure. `PROPTEST_CASES` sets how many are tried.

use std::{collections::BTreeMap, env};

use consent_ledger::{
    decide,
    domain::{
        Action, Actor, Catalog, ChangeRecord, ChannelPut, Decision, Effect, LegalBasis,
        LinkConfidence, Millis, Outcome, PurposeName, PurposePut, PurposeVersion, Query, Reason,
        Region, SubjectState,
    },
    fold::consent::fold,
};
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
    sample::{Index, select, subsequence},
};

use super::{
    naive::{self, CellKeys, Question, all_cells, speaks},
    world::{
        ASKED, Act, Confirmation, Content, Entry, FIRST_ENTRY, Name, People, change, key, scope,
    },
};

const PURPOSES: [&str; 3] = ["p", "k.q", "k.l.r"];
/// Purposes and classes, one of them within the other.
const NAMES_OF_PURPOSES: [&str; 5] = ["p", "k.q", "k.l.r", "k.*", "k.l.*"];
const CHANNELS: [&str; 2] = ["x", "y"];
const CATEGORIES: [&str; 4] = ["user.contact", "user.contact.email", "user.name", "user.age"];
const NAMES: [Name; 4] = [ASKED, 'b', 'c', 'd'];
/// Regions that a purpose may treat differently.
const OWN_REGIONS: [&str; 3] = ["DE", "US", "US-CA"];
/// Acts take effect before this moment, and are recorded at it or later.
const LAST_EFFECT: i64 = 8;
/// Moments at which none, some and all of the grants have expired.
const MOMENTS: [Millis; 3] = [Millis(0), Millis(LAST_EFFECT), Millis(4 * LAST_EFFECT)];
/// Index of an entry after the whole history.
const AFTER_ALL: u64 = 900;

fn config() -> ProptestConfig {
    let cases_are_set = env::var_os("PROPTEST_CASES").is_some();
    let defaults = ProptestConfig::default();
    let cases = if cases_are_set { defaults.cases } else { 2_000 };
    ProptestConfig { cases, failure_persistence: None, ..defaults }
}

/// A catalogue and a history.
#[derive(Debug, Clone)]
struct World {
    catalog: Catalog,
    entries: Vec<Entry>,
}

fn any_basis() -> impl Strategy<Value = LegalBasis> {
    use LegalBasis::{Consent, Contract, LegalObligation, LegitimateInterest};
    prop_oneof![
        5 => Just(Consent),
        3 => Just(LegitimateInterest),
        2 => Just(Contract),
        1 => Just(LegalObligation),
    ]
}

fn any_version() -> impl Strategy<Value = PurposeVersion> {
    let region = select(OWN_REGIONS.to_vec()).prop_map(|text| Region::parse(text).unwrap());
    let by_region = prop_oneof![
        2 => Just(BTreeMap::new()),
        1 => btree_map(region, any_basis(), 1..3),
    ];
    let categories = subsequence(CATEGORIES.map(str::to_owned).to_vec(), 1..=3);
    (any_basis(), by_region, any::<bool>(), categories).prop_map(
        |(legal_basis, basis_by_region, double_opt_in, data_categories)| PurposeVersion {
            title: String::new(),
            description: String::new(),
            legal_basis,
            basis_by_region,
            data_categories,
            default_validity_ms: None,
            double_opt_in,
            obligations: Vec::new(),
            controller: None,
            recipients: None,
        },
    )
}

/// Up to three versions, the oldest one whose grants still count, and whether it is retired.
fn any_purpose() -> impl Strategy<Value = (Vec<PurposeVersion>, u32, bool)> {
    (vec(any_version(), 1..=3), 1..=3_u32, prop::bool::weighted(0.1))
}

fn any_catalog() -> impl Strategy<Value = Catalog> {
    let purposes = [any_purpose(), any_purpose(), any_purpose()];
    let is_retired = prop::bool::weighted(0.15);
    (purposes, is_retired).prop_map(|(purposes, retired)| {
        let mut catalog = Catalog::default();
        for (channel, retired) in CHANNELS.into_iter().zip([false, retired]) {
            catalog.put_channel(ChannelPut { key: key(channel), title: String::new(), retired });
        }
        let mut indices = 1..;
        for (purpose, (versions, oldest, retired)) in PURPOSES.into_iter().zip(purposes) {
            let last = u32::try_from(versions.len()).unwrap();
            let mut put = |version, content, oldest_compatible, retired| {
                let key = key(purpose);
                let put = PurposePut { key, version, content, oldest_compatible, retired };
                catalog.put_purpose(indices.next().unwrap(), put);
            };
            let current = versions.last().unwrap().clone();
            for (version, content) in (1..).zip(versions) {
                put(version, content, 1, false);
            }
            put(last, current, oldest.min(last), retired);
        }
        catalog
    })
}

fn any_actor() -> impl Strategy<Value = Actor> {
    use Actor::{Agent, Guardian, Import, Operator, Subject, System};
    // The subject acts as often as all other actors together.
    prop_oneof![Just(Subject), select(vec![Guardian, Guardian, Agent, Operator, System, Import])]
}

/// The data subject of the questions acts as often as all others together.
fn any_name() -> impl Strategy<Value = Name> {
    prop_oneof![Just(ASKED), select(NAMES.to_vec())]
}

fn any_stop_action() -> impl Strategy<Value = Action> {
    select(vec![Action::Refuse, Action::Withdraw, Action::Object])
}

fn any_region() -> impl Strategy<Value = Option<Region>> {
    let texts = vec![None, Some("DE"), Some("US"), Some("US-CA"), Some("US-TX"), Some("FR")];
    select(texts).prop_map(|text| text.map(|text| Region::parse(text).unwrap()))
}

fn any_categories() -> impl Strategy<Value = Vec<String>> {
    vec(select(CATEGORIES.map(str::to_owned).to_vec()), 0..3)
}

fn any_moment() -> impl Strategy<Value = Option<Millis>> {
    option::of((1..3 * LAST_EFFECT).prop_map(Millis))
}

/// A grant of a version that its purpose may not have yet: [`fit`] corrects that.
fn any_grant() -> impl Strategy<Value = ChangeRecord> {
    let parts = (select(PURPOSES.to_vec()), select(CHANNELS.to_vec()), 1..=3_u32, any_moment());
    (parts, any_categories()).prop_map(|(parts, categories)| {
        let (purpose, channel, version, expires_at) = parts;
        let mut grant = change(Action::Grant, scope(&format!("{purpose}:{channel}")), version);
        grant.expires_at = expires_at;
        grant.data_categories = categories;
        grant
    })
}

fn any_stop() -> impl Strategy<Value = ChangeRecord> {
    let purpose = option::weighted(0.8, select(NAMES_OF_PURPOSES.to_vec()));
    let channel = option::weighted(0.7, select(CHANNELS.to_vec()));
    (any_stop_action(), purpose, channel).prop_map(|(action, purpose, channel)| {
        let side = |key: Option<&'static str>| key.unwrap_or("*");
        change(action, scope(&format!("{}:{}", side(purpose), side(channel))), 0)
    })
}

fn act_of(
    changes: impl Strategy<Value = Vec<ChangeRecord>>,
    actor: impl Strategy<Value = Actor>,
) -> impl Strategy<Value = Act> {
    let parts = (any_name(), 0..LAST_EFFECT, actor, any_moment(), changes);
    parts.prop_map(|(subject, effective_at, actor, authority_ends_at, mut changes)| {
        // No two changes of an act have the same scope.
        let mut seen = Vec::new();
        changes.retain(|change| {
            let is_new = !seen.contains(&change.scope);
            seen.push(change.scope.clone());
            is_new
        });
        let effective_at = Millis(effective_at);
        Act { subject, effective_at, actor, authority_ends_at, changes }
    })
}

fn any_act() -> impl Strategy<Value = Act> {
    act_of(vec(prop_oneof![any_grant(), any_stop()], 1..4), any_actor())
}

fn any_confidence() -> impl Strategy<Value = LinkConfidence> {
    select(vec![LinkConfidence::Verified, LinkConfidence::Asserted])
}

/// One entry, before it has its index.
#[derive(Debug, Clone)]
enum Step {
    Act(Act),
    /// Confirms an act that waits: all of its grants or one.
    Confirm(Index, Option<Index>),
    Link(Name, Name, Option<LinkConfidence>),
    Erase(Name),
}

fn any_step() -> impl Strategy<Value = Step> {
    let link = (any_name(), any_name(), option::weighted(0.8, any_confidence()));
    prop_oneof![
        60 => any_act().prop_map(Step::Act),
        16 => any::<(Index, Option<Index>)>().prop_map(|(one, part)| Step::Confirm(one, part)),
        12 => link.prop_map(|(one, other, confidence)| Step::Link(one, other, confidence)),
        1 => any_name().prop_map(Step::Erase),
    ]
}

/// Makes every grant name a version that exists.
fn fit(catalog: &Catalog, act: &mut Act) {
    for change in act.changes.iter_mut().filter(|change| change.action == Action::Grant) {
        let key = change.scope.purpose.as_ref().and_then(PurposeName::as_one).unwrap();
        let purpose = catalog.purpose(catalog.purpose_id(key.as_str()).unwrap()).unwrap();
        change.purpose_version = change.purpose_version.min(purpose.version());
    }
}

fn confirmation(
    catalog: &Catalog,
    entries: &[Entry],
    one: Index,
    part: Option<Index>,
) -> Option<Content> {
    let requests: Vec<_> = entries
        .iter()
        .filter_map(|entry| match &entry.content {
            Content::Act(act) => Some((entry.index, act, act.waiting(catalog))),
            _ => None,
        })
        .filter(|(_, _, waiting)| !waiting.is_empty())
        .collect();
    let (request_index, request, waiting) =
        (!requests.is_empty()).then(|| one.get(&requests).clone())?;
    let grants = part.map_or(waiting.clone(), |part| vec![part.get(&waiting).clone()]);
    Some(Content::Confirmed(Confirmation { request_index, request: request.clone(), grants }))
}

fn any_world() -> impl Strategy<Value = World> {
    (any_catalog(), vec(any_step(), 1..14)).prop_map(|(catalog, steps)| {
        let mut entries = Vec::new();
        for (index, step) in (FIRST_ENTRY..).zip(steps) {
            let content = match step {
                Step::Act(mut act) => {
                    fit(&catalog, &mut act);
                    Some(Content::Act(act))
                }
                Step::Confirm(one, part) => confirmation(&catalog, &entries, one, part),
                Step::Link(one, other, confidence) => {
                    (one != other).then_some(Content::Link { one, other, confidence })
                }
                Step::Erase(name) => Some(Content::Erased(name)),
            };
            entries.extend(content.map(|content| Entry { index, content }));
        }
        World { catalog, entries }
    })
}

impl World {
    fn people(&self) -> People {
        People::after(&self.catalog, &self.entries)
    }

    fn cells(&self) -> Vec<CellKeys> {
        all_cells(&self.catalog)
    }

    /// Every cell at every one of [`MOMENTS`].
    fn cells_and_moments(&self) -> impl Iterator<Item = (CellKeys, Millis)> {
        self.cells().into_iter().flat_map(|cell| MOMENTS.map(|at| (cell.clone(), at)))
    }

    fn ask(
        &self,
        state: &SubjectState,
        cell: &CellKeys,
        region: Option<Region>,
        now: Millis,
    ) -> Decision {
        self.ask_for(state, cell, &[], region, now)
    }

    fn ask_for(
        &self,
        state: &SubjectState,
        cell: &CellKeys,
        categories: &[String],
        region: Option<Region>,
        now: Millis,
    ) -> Decision {
        let (purpose, channel) = (cell.0.as_str(), cell.1.as_str());
        let query = Query::new(&self.catalog, purpose, channel, categories, region);
        decide::decide(&self.catalog, state, &query, now)
    }

    /// Two names that are not linked, if there are any.
    fn unlinked(&self, pick: Index) -> Option<(Name, Name)> {
        let pairs = NAMES.iter().flat_map(|&one| NAMES.map(|other| (one, other)));
        let apart: Vec<_> =
            pairs.filter(|&(one, other)| one != other && !self.is_linked(one, other)).collect();
        (!apart.is_empty()).then(|| *pick.get(&apart))
    }

    fn is_linked(&self, one: Name, other: Name) -> bool {
        let links = self.entries.iter().filter_map(|entry| match entry.content {
            Content::Link { one: a, other: b, confidence } => Some(([a, b], confidence)),
            _ => None,
        });
        let mut between_both =
            links.filter(|(pair, _)| pair.contains(&one) && pair.contains(&other));
        between_both.next_back().is_some_and(|(_, confidence)| confidence.is_some())
    }
}

/// Moves each confirmation behind its request: it names an entry of the ledger.
fn requests_first(mut entries: Vec<Entry>) -> Vec<Entry> {
    for position in 0..entries.len() {
        let Content::Confirmed(confirmation) = &entries[position].content else { continue };
        let request = confirmation.request_index;
        let later = entries[position..].iter().position(|entry| entry.index == request);
        if let Some(distance) = later {
            entries.swap(position, position + distance);
        }
    }
    entries
}

fn link(one: Name, other: Name, confidence: Option<LinkConfidence>) -> Entry {
    Entry { index: AFTER_ALL, content: Content::Link { one, other, confidence } }
}

fn is_a_stop(reason: Reason) -> bool {
    matches!(reason, Reason::Refused | Reason::Withdrawn | Reason::Revoked | Reason::Objected)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_naive_model_answers_the_same(
        world in any_world(),
        categories in any_categories(),
        region in any_region(),
        now in 0..4 * LAST_EFFECT,
    ) {
        let people = world.people();
        let now = Millis(now);
        for name in [ASKED, 'b'] {
            let state = people.whole(name);
            for cell in &world.cells() {
                let got = world.ask_for(&state, cell, &categories, region, now);
                let categories = categories.as_slice();
                let question = Question { name, cell, categories, region, now };
                let want = naive::decide(&world.catalog, &world.entries, question);
                let got = naive::Answer {
                    reason: got.reason,
                    status: got.status,
                    decided_by: got.decided_by,
                    legal_basis: got.legal_basis.unwrap(),
                };
                prop_assert_eq!(got, want, "{} {}:{}", name, cell.0, cell.1);
            }
        }
    }

    #[test]
    fn valid_until_is_the_first_moment_at_which_the_answer_changes(
        world in any_world(),
        categories in any_categories(),
        region in any_region(),
        now in 0..3 * LAST_EFFECT,
    ) {
        let state = world.people().whole(ASKED);
        for cell in &world.cells() {
            let answer = |at| world.ask_for(&state, cell, &categories, region, Millis(at));
            let first = answer(now);
            let told = |answer: &Decision| (answer.reason, answer.decided_by);
            let change = (now..4 * LAST_EFFECT).find(|&at| told(&answer(at)) != told(&first));
            let change = change.map(Millis);
            prop_assert_eq!(first.valid_until, change, "{}:{} {:?}", cell.0, cell.1, first);
        }
    }

    #[test]
    fn the_order_of_arrival_never_matters(
        (world, shuffled) in any_world().prop_flat_map(|world| {
            // Links are always folded in the order of the ledger.
            let is_link = |entry: &Entry| matches!(entry.content, Content::Link { .. });
            let (links, others): (Vec<_>, Vec<_>) = world.entries.iter().cloned().partition(is_link);
            let shuffled = Just(others).prop_shuffle().prop_map(requests_first);
            (Just(world), shuffled.prop_map(move |others| [others, links.clone()].concat()))
        }),
    ) {
        prop_assert_eq!(world.people(), People::after(&world.catalog, &shuffled));
    }

    #[test]
    fn folding_again_changes_nothing(world in any_world(), again in any::<Index>()) {
        if world.entries.is_empty() {
            return Ok(());
        }
        let once = world.people();
        let mut twice = once.clone();
        // After a link, all later links are folded again too.
        let start = again.index(world.entries.len());
        let is_link = |entry: &Entry| matches!(entry.content, Content::Link { .. });
        for entry in &world.entries[start..] {
            twice.fold(&world.catalog, entry);
            if !is_link(&world.entries[start]) {
                break;
            }
        }
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn a_stop_never_turns_a_deny_into_an_allow(
        world in any_world(),
        stop in act_of(any_stop().prop_map(|stop| vec![stop]), any_actor()),
        categories in any_categories(),
        region in any_region(),
    ) {
        let mut people = world.people();
        let before = people.whole(ASKED);
        people.fold(&world.catalog, &Entry { index: AFTER_ALL, content: Content::Act(stop) });
        let after = people.whole(ASKED);
        for (cell, now) in world.cells_and_moments() {
            let was = world.ask_for(&before, &cell, &categories, region, now).effect();
            let is = world.ask_for(&after, &cell, &categories, region, now).effect();
            prop_assert!(was == Effect::Allow || is == Effect::Deny, "{}:{}", cell.0, cell.1);
        }
    }

    #[test]
    fn an_erasure_never_turns_a_deny_into_an_allow(world in any_world(), region in any_region()) {
        let before = world.people().whole(ASKED);
        let mut after = before.clone();
        after.erased_by = Some(AFTER_ALL);
        for (cell, now) in world.cells_and_moments() {
            let was = world.ask(&before, &cell, region, now).effect();
            let is = world.ask(&after, &cell, region, now).effect();
            prop_assert!(was == Effect::Allow || is == Effect::Deny, "{}:{}", cell.0, cell.1);
        }
    }

    #[test]
    fn a_grant_by_others_than_the_subject_never_lifts_a_stop(
        world in any_world(),
        mut grant in act_of(
            any_grant().prop_map(|grant| vec![grant]),
            select(vec![Actor::Operator, Actor::System, Actor::Import]),
        ),
        region in any_region(),
    ) {
        fit(&world.catalog, &mut grant);
        let mut people = world.people();
        let before = people.whole(ASKED);
        let (request_index, grants) = (AFTER_ALL, grant.waiting(&world.catalog));
        let confirmation = Confirmation { request_index, request: grant.clone(), grants };
        for (index, content) in (AFTER_ALL..).zip([Content::Act(grant), Content::Confirmed(confirmation)]) {
            people.fold(&world.catalog, &Entry { index, content });
        }
        let after = people.whole(ASKED);
        for (cell, now) in world.cells_and_moments() {
            let was = world.ask(&before, &cell, region, now);
            prop_assert!(!is_a_stop(was.reason) || world.ask(&after, &cell, region, now) == was);
        }
    }

    #[test]
    fn a_grant_that_a_stop_blocked_never_changes_an_answer(
        mut world in any_world(),
        categories in any_categories(),
        region in any_region(),
    ) {
        // An unlink takes away the stop that blocked it.
        world.entries.retain(|entry| !matches!(entry.content, Content::Link { .. }));
        let mut people = People::default();
        let mut blocked = Vec::new();
        for entry in &world.entries {
            let act = match &entry.content {
                Content::Confirmed(confirmation) => confirmation.request_index,
                _ => entry.index,
            };
            for change in people.record(&world.catalog, entry, Millis(LAST_EFFECT)) {
                if matches!(change.outcome, Outcome::BlockedByStop(_)) {
                    blocked.push((act, change.scope));
                }
            }
        }
        let is_blocked = |index: u64, change: &ChangeRecord| {
            change.action == Action::Grant && blocked.contains(&(index, change.scope.clone()))
        };
        let mut without = world.clone();
        for entry in &mut without.entries {
            match &mut entry.content {
                Content::Act(act) => act.changes.retain(|change| !is_blocked(entry.index, change)),
                Content::Confirmed(confirmation) => {
                    let index = confirmation.request_index;
                    confirmation.grants.retain(|change| !is_blocked(index, change));
                }
                Content::Link { .. } | Content::Erased(_) => {}
            }
        }
        let (with, without) = (people.whole(ASKED), without.people().whole(ASKED));
        for (cell, now) in world.cells_and_moments() {
            let answer = world.ask_for(&with, &cell, &categories, region, now);
            let want = world.ask_for(&without, &cell, &categories, region, now);
            prop_assert_eq!(answer, want, "{}:{} {:?}", cell.0, cell.1, blocked);
        }
    }

    #[test]
    fn a_link_reopens_only_what_a_later_grant_of_the_same_person_lifts(
        world in any_world(),
        other in select(NAMES[1..].to_vec()),
        confidence in any_confidence(),
        region in any_region(),
    ) {
        let mut people = world.people();
        let before = people.whole(ASKED);
        people.fold(&world.catalog, &link(ASKED, other, Some(confidence)));
        let after = people.whole(ASKED);
        for (cell, now) in world.cells_and_moments() {
            let was = world.ask(&before, &cell, region, now);
            let is = world.ask(&after, &cell, region, now);
            if !is_a_stop(was.reason) || is.effect() == Effect::Deny {
                continue;
            }
            prop_assert_eq!(confidence, LinkConfidence::Verified);
            let stop = before.live_stop(
                &world.catalog,
                world.catalog.purpose_id(cell.0.as_str()).unwrap(),
                world.catalog.channel_id(cell.1.as_str()).unwrap(),
            );
            let stopped_at = stop.unwrap().mark.effective_at;
            let lifts = |act: &Act| {
                act.effective_at >= stopped_at && speaks(act.actor) && act.changes.iter().any(|change| {
                    change.action == Action::Grant && naive::covers(&change.scope, &cell)
                })
            };
            let mut acts = world.entries.iter().filter_map(|entry| match &entry.content {
                Content::Act(act) => Some(act),
                _ => None,
            });
            prop_assert!(acts.any(lifts), "{}:{} {was:?} {is:?}", cell.0, cell.1);
        }
    }

    #[test]
    fn an_asserted_link_never_turns_a_deny_into_an_allow(
        world in any_world(),
        pair in any::<Index>(),
        region in any_region(),
    ) {
        // For a pair that is already linked, this could undo a verified link.
        let Some((one, other)) = world.unlinked(pair) else { return Ok(()) };
        let mut people = world.people();
        let before = people.clone();
        people.fold(&world.catalog, &link(one, other, Some(LinkConfidence::Asserted)));
        for name in NAMES {
            let (before, after) = (before.whole(name), people.whole(name));
            for (cell, now) in world.cells_and_moments() {
                let was = world.ask(&before, &cell, region, now).effect();
                let is = world.ask(&after, &cell, region, now).effect();
                prop_assert!(was == Effect::Allow || is == Effect::Deny, "{}:{}", cell.0, cell.1);
            }
        }
    }

    #[test]
    fn an_unlink_restores_the_state_before_the_link(
        world in any_world(),
        pair in any::<Index>(),
        confidence in any_confidence(),
        region in any_region(),
    ) {
        let Some((one, other)) = world.unlinked(pair) else { return Ok(()) };
        let mut people = world.people();
        let before = people.clone();
        people.fold(&world.catalog, &link(one, other, Some(confidence)));
        people.fold(&world.catalog, &link(other, one, None));
        for name in NAMES {
            let (before, after) = (before.whole(name), people.whole(name));
            prop_assert_eq!(before.stops(), after.stops());
            prop_assert_eq!(before.cells(), after.cells());
            for (cell, now) in world.cells_and_moments() {
                let was = world.ask(&before, &cell, region, now);
                prop_assert_eq!(was, world.ask(&after, &cell, region, now));
            }
        }
    }

    #[test]
    fn verified_links_give_all_names_the_same_answer(
        world in any_world(),
        other in select(NAMES[1..].to_vec()),
        region in any_region(),
    ) {
        let mut people = world.people();
        people.fold(&world.catalog, &link(ASKED, other, Some(LinkConfidence::Verified)));
        let (mut one, mut other) = (people.whole(ASKED), people.whole(other));
        // An erasure concerns one data subject alone.
        (one.erased_by, other.erased_by) = (None, None);
        for (cell, now) in world.cells_and_moments() {
            let answer = world.ask(&one, &cell, region, now);
            prop_assert_eq!(answer, world.ask(&other, &cell, region, now));
        }
    }

    #[test]
    fn outcomes_are_those_of_the_naive_model(world in any_world()) {
        let mut people = People::default();
        for (count, entry) in (1..).zip(&world.entries) {
            let now = Millis(LAST_EFFECT + i64::try_from(count).unwrap());
            for judged in people.record(&world.catalog, entry, now) {
                let known = &world.entries[..count];
                let (want, linked) = naive::verdict(&world.catalog, known, &judged, now);
                let got = judged.outcome;
                let is_right = want.admits(got) && linked == judged.linked_subjects;
                prop_assert!(
                    is_right, "{judged:?} of entry {}: want {want:?} +{linked}", entry.index
                );
            }
        }
        prop_assert_eq!(people, world.people());
    }

    #[test]
    fn outcomes_agree_with_the_decisions_before_and_after(
        world in any_world(),
        categories in any_categories(),
        region in any_region(),
    ) {
        let now = Millis(LAST_EFFECT);
        let mut people = People::default();
        for entry in &world.entries {
            let earlier = people.clone();
            let changes = people.record(&world.catalog, entry, now);
            if changes.is_empty() {
                continue;
            }
            let own = entry.names()[0];
            for cell in world.cells() {
                let in_cell = || changes.iter().filter(|c| naive::covers(&c.scope, &cell));
                let mut flipped = 0;
                for name in NAMES {
                    let ask = |people: &People| {
                        world.ask_for(&people.whole(name), &cell, &categories, region, now)
                    };
                    let (was, is) = (ask(&earlier), ask(&people));
                    if was.effect() == is.effect() {
                        continue;
                    }
                    flipped += u32::from(name != own);
                    // No effect changes without a change whose outcome is APPLIED. A grant can end
                    // an ALLOW too: the later one wins, and may be shorter or of an older version.
                    let is_applied = |change: &ChangeRecord| {
                        change.outcome == Outcome::Applied
                            && (change.action == Action::Grant || is.effect() == Effect::Deny)
                    };
                    prop_assert!(
                        in_cell().any(is_applied),
                        "{name} {}:{} {was:?} {is:?} {changes:?}", cell.0, cell.1
                    );
                }
                let said: u32 = in_cell().map(|change| change.linked_subjects).sum();
                prop_assert!(flipped <= said, "{}:{} {flipped} {changes:?}", cell.0, cell.1);
            }
            let after = people.whole(own);
            for change in &changes {
                if let Outcome::BlockedByStop(Some(cause)) = change.outcome {
                    let keys = change.scope.clone();
                    let purpose = keys.purpose.unwrap().as_one().unwrap().clone();
                    let cell = (purpose, keys.channel.unwrap());
                    let is = world.ask(&after, &cell, region, now);
                    let says_so = is.decided_by == Some(cause);
                    prop_assert!(says_so || !is_a_stop(is.reason) && is.reason != Reason::Erased);
                }
            }
        }
    }
}

/// Guards against histories so poor that every property holds of them.
#[test]
fn random_histories_reach_every_reason() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..500 {
        let world = any_world().new_tree(&mut runner).unwrap().current();
        let state = world.people().whole(ASKED);
        for (cell, now) in world.cells_and_moments() {
            let reason = world.ask(&state, &cell, None, now).reason;
            *counts.entry(format!("{reason:?}")).or_default() += 1;
        }
    }
    for reason in [
        "UnknownChannel",
        "PurposeRetired",
        "NotConsentBased",
        "Erased",
        "Refused",
        "Withdrawn",
        "Revoked",
        "Objected",
        "NoObjection",
        "NoRecord",
        "PendingConfirmation",
        "Expired",
        "ReconsentRequired",
        "Granted",
    ] {
        assert!(counts.get(reason).is_some_and(|&count| count >= 20), "{reason}: {counts:?}");
    }
}

#[test]
fn an_act_of_a_subject_alone_is_judged_the_same_in_one_step() {
    let catalog = super::world::catalog();
    let text = "5 subject grant news:email; 6 guardian/9 withdraw *:* and grant news:sms";
    let entries = super::world::entries(&catalog, text);
    let (mut people, mut state) = (People::default(), SubjectState::default());
    for entry in &entries {
        let Content::Act(act) = &entry.content else { unreachable!() };
        let facts = act.facts(entry.index);
        let got =
            consent_ledger::fold::consent::judge(&catalog, &mut state, facts, Millis(9)).unwrap();
        assert_eq!(got, people.record(&catalog, entry, Millis(9)));
        fold(&catalog, &mut state, &facts).unwrap();
    }
    assert_eq!(state, people.own_state(ASKED));
}
