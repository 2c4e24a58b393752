//! When a root is announced, begins to sign, and is forgotten. Pure: the time is an argument.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How long a root is believed before it signs: everybody who follows the bundle has it long before.
const ANNOUNCED: SignedDuration = SignedDuration::from_mins(30);
/// How long a root is believed after it has signed for the last time: twice the life of what it vouched for.
const RETIRED: SignedDuration = SignedDuration::from_hours(2);
/// A successor is announced when a root has this much of its life left.
const SUCCESSOR: SignedDuration = SignedDuration::from_hours(2 * 365 * 24);

/// What a root is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It is believed and does not sign yet.
    Announced,
    /// It signs.
    Signing,
    /// It is believed and signs no more.
    Retired,
}

/// A root as far as its replacement is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootAge {
    /// What it is for.
    pub role: Role,
    /// Since when.
    pub since: Timestamp,
    /// When its certificate ends.
    pub not_after: Timestamp,
}

/// What is to be done with the roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a root that signs at once: there is none, or it has ended.
    Found,
    /// Make a root and let it be known.
    Announce,
    /// Let the announced root sign, and retire the one that did.
    Promote,
    /// Forget the root at this index.
    Forget(usize),
}

/// The next step that is due; to be asked again after each. `wanted` asks for a new root although the old one is good.
pub fn next_step(roots: &[RootAge], wanted: bool, now: Timestamp) -> Option<Step> {
    let passed = |root: &RootAge, time: SignedDuration| now.duration_since(root.since) >= time;
    let forgettable = |root: &RootAge| root.role == Role::Retired && (passed(root, RETIRED) || root.not_after <= now);
    if let Some(index) = roots.iter().position(forgettable) {
        return Some(Step::Forget(index));
    }
    let Some(signing) = roots.iter().find(|root| root.role == Role::Signing) else { return Some(Step::Found) };
    let announced = roots.iter().find(|root| root.role == Role::Announced);
    let ended = signing.not_after <= now;
    match announced {
        Some(next) if ended || passed(next, ANNOUNCED) => Some(Step::Promote),
        Some(_) => None,
        None if ended => Some(Step::Found),
        None if wanted || signing.not_after.duration_since(now) <= SUCCESSOR => Some(Step::Announce),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_hours(hours)
    }

    fn root(role: Role, since: i64, not_after: i64) -> RootAge {
        RootAge { role, since: at(since), not_after: at(not_after) }
    }

    /// Carries steps out on plain values, as the authority does on certificates.
    fn carry_out(roots: &mut Vec<RootAge>, step: Step, now: Timestamp, life: SignedDuration) {
        match step {
            Step::Found => {
                roots.retain(|root| root.role != Role::Signing);
                roots.push(RootAge { role: Role::Signing, since: now, not_after: now + life });
            }
            Step::Announce => roots.push(RootAge { role: Role::Announced, since: now, not_after: now + life }),
            Step::Promote => {
                for root in roots.iter_mut() {
                    let next = if root.role == Role::Announced { Role::Signing } else { Role::Retired };
                    *root = RootAge { role: next, since: now, ..*root };
                }
            }
            Step::Forget(index) => drop(roots.remove(index)),
        }
    }

    #[test]
    fn a_good_root_is_left_alone_unless_another_is_wanted() {
        let roots = [root(Role::Signing, 0, 10 * 365 * 24)];
        assert_eq!(next_step(&roots, false, at(1)), None);
        assert_eq!(next_step(&roots, true, at(1)), Some(Step::Announce));
        assert_eq!(next_step(&[], false, at(1)), Some(Step::Found));
    }

    #[test]
    fn a_root_is_announced_before_it_signs_and_believed_after() {
        let mut roots = vec![root(Role::Signing, 0, 10 * 365 * 24)];
        let life = SignedDuration::from_hours(10 * 365 * 24);
        let step = |roots: &mut Vec<RootAge>, wanted: bool, now: Timestamp| {
            let step = next_step(roots, wanted, now);
            step.inspect(|step| carry_out(roots, *step, now, life))
        };
        assert_eq!(step(&mut roots, true, at(10)), Some(Step::Announce));
        assert_eq!(step(&mut roots, true, at(10)), None, "it is not announced twice");
        assert_eq!(step(&mut roots, false, at(11)), Some(Step::Promote));
        assert_eq!(roots.len(), 2);
        assert_eq!(step(&mut roots, false, at(12)), None);
        assert_eq!(step(&mut roots, false, at(13)), Some(Step::Forget(0)));
        assert_eq!(roots.iter().map(|root| root.role).collect::<Vec<_>>(), [Role::Signing]);
    }

    #[test]
    fn the_machine_may_sleep_through_the_end_of_a_root() {
        let ended = [root(Role::Signing, 0, 10)];
        assert_eq!(next_step(&ended, false, at(11)), Some(Step::Found));
        let announced = [root(Role::Signing, 0, 10), root(Role::Announced, 9, 90)];
        assert_eq!(next_step(&announced, false, at(11)), Some(Step::Promote));
        assert_eq!(
            next_step(&[root(Role::Signing, 0, 90), root(Role::Retired, 1, 2)], false, at(2)).unwrap(),
            Step::Forget(1)
        );
    }

    #[test]
    fn a_clock_that_runs_back_forgets_nothing() {
        let roots = [root(Role::Retired, 10, 900_000), root(Role::Signing, 10, 900_000)];
        assert_eq!(next_step(&roots, false, at(1)), None);
    }
}
