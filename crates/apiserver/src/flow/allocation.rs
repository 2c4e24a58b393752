//! How the server's seats are divided among priority levels: nominal shares, and borrowing from levels that need less.

/// What a level may get and what it needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Claim {
    /// Its share by configuration.
    pub(super) nominal: u32,
    /// What it keeps whatever the others need.
    pub(super) least: u32,
    /// What it may grow to.
    pub(super) most: u32,
    /// The most seats it was seen to want lately.
    pub(super) demand: u32,
}

/// A level's numbers in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) shares: u32,
    pub(super) lendable_percent: u32,
    /// `None`: as much as there is.
    pub(super) borrowing_percent: Option<u32>,
}

/// Seats by configuration: each level's part of `total`, rounded up, what it keeps, and what it may grow to.
pub(super) fn nominal(total: u32, levels: &[Shares]) -> Vec<Claim> {
    let sum: u64 = levels.iter().map(|level| u64::from(level.shares)).sum();
    let part = |of: u64, percent: u64| ((of * percent + 50) / 100) as u32;
    let claim = |level: &Shares| {
        let nominal = (u64::from(total) * u64::from(level.shares)).div_ceil(sum.max(1));
        let lendable = part(nominal, u64::from(level.lendable_percent.min(100)));
        let most = match level.borrowing_percent {
            Some(percent) => (nominal as u32).saturating_add(part(nominal, u64::from(percent))),
            None => total.max(nominal as u32),
        };
        Claim { nominal: nominal as u32, least: (nominal as u32) - lendable, most, demand: 0 }
    };
    levels.iter().map(claim).collect()
}

/// Seats by need: everybody gets the same fraction of what they want, within their bounds, so that the sum is `total`
/// where the bounds leave a choice.
pub(super) fn by_demand(total: u32, claims: &[Claim]) -> Vec<u32> {
    let wanted = |claim: &Claim| f64::from(claim.demand.max(claim.least).min(claim.most).max(1));
    let given = |fraction: f64| -> Vec<f64> {
        let bounded = |claim: &Claim| {
            (wanted(claim) * fraction).clamp(f64::from(claim.least), f64::from(claim.most.max(claim.least)))
        };
        claims.iter().map(bounded).collect()
    };
    // the sum grows with the fraction; forty halvings find it closer than a seat
    let (mut low, mut high) = (0.0, f64::from(total) + 1.0);
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if given(middle).iter().sum::<f64>() > f64::from(total) { high = middle } else { low = middle }
    }
    given(low).into_iter().map(|seats| seats.round().max(1.0) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(shares: u32, lendable_percent: u32) -> Shares {
        Shares { shares, lendable_percent, borrowing_percent: None }
    }

    #[test]
    fn shares_become_seats() {
        let claims = nominal(600, &[shares(30, 33), shares(10, 0), shares(60, 50)]);
        assert_eq!(claims.iter().map(|claim| claim.nominal).collect::<Vec<_>>(), [180, 60, 360]);
        assert_eq!(claims.iter().map(|claim| claim.least).collect::<Vec<_>>(), [121, 60, 180]);
        let bounded = nominal(100, &[Shares { borrowing_percent: Some(50), ..shares(1, 0) }, shares(1, 0)]);
        assert_eq!(bounded.iter().map(|claim| claim.most).collect::<Vec<_>>(), [75, 100]);
        assert_eq!(nominal(600, &[shares(0, 0)])[0].nominal, 0);
    }

    #[test]
    fn who_needs_more_borrows_what_others_lend() {
        let mut claims = nominal(100, &[shares(50, 90), shares(50, 0)]);
        claims[1].demand = 300;
        let seats = by_demand(100, &claims);
        assert!(seats[0] >= claims[0].least && seats[1] > 80, "{seats:?}");
        assert!(seats.iter().sum::<u32>() <= 101);
        claims[0].demand = 300;
        assert_eq!(by_demand(100, &claims), [50, 50]);
    }

    #[test]
    fn nobody_goes_below_what_they_keep_or_beyond_what_they_may() {
        let limited = Shares { borrowing_percent: Some(10), ..shares(50, 50) };
        let mut claims = nominal(100, &[limited, shares(50, 50)]);
        claims[0].demand = 1000;
        assert_eq!(by_demand(100, &claims)[0], 55);
        claims[1].demand = 1000;
        let seats = by_demand(100, &claims);
        assert!(seats.iter().zip(&claims).all(|(seats, claim)| *seats >= claim.least), "{seats:?}");
    }
}
