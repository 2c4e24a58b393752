//! `csrf`: from pages of which origins requests may come that change something.

use kinds::envoy_gateway::Csrf;

use super::{invalid, known};
use crate::{controller::verdict::Fault, routing::Origins};

pub(super) fn compile(from: &Csrf) -> Result<Origins, Fault> {
    known("spec.csrf.", &from.unread)?;
    let origins = Origins::new(&from.additional_origins);
    let Some(shadow) = &from.shadow_fraction else { return Ok(origins) };
    let denominator = shadow.denominator.unwrap_or(100);
    let (part, of) = (u64::try_from(shadow.numerator).ok(), u64::try_from(denominator).ok());
    let ppm = part.zip(of).filter(|(part, of)| part <= of && *of > 0).map(|(part, of)| part * 1_000_000 / of);
    let ppm = ppm.and_then(|ppm| u32::try_from(ppm).ok());
    let ppm =
        ppm.ok_or_else(|| invalid("spec.csrf.shadowFraction: numerator must be less than or equal to denominator"))?;
    Ok(origins.in_shadow(ppm))
}
