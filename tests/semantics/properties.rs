//! Properties over random histories: all actors, all widths of stop, ties, late arrivals, double
//! opt-in, versions, expiry, retirement, erasure. `PROPTEST_CASES` sets how many are tried.

use std::env;

use consent_ledger::{
    decide,
    domain::{
        Action, Actor, Catalog, ChangeRecord, Decision, Effect, Millis, Outcome, Query, Reason,
        SubjectState,
    },
    view::fold::{fold, judge},
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    naive::{self, CellKeys, all_cells},
    world::{Act, CHANNELS, FIRST_ACT, catalog, change, scope, state_after},
};

const PURPOSES: [(&str, u32); 7] = [
    ("news", 1),
    ("offers", 1),
    ("care", 1),
    ("invoice", 1),
    ("old", 1),
    ("profile", 2),
    ("club", 2),
];
const CATEGORIES: [&str; 4] = ["user.contact", "user.contact.email", "user.name", "user.age"];
/// Acts take effect before this moment, and are recorded at it or later.
const LAST_EFFECT: i64 = 8;

fn config() -> ProptestConfig {
    let cases_are_set = env::var_os("PROPTEST_CASES").is_some();
    let own = ProptestConfig::default();
    let cases = if cases_are_set { own.cases } else { 3_000 };
    ProptestConfig { cases, failure_persistence: None, ..own }
}

fn any_actor() -> impl Strategy<Value = Actor> {
    use Actor::{Agent, Guardian, Import, Operator, Subject, System};
    // The subject acts as often as all others together.
    prop_oneof![Just(Subject), select(vec![Guardian, Agent, Operator, System, Import])]
}

fn any_stop_action() -> impl Strategy<Value = Action> {
    select(vec![Action::Refuse, Action::Withdraw, Action::Object])
}

fn any_categories() -> impl Strategy<Value = Vec<String>> {
    vec(select(CATEGORIES.map(str::to_owned).to_vec()), 0..3)
}

fn any_grant() -> impl Strategy<Value = ChangeRecord> {
    let expires_after = option::of(1..3 * LAST_EFFECT);
    let parts = (select(PURPOSES.to_vec()), select(CHANNELS.to_vec()), 1..=2_u32, expires_after);
    (parts, any_categories()).prop_map(|(parts, categories)| {
        let ((purpose, versions), (channel, _), version, expires_at) = parts;
        let scope = scope(&format!("{purpose}:{channel}"));
        let mut grant = change(Action::Grant, scope, version.min(versions));
        grant.expires_at = expires_at.map(Millis);
        grant.data_categories = categories;
        grant
    })
}

fn any_stop() -> impl Strategy<Value = ChangeRecord> {
    let purpose = option::weighted(0.7, select(PURPOSES.map(|(key, _)| key).to_vec()));
    let channel = option::weighted(0.7, select(CHANNELS.map(|(key, _)| key).to_vec()));
    (any_stop_action(), purpose, channel).prop_map(|(action, purpose, channel)| {
        let side = |key: Option<&'static str>| key.unwrap_or("*");
        change(action, scope(&format!("{}:{}", side(purpose), side(channel))), 0)
    })
}

fn any_act() -> impl Strategy<Value = Act> {
    let changes = vec(prop_oneof![any_grant(), any_stop()], 1..4);
    (0..LAST_EFFECT, any_actor(), changes).prop_map(|(effective_at, actor, mut changes)| {
        // No two changes of an act have the same scope.
        let mut seen = Vec::new();
        changes.retain(|change| {
            let is_new = !seen.contains(&change.scope);
            seen.push(change.scope.clone());
            is_new
        });
        Act { index: 0, effective_at: Millis(effective_at), actor, changes }
    })
}

fn any_history() -> impl Strategy<Value = Vec<Act>> {
    vec(any_act(), 1..14).prop_map(|mut acts| {
        for (index, act) in (FIRST_ACT..).zip(&mut acts) {
            act.index = index;
        }
        acts
    })
}

fn any_erasure() -> impl Strategy<Value = Option<u64>> {
    option::weighted(0.1, Just(500))
}

fn ask(
    catalog: &Catalog,
    state: &SubjectState,
    cell: &CellKeys,
    categories: &[String],
    now: Millis,
) -> Decision {
    let query = Query::new(catalog, cell.0.as_str(), cell.1.as_str(), categories);
    decide::decide(catalog, state, &query, now)
}

/// Moments that see every grant, some of them expired, and all of them expired.
const MOMENTS: [Millis; 3] = [Millis(0), Millis(LAST_EFFECT), Millis(4 * LAST_EFFECT)];

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_naive_model_answers_the_same(
        acts in any_history(),
        erased_by in any_erasure(),
        categories in any_categories(),
        now in 0..4 * LAST_EFFECT,
    ) {
        let catalog = catalog();
        let mut state = state_after(&catalog, &acts);
        state.erased_by = erased_by;
        let now = Millis(now);
        for cell in all_cells(&catalog) {
            let got = ask(&catalog, &state, &cell, &categories, now);
            let want = naive::decide(&catalog, &acts, erased_by, &cell, &categories, now);
            let got = naive::Answer { reason: got.reason, decided_by: got.decided_by };
            prop_assert_eq!(got, want, "{}:{}", cell.0, cell.1);
        }
    }

    #[test]
    fn valid_until_is_the_first_moment_at_which_the_answer_changes(
        acts in any_history(),
        categories in any_categories(),
        now in 0..3 * LAST_EFFECT,
    ) {
        let catalog = catalog();
        let state = state_after(&catalog, &acts);
        for cell in all_cells(&catalog) {
            let first = ask(&catalog, &state, &cell, &categories, Millis(now));
            let change = (now..5 * LAST_EFFECT).map(Millis).find(|&at| {
                ask(&catalog, &state, &cell, &categories, at).reason != first.reason
            });
            prop_assert_eq!(first.valid_until, change, "{}:{} {:?}", cell.0, cell.1, first);
        }
    }

    #[test]
    fn the_order_of_arrival_never_matters(
        (acts, shuffled) in any_history().prop_flat_map(|acts| {
            (Just(acts.clone()), Just(acts).prop_shuffle())
        }),
    ) {
        let catalog = catalog();
        prop_assert_eq!(state_after(&catalog, &acts), state_after(&catalog, &shuffled));
    }

    #[test]
    fn folding_again_changes_nothing(acts in any_history(), again in any::<prop::sample::Index>()) {
        let catalog = catalog();
        let once = state_after(&catalog, &acts);
        let mut twice = once.clone();
        fold(&catalog, &mut twice, &acts[again.index(acts.len())].facts()).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn a_stop_never_turns_a_deny_into_an_allow(
        acts in any_history(),
        stop in any_stop(),
        effective_at in 0..LAST_EFFECT,
        actor in any_actor(),
        categories in any_categories(),
    ) {
        let catalog = catalog();
        let mut state = state_after(&catalog, &acts);
        let before = state.clone();
        let effective_at = Millis(effective_at);
        let act = Act { index: 900, effective_at, actor, changes: vec![stop] };
        fold(&catalog, &mut state, &act.facts()).unwrap();
        for (cell, now) in all_cells(&catalog).iter().flat_map(|c| MOMENTS.map(|at| (c, at))) {
            let was = ask(&catalog, &before, cell, &categories, now).effect();
            let is = ask(&catalog, &state, cell, &categories, now).effect();
            prop_assert!(was == Effect::Allow || is == Effect::Deny, "{}:{}", cell.0, cell.1);
        }
    }

    #[test]
    fn a_grant_by_others_than_the_subject_never_lifts_a_stop(
        acts in any_history(),
        grant in any_grant(),
        effective_at in 0..LAST_EFFECT,
        actor in select(vec![Actor::Operator, Actor::System, Actor::Import]),
    ) {
        let catalog = catalog();
        let mut state = state_after(&catalog, &acts);
        let before = state.clone();
        let effective_at = Millis(effective_at);
        let act = Act { index: 900, effective_at, actor, changes: vec![grant] };
        fold(&catalog, &mut state, &act.facts()).unwrap();
        for (cell, now) in all_cells(&catalog).iter().flat_map(|c| MOMENTS.map(|at| (c, at))) {
            let was = ask(&catalog, &before, cell, &[], now);
            let stopped = matches!(
                was.reason,
                Reason::Refused | Reason::Withdrawn | Reason::Revoked | Reason::Objected
            );
            prop_assert!(!stopped || ask(&catalog, &state, cell, &[], now) == was);
        }
    }

    #[test]
    fn outcomes_are_those_of_the_naive_model(acts in any_history(), erased_by in any_erasure()) {
        let catalog = catalog();
        let mut state = SubjectState::from_parts(Vec::new(), Vec::new(), erased_by, 0);
        for (count, act) in (1..).zip(&acts) {
            let now = Millis(LAST_EFFECT + i64::try_from(count).unwrap());
            let mut changes = act.changes.clone();
            let (index, effective_at) = (act.index, act.effective_at);
            judge(&catalog, &mut state, index, now, effective_at, act.actor, &mut changes).unwrap();
            for (judged, change) in changes.iter().zip(&act.changes) {
                let want = naive::verdict(&catalog, &acts[..count], erased_by, change, now);
                let got = judged.outcome;
                prop_assert!(want.admits(got), "{judged:?} of act {index}: want {want:?}");
            }
        }
        let mut folded = state_after(&catalog, &acts);
        folded.erased_by = erased_by;
        prop_assert_eq!(state, folded);
    }

    #[test]
    fn outcomes_agree_with_the_decisions_before_and_after(acts in any_history()) {
        let catalog = catalog();
        let now = Millis(LAST_EFFECT);
        let mut state = SubjectState::default();
        for act in &acts {
            let before = state.clone();
            let mut changes = act.changes.clone();
            let (index, effective_at) = (act.index, act.effective_at);
            judge(&catalog, &mut state, index, now, effective_at, act.actor, &mut changes).unwrap();
            for cell in all_cells(&catalog) {
                let was = ask(&catalog, &before, &cell, &[], now);
                let is = ask(&catalog, &state, &cell, &[], now);
                // No effect changes without a change that says it was applied. A grant can end an
                // ALLOW too: the later one wins, and may be the shorter or of an older version.
                let is_applied = |change: &ChangeRecord| {
                    change.outcome == Outcome::Applied
                        && (change.action == Action::Grant || is.effect() == Effect::Deny)
                };
                let mut own = changes.iter().filter(|c| naive::covers(&c.scope, &cell));
                prop_assert!(
                    was.effect() == is.effect() || own.any(is_applied),
                    "{}:{} {was:?} {is:?} {changes:?}", cell.0, cell.1
                );
            }
            for change in &changes {
                if let Outcome::BlockedByStop(cause) = change.outcome {
                    let keys = change.scope.clone();
                    let cell = (keys.purpose.unwrap(), keys.channel.unwrap());
                    let is = ask(&catalog, &state, &cell, &[], now);
                    let is_live = !matches!(is.reason, Reason::UnknownChannel | Reason::PurposeRetired);
                    prop_assert!(!is_live || is.decided_by == Some(cause));
                }
            }
        }
    }
}
