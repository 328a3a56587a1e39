//! Named cases, and a comparison of every result with a search minute by minute.

use jiff::{
    Timestamp,
    tz::{TimeZone, TimeZoneDatabase},
};
use proptest::prelude::*;

use super::*;
use crate::domain::{ContactChange, Mark, Said};

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 1440 * MINUTE_MS;

fn at(text: &str) -> Millis {
    Millis(text.parse::<Timestamp>().unwrap().as_millisecond())
}

/// Minutes of the day: `21:00`.
fn minute(text: &str) -> u32 {
    let (hours, minutes) = text.split_once(':').unwrap();
    hours.parse::<u32>().unwrap() * 60 + minutes.parse::<u32>().unwrap()
}

fn hours(start: &str, end: &str, time_zone: &str) -> Obligation {
    Obligation::QuietHours {
        start_minute: minute(start),
        end_minute: minute(end),
        time_zone: time_zone.to_owned(),
    }
}

fn limit(uses_max: u32, period_ms: i64) -> Obligation {
    Obligation::FrequencyLimit { uses_max, period_ms }
}

fn contact(change: &ContactChange) -> Contact {
    let mut contact = Contact::default();
    contact.merge(Mark { effective_at: Millis(1), index: 1 }, change);
    contact
}

fn living_in(zones: &[&str]) -> Contact {
    let zones = zones.iter().map(|&zone| zone.to_owned()).collect();
    contact(&ContactChange { time_zones: Said::Value(zones), ..ContactChange::default() })
}

fn region(text: &str) -> Option<Region> {
    Some(Region::parse(text).unwrap())
}

/// The first moment that is right for all; none if one is indeterminate.
fn first_of(purpose: &[Obligation], uses: &[Millis], now: Millis) -> Option<Millis> {
    let all = due(purpose, None, None, uses, now);
    let is_open = all.obligations.iter().any(|due| due.indeterminate);
    (!is_open).then(|| all.not_before.unwrap_or(now))
}

#[test]
fn quiet_hours_of_one_zone() {
    #[rustfmt::skip]
    let cases = [
        // span                                        now                      first moment
        ("a plain day, before", "12:00", "14:00", "Europe/Berlin", "2026-06-10T09:59:59.999Z", "2026-06-10T09:59:59.999Z"),
        ("a plain day, the first moment", "12:00", "14:00", "Europe/Berlin", "2026-06-10T10:00:00Z", "2026-06-10T12:00:00Z"),
        ("a plain day, the last moment", "12:00", "14:00", "Europe/Berlin", "2026-06-10T11:59:59.999Z", "2026-06-10T12:00:00Z"),
        ("a plain day, the end", "12:00", "14:00", "Europe/Berlin", "2026-06-10T12:00:00Z", "2026-06-10T12:00:00Z"),
        ("past midnight, the evening", "21:00", "09:00", "Europe/Berlin", "2026-06-10T20:00:00Z", "2026-06-11T07:00:00Z"),
        ("past midnight, the morning", "21:00", "09:00", "Europe/Berlin", "2026-06-11T06:59:00Z", "2026-06-11T07:00:00Z"),
        ("to midnight", "22:00", "00:00", "Europe/Berlin", "2026-06-10T21:30:00Z", "2026-06-10T22:00:00Z"),
        ("from midnight", "00:00", "06:00", "Europe/Berlin", "2026-06-10T22:00:00Z", "2026-06-11T04:00:00Z"),
        ("all day but a minute", "12:01", "12:00", "Europe/Berlin", "2026-06-10T10:01:00Z", "2026-06-11T10:00:00Z"),
        // Clocks go from 02:00 to 03:00 at 01:00Z.
        ("the night is an hour shorter", "21:00", "09:00", "Europe/Berlin", "2026-03-28T21:00:00Z", "2026-03-29T07:00:00Z"),
        ("times that are left out are never quiet", "02:15", "02:45", "Europe/Berlin", "2026-03-29T00:59:59Z", "2026-03-29T00:59:59Z"),
        ("times that are left out are never quiet", "02:15", "02:45", "Europe/Berlin", "2026-03-29T01:00:00Z", "2026-03-29T01:00:00Z"),
        ("the end is left out", "01:30", "02:30", "Europe/Berlin", "2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z"),
        ("the start is left out", "02:30", "03:30", "Europe/Berlin", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"),
        // Clocks go from 03:00 to 02:00 at 01:00Z.
        ("the night is an hour longer", "21:00", "09:00", "Europe/Berlin", "2026-10-24T19:00:00Z", "2026-10-25T08:00:00Z"),
        ("the repeated hour is quiet twice", "02:00", "03:00", "Europe/Berlin", "2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z"),
        ("repeated times are quiet twice, the first", "02:15", "02:45", "Europe/Berlin", "2026-10-25T00:15:00Z", "2026-10-25T00:45:00Z"),
        ("repeated times are quiet twice, the second", "02:15", "02:45", "Europe/Berlin", "2026-10-25T01:20:00Z", "2026-10-25T01:45:00Z"),
        ("the end comes first before the change", "01:00", "02:30", "Europe/Berlin", "2026-10-24T23:30:00Z", "2026-10-25T00:30:00Z"),
        ("the clock goes back into the span", "02:30", "03:15", "Europe/Berlin", "2026-10-25T00:45:00Z", "2026-10-25T01:00:00Z"),
        // Offsets that are not whole hours.
        ("Kathmandu, +05:45", "21:00", "09:00", "Asia/Kathmandu", "2026-06-10T16:00:00Z", "2026-06-11T03:15:00Z"),
        ("Lord Howe, back by half an hour", "01:30", "02:00", "Australia/Lord_Howe", "2026-04-04T14:30:00Z", "2026-04-04T15:30:00Z"),
        ("Lord Howe, on by half an hour", "02:00", "02:30", "Australia/Lord_Howe", "2026-10-03T15:30:00Z", "2026-10-03T15:30:00Z"),
        ("Monrovia, -00:44:30", "12:00", "13:00", "Africa/Monrovia", "1960-01-01T12:50:00Z", "1960-01-01T13:44:30Z"),
        // Samoa had no 30 December 2011.
        ("a day is left out", "08:00", "20:00", "Pacific/Apia", "2011-12-30T09:59:00Z", "2011-12-30T09:59:00Z"),
        ("long after the last change that is listed", "21:00", "09:00", "Europe/Berlin", "2300-07-01T20:00:00Z", "2300-07-02T07:00:00Z"),
    ];
    for (name, start, end, zone, now, first) in cases {
        let found = first_of(&[hours(start, end, zone)], &[], at(now));
        assert_eq!(found, Some(at(first)), "{name}: {start}-{end} {zone} at {now}");
    }
}

#[test]
fn a_moment_is_right_if_it_is_right_in_all_plausible_zones() {
    let quiet = [hours("21:00", "09:00", "")];
    let first = |contact: Option<&Contact>, region, now| {
        let all = due(&quiet, contact, region, &[], at(now));
        assert!(!all.obligations[0].indeterminate);
        all.obligations[0].not_before.unwrap()
    };
    // From 09:00 in Honolulu to 21:00 in New York.
    let summer = [
        ("2026-07-01T18:59:00Z", "2026-07-01T19:00:00Z"),
        ("2026-07-01T19:00:00Z", "2026-07-01T19:00:00Z"),
        ("2026-07-02T00:59:59Z", "2026-07-02T00:59:59Z"),
        ("2026-07-02T01:00:00Z", "2026-07-02T19:00:00Z"),
    ];
    for (now, right) in summer {
        assert_eq!(first(None, region("US"), now), at(right), "{now}");
        assert_eq!(first(None, region("US-NY"), now), at(right), "{now}");
    }
    // In winter New York is an hour later, and Honolulu is not.
    assert_eq!(first(None, region("US"), "2026-12-02T02:00:00Z"), at("2026-12-02T19:00:00Z"));
    assert_eq!(first(None, region("US"), "2026-12-02T01:59:00Z"), at("2026-12-02T01:59:00Z"));

    // The data subject's own zones have priority over the region.
    let vienna = living_in(&["Europe/Vienna"]);
    let now = "2026-07-01T18:59:00Z";
    assert_eq!(first(Some(&vienna), region("US"), now), at(now));
    let travels = living_in(&["Europe/Vienna", "America/New_York"]);
    assert_eq!(first(Some(&travels), region("US"), now), at(now));
    assert_eq!(
        first(Some(&travels), region("US"), "2026-07-01T19:00:00Z"),
        at("2026-07-02T13:00:00Z")
    );
    // And the purpose's own zone before both.
    let tokyo = [hours("21:00", "09:00", "Asia/Tokyo")];
    let all = due(&tokyo, Some(&vienna), region("US"), &[], at(now));
    assert_eq!(all.not_before, Some(at("2026-07-02T00:00:00Z")));
}

#[test]
fn somewhere_in_the_world_it_is_always_night() {
    let now = at("2026-07-01T12:00:00Z");
    for contact in [None, Some(&Contact::default()), Some(&living_in(&["Mars/Olympus_Mons"]))] {
        let all = due(&[hours("21:00", "09:00", "")], contact, None, &[], now);
        assert!(all.obligations[0].indeterminate);
        assert_eq!((all.obligations[0].not_before, all.not_before), (None, None));
    }
    // A zone that the database does not have is not known, whatever else is.
    let odd = [hours("21:00", "09:00", "Mars/Olympus_Mons")];
    let all = due(&odd, Some(&living_in(&["Europe/Vienna"])), region("AT"), &[], now);
    assert!(all.obligations[0].indeterminate);
    // Five minutes can be waited for.
    let all = due(&[hours("12:00", "12:05", "")], None, None, &[], now);
    assert_eq!(all.not_before, Some(at("2026-07-01T12:05:00Z")));
    // One that is indeterminate leaves the others their moments, and the whole none.
    let both = [hours("21:00", "09:00", ""), limit(1, DAY_MS)];
    let all = due(&both, None, None, &[now], now);
    assert_eq!(all.obligations[1].not_before, Some(now.plus_ms(DAY_MS)));
    assert_eq!(all.not_before, None);
}

#[test]
fn a_limit_leaves_the_next_use_to_the_moment_at_which_an_old_one_leaves_the_period() {
    let first = |uses_max, uses: &[i64], now| {
        let uses: Vec<_> = uses.iter().copied().map(Millis).collect();
        let all = due(&[limit(uses_max, 100)], None, None, &uses, Millis(now));
        all.obligations[0].not_before.unwrap().0
    };
    assert_eq!(first(1, &[], 1000), 1000);
    assert_eq!(first(1, &[950], 1000), 1050);
    assert_eq!(first(1, &[900], 1000), 1000);
    assert_eq!(first(1, &[901], 1000), 1001);
    assert_eq!(first(2, &[990, 950], 1000), 1050);
    assert_eq!(first(2, &[990, 910, 950, 930], 1000), 1050);
    assert_eq!(first(3, &[990, 910, 950, 930], 1000), 1030);
    assert_eq!(first(5, &[990, 910, 950, 930], 1000), 1000);
    // A clock that was ahead: it counts from then on.
    assert_eq!(first(1, &[1010], 1000), 1000);
    assert_eq!(first(1, &[1010, 950], 1000), 1110);
}

#[test]
fn the_data_subjects_own_conditions_come_after_those_of_the_purpose() {
    let subject = contact(&ContactChange {
        time_zones: Said::Value(vec!["Europe/Vienna".to_owned()]),
        language: Said::Value("de-AT".to_owned()),
        quiet_hours: Said::Value(QuietSpan { start_minute: 0, end_minute: 12 * 60 }),
        frequency_limit: Said::Value(FrequencyCap { uses_max: 1, period_ms: 2 * DAY_MS }),
    });
    let now = at("2026-07-01T12:00:00Z");
    let all =
        due(&[hours("20:00", "23:00", ""), limit(2, DAY_MS)], Some(&subject), None, &[now], now);
    let expected = [
        (
            Condition::QuietHours {
                span: QuietSpan { start_minute: 20 * 60, end_minute: 23 * 60 },
                time_zone: String::new(),
            },
            Some(now),
        ),
        (Condition::FrequencyLimit(FrequencyCap { uses_max: 2, period_ms: DAY_MS }), Some(now)),
        (
            Condition::QuietHours {
                span: QuietSpan { start_minute: 0, end_minute: 12 * 60 },
                time_zone: String::new(),
            },
            Some(now),
        ),
        (
            Condition::FrequencyLimit(FrequencyCap { uses_max: 1, period_ms: 2 * DAY_MS }),
            Some(now.plus_ms(2 * DAY_MS)),
        ),
        (Condition::PreferredLanguage("de-AT".into()), None),
    ];
    let found: Vec<_> =
        all.obligations.iter().map(|due| (due.condition.clone(), due.not_before)).collect();
    assert_eq!(found, expected);
    assert!(all.obligations.iter().all(|due| !due.indeterminate));
    assert_eq!(all.not_before, Some(now.plus_ms(2 * DAY_MS)));

    // Two days later it is 23:30; an hour after that it is quiet until noon.
    let used = at("2026-07-01T21:30:00Z");
    let all = due(&[], Some(&subject), None, &[used], used);
    assert_eq!(all.not_before, Some(at("2026-07-03T21:30:00Z")));
    let used = at("2026-07-01T22:30:00Z");
    let all = due(&[], Some(&subject), None, &[used], used);
    assert_eq!(all.not_before, Some(at("2026-07-04T10:00:00Z")));
}

#[test]
fn without_conditions_there_is_nothing_to_say() {
    let now = at("2026-07-01T12:00:00Z");
    for contact in [None, Some(&Contact::default()), Some(&living_in(&["Europe/Vienna"]))] {
        assert_eq!(due(&[], contact, region("AT"), &[now], now), DueAll::default());
    }
    let german =
        contact(&ContactChange { language: Said::Value("de".to_owned()), ..Default::default() });
    let all = due(&[], Some(&german), None, &[], now);
    let due = Due {
        condition: Condition::PreferredLanguage("de".into()),
        not_before: None,
        indeterminate: false,
    };
    assert_eq!(all, DueAll { obligations: vec![due], not_before: None });
}

#[test]
fn hours_that_contradict_each_other_leave_no_moment() {
    let now = at("2026-07-01T12:00:00Z");
    let contrary = [
        hours("08:00", "20:00", "Europe/Vienna"),
        hours("20:00", "08:00", "Europe/Vienna"),
        limit(1, DAY_MS),
    ];
    let all = due(&contrary, None, None, &[], now);
    let indeterminate: Vec<_> = all.obligations.iter().map(|due| due.indeterminate).collect();
    assert_eq!(indeterminate, [true, true, false]);
    assert_eq!(all.not_before, None);
    let all = due(
        &[hours("08:00", "20:00", "Europe/Vienna"), hours("20:01", "08:00", "Europe/Vienna")],
        None,
        None,
        &[],
        now,
    );
    assert_eq!(all.not_before, Some(at("2026-07-01T18:00:00Z")));
}

#[test]
fn the_ends_of_time_are_no_panic() {
    let purpose =
        [hours("21:00", "09:00", "Europe/Vienna"), hours("21:00", "09:00", ""), limit(1, 5)];
    for now in [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX - 1, i64::MAX] {
        for use_at in [i64::MIN, 0, i64::MAX] {
            let _ = due(&purpose, None, None, &[Millis(use_at)], Millis(now));
        }
    }
    let odd = [limit(0, 5), hours("00:00", "00:00", "UTC")];
    let all = due(&odd, None, None, &[], Millis(0));
    assert!(all.obligations[0].indeterminate);
    assert!(!all.obligations[1].indeterminate);
}

/// Whether the clock on the wall shows a minute of the span.
fn is_quiet(zone: &TimeZone, span: QuietSpan, moment: i64) -> bool {
    let time = zone.to_datetime(Timestamp::from_millisecond(moment).unwrap()).time();
    let minute = u32::try_from(i32::from(time.hour()) * 60 + i32::from(time.minute())).unwrap();
    match span.start_minute <= span.end_minute {
        true => (span.start_minute..span.end_minute).contains(&minute),
        false => minute >= span.start_minute || minute < span.end_minute,
    }
}

/// The moment itself, then every full minute of eight days. Since 1980 all clocks are changed at
/// full minutes, and differ by full minutes.
fn minutes_from(now: i64) -> impl Iterator<Item = i64> {
    let next = (now.div_euclid(MINUTE_MS) + 1) * MINUTE_MS;
    std::iter::once(now)
        .chain((0..).map(move |minutes| next + minutes * MINUTE_MS))
        .take_while(move |moment| *moment <= now + 8 * DAY_MS)
}

fn any_zone() -> impl Strategy<Value = TimeZone> {
    let names: Vec<_> =
        TimeZoneDatabase::bundled().available().map(|name| name.as_str().to_owned()).collect();
    prop_oneof![
        3 => prop::sample::select(names),
        1 => prop::sample::select(vec![
            "Europe/Berlin".to_owned(),
            "Australia/Lord_Howe".to_owned(),
            "Africa/Casablanca".to_owned(),
            "Antarctica/Troll".to_owned(),
            "America/Santiago".to_owned(),
        ]),
    ]
    .prop_map(|name| TimeZoneDatabase::bundled().get(&name).unwrap())
}

fn any_span() -> impl Strategy<Value = QuietSpan> {
    // Many short spans, and many that are nearly the whole day.
    (0..1440u32, prop_oneof![1..120u32, 1..1440u32, 1300..1440u32]).prop_map(|(start, length)| {
        QuietSpan { start_minute: start, end_minute: (start + length) % 1440 }
    })
}

/// Moments of 1980 to 2090; half of them within two days of a change of clocks.
fn any_moment() -> impl Strategy<Value = (i64, bool, i64)> {
    (315_532_800_000..3_786_912_000_000i64, any::<bool>(), -2 * DAY_MS..2 * DAY_MS)
}

fn near_change(zone: &TimeZone, (moment, near, by): (i64, bool, i64)) -> Millis {
    let change = zone.following(Timestamp::from_millisecond(moment).unwrap()).next();
    match change.filter(|_| near) {
        Some(change) => Millis(change.timestamp().as_millisecond() + by),
        None => Millis(moment),
    }
}

fn name_of(zone: &TimeZone) -> String {
    zone.iana_name().unwrap().to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_first_moment_is_the_first_that_a_walk_through_the_minutes_finds(
        zones in prop::collection::vec(any_zone(), 1..4),
        span in any_span(),
        moment in any_moment(),
    ) {
        let now = near_change(&zones[0], moment);
        let walked = minutes_from(now.0)
            .find(|moment| zones.iter().all(|zone| !is_quiet(zone, span, *moment)));
        let names: Vec<_> = zones.iter().map(name_of).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let QuietSpan { start_minute, end_minute } = span;
        let purpose = [Obligation::QuietHours { start_minute, end_minute, time_zone: String::new() }];
        let all = due(&purpose, Some(&living_in(&names)), None, &[], now);
        prop_assert_eq!(all.obligations[0].not_before, walked.map(Millis));
        prop_assert_eq!(all.obligations[0].indeterminate, walked.is_none());
        prop_assert_eq!(all.not_before, walked.map(Millis).filter(|moment| *moment > now));
    }

    #[test]
    fn the_first_moment_for_all_is_the_first_that_a_walk_finds(
        zones in prop::collection::vec((any_zone(), any_span()), 1..4),
        caps in prop::collection::vec((1..4u32, 1..4_000i64), 0..3),
        uses in prop::collection::vec(-4_000..600i64, 0..6),
        moment in any_moment(),
    ) {
        let now = near_change(&zones[0].0, moment);
        let now = Millis(now.0.div_euclid(MINUTE_MS) * MINUTE_MS);
        let uses: Vec<_> = uses.iter().map(|minutes| now.plus_ms(minutes * MINUTE_MS)).collect();
        let is_spent = |uses_max: u32, minutes: i64, moment: i64| {
            let period = moment - minutes * MINUTE_MS + 1..=moment;
            uses.iter().filter(|at| period.contains(&at.0)).count() >= uses_max as usize
        };
        let walked = minutes_from(now.0).find(|moment| {
            zones.iter().all(|(zone, span)| !is_quiet(zone, *span, *moment))
                && caps.iter().all(|(uses_max, minutes)| !is_spent(*uses_max, *minutes, *moment))
        });
        let hours = zones.iter().map(|(zone, span)| Obligation::QuietHours {
            start_minute: span.start_minute,
            end_minute: span.end_minute,
            time_zone: name_of(zone),
        });
        let limits = caps.iter().map(|(uses_max, minutes)| limit(*uses_max, minutes * MINUTE_MS));
        let purpose: Vec<_> = hours.chain(limits).collect();
        let found = first_of(&purpose, &uses, now);
        match walked {
            Some(moment) => prop_assert_eq!(found, Some(Millis(moment))),
            // After a limit, the search covers more time than the minute-by-minute walk.
            None => prop_assert!(found.is_none_or(|found| found.0 > now.0 + 8 * DAY_MS)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn of_a_country_all_zones_count(
        country in prop::sample::select(vec!["US", "RU", "AU", "BR", "CL", "KZ", "AQ", "DE"]),
        span in any_span(),
        second in 1_577_836_800..3_155_760_000i64, // 2020 to 2069
    ) {
        let zones: Vec<_> = TimeZoneDatabase::bundled()
            .available()
            .map(|name| TimeZoneDatabase::bundled().get(name.as_str()).unwrap())
            .filter(|zone| zone.location().is_some_and(|place| place.country() == country))
            .collect();
        let now = Millis(second * 1000);
        let walked = minutes_from(now.0)
            .find(|moment| zones.iter().all(|zone| !is_quiet(zone, span, *moment)));
        let QuietSpan { start_minute, end_minute } = span;
        let purpose = [Obligation::QuietHours { start_minute, end_minute, time_zone: String::new() }];
        let all = due(&purpose, None, region(country), &[], now);
        prop_assert_eq!(all.obligations[0].not_before, walked.map(Millis));
    }
}
