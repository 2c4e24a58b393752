//! Endpoints nearby first, as far as they suffice.

use crate::random::unit;

/// How much of one zone's traffic goes to which zone.
///
/// Traffic stays in its zone as long as the zone has at least the share of endpoints that it has of the traffic. Where it
/// has fewer, what is too much goes to the zones that have more than their share, in proportion to their surplus. So
/// endpoints are loaded evenly whatever the zones look like, and as little as possible crosses between them.
///
/// ```
/// use resilience::balance::ZoneShares;
///
/// // our zone, the first, has half of the traffic and a quarter of the endpoints
/// let shares = ZoneShares::new(&[0.5, 0.5], &[1, 3], 0);
/// assert_eq!(shares.of(0), 0.5);
/// assert_eq!(shares.of(1), 0.5);
/// // without endpoints that are fit in our zone everything crosses
/// assert_eq!(ZoneShares::new(&[0.5, 0.5], &[0, 3], 0).of(1), 1.0);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneShares(Vec<f64>);

impl ZoneShares {
    /// The shares of the zone `own`, by the share of all traffic that comes from each zone and the endpoints fit for use in
    /// each. Where nothing is fit, nothing gets a share. A zone that is missing in either has nothing.
    pub fn new(traffic: &[f64], endpoints: &[u32], own: usize) -> Self {
        let total = endpoints.iter().map(|count| f64::from(*count)).sum::<f64>();
        if total == 0.0 {
            return Self(vec![0.0; endpoints.len()]);
        }
        let traffic_total = traffic.iter().sum::<f64>();
        let comes = |zone: usize| match traffic.get(zone) {
            Some(share) if traffic_total > 0.0 => share / traffic_total,
            _ => 0.0,
        };
        let has = |zone: usize| endpoints.get(zone).map_or(0.0, |count| f64::from(*count) / total);
        // nobody knows of any traffic of ours, so there is little of it
        let local =
            if comes(own) > 0.0 { (has(own) / comes(own)).min(1.0) } else { f64::from(u8::from(has(own) > 0.0)) };
        let surplus = |zone: usize| if zone == own { 0.0 } else { (has(zone) - comes(zone)).max(0.0) };
        let surpluses = (0..endpoints.len()).map(surplus).sum::<f64>();
        let elsewhere = |zone: usize| {
            if surpluses > 0.0 {
                surplus(zone) / surpluses
            } else if zone != own && has(own) < 1.0 {
                has(zone) / (1.0 - has(own))
            } else {
                0.0
            }
        };
        let share = |zone| if zone == own { local } else { (1.0 - local) * elsewhere(zone) };
        Self((0..endpoints.len()).map(share).collect())
    }

    /// The share of a zone.
    pub fn of(&self, zone: usize) -> f64 {
        self.0.get(zone).copied().unwrap_or(0.0)
    }

    /// The zone that a request goes to.
    pub fn pick(&self, random: u64) -> Option<usize> {
        let mut left = unit(random);
        let fitting = (0..self.0.len()).filter(|zone| self.0[*zone] > 0.0);
        let mut last = None;
        for zone in fitting {
            last = Some(zone);
            if left < self.0[zone] {
                break;
            }
            left -= self.0[zone];
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_endpoint_gets_the_same_however_zones_look(
            zones in prop::collection::vec((1u32..100, 0u32..20), 1..6),
        ) {
            let total_traffic: u32 = zones.iter().map(|(traffic, _)| traffic).sum();
            let traffic: Vec<f64> = zones.iter().map(|(traffic, _)| f64::from(*traffic) / f64::from(total_traffic)).collect();
            let endpoints: Vec<u32> = zones.iter().map(|(_, endpoints)| *endpoints).collect();
            let total: u32 = endpoints.iter().sum();
            prop_assume!(total > 0);
            let mut arrives = vec![0.0; zones.len()];
            for own in 0..zones.len() {
                let shares = ZoneShares::new(&traffic, &endpoints, own);
                prop_assert!((shares.0.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{:?}", shares);
                for (zone, arrives) in arrives.iter_mut().enumerate() {
                    *arrives += traffic[own] * shares.of(zone);
                }
            }
            for (arrives, count) in arrives.iter().zip(&endpoints) {
                prop_assert!((arrives - f64::from(*count) / f64::from(total)).abs() < 1e-9);
            }
        }

        #[test]
        fn a_zone_without_endpoints_is_never_picked(random: u64) {
            let shares = ZoneShares::new(&[0.2, 0.3, 0.5], &[2, 0, 1], 1);
            prop_assert_ne!(shares.pick(random), Some(1));
            prop_assert!(shares.pick(random).is_some());
        }
    }

    #[test]
    fn where_nothing_is_fit_nothing_is_picked() {
        assert_eq!(ZoneShares::new(&[1.0], &[0], 0).pick(1), None);
        assert_eq!(ZoneShares::new(&[], &[3, 4], 0).of(0), 1.0, "unknown traffic stays");
    }
}
