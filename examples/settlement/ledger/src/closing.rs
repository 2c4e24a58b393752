//! `ledger close-day`: asks the running ledger to close the day that is over.

use std::time::Duration;

use jiff::{civil::Date, tz::TimeZone};
use reqwest::{Client, StatusCode};
use service::StartError;

use crate::format;

/// Far above what closing takes; a try that fails is repeated by whoever started it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Closes `SETTLEMENT_DAY`, or the day before today in the time zone, and all before it that are still open.
pub async fn close_day(zone: TimeZone, token: &str) -> Result<(), StartError> {
    let ledger: String = service::setting("LEDGER_URL", "http://ledger:8080".to_owned())?;
    let day: Date = service::setting("SETTLEMENT_DAY", format::today(&zone).yesterday()?)?;
    let client = Client::builder().timeout(ANSWER_TIMEOUT).no_proxy().build()?;
    let answer = client.post(format!("{ledger}/days/{day}/close")).bearer_auth(token).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    match status {
        StatusCode::CREATED => tracing::info!(%day, closed = text, "closed"),
        StatusCode::OK => tracing::info!(%day, "was closed before"),
        _ => return Err(format!("the ledger does not close {day}: {status}: {text}").into()),
    }
    Ok(())
}
