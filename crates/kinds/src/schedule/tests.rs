use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn runs(schedule: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let (schedule, zone) = (Schedule::parse(schedule).unwrap(), time_zone(zone).unwrap());
    let mut last = at(after);
    let mut runs = Vec::new();
    while let Some(next) = schedule.next(last, &zone).filter(|_| runs.len() < count) {
        runs.push(next.to_string());
        last = next;
    }
    runs
}

#[test]
fn runs_follow_the_fields() {
    for (schedule, after, expected) in [
        ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
        ("* * * * *", "2026-01-01T00:00:59.5Z", "2026-01-01T00:01:00Z"),
        ("*/15 * * * *", "2026-01-01T00:45:00Z", "2026-01-01T01:00:00Z"),
        ("20-35/15 * * * *", "2026-01-01T15:20:00Z", "2026-01-01T15:35:00Z"),
        ("5/20 * * * *", "2026-01-01T00:06:00Z", "2026-01-01T00:25:00Z"),
        ("0 0 1 1 *", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("0 9 * * mon-FRI", "2026-01-02T09:00:00Z", "2026-01-05T09:00:00Z"),
        ("0 0 29 feb ?", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
        ("1,2 3 * * *", "2026-01-01T03:01:00Z", "2026-01-01T03:02:00Z"),
        // either field of the day, both where one is a star
        ("0 0 13 * 5", "2026-01-01T12:00:00Z", "2026-01-02T00:00:00Z"),
        ("0 0 */2 * 5", "2026-01-01T12:00:00Z", "2026-01-02T00:00:00Z"),
        ("0 0 * * 5", "2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z"),
        ("@hourly", "2026-01-01T00:10:00Z", "2026-01-01T01:00:00Z"),
        ("@weekly", "2026-01-01T00:10:00Z", "2026-01-04T00:00:00Z"),
        ("@every 1h30m", "2026-01-01T00:10:00.25Z", "2026-01-01T01:40:00Z"),
        ("@every 1.5m", "2026-01-01T00:00:00Z", "2026-01-01T00:01:30Z"),
        ("@every 10ms", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"),
        ("TZ=Asia/Tokyo 0 9 * * *", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
        ("CRON_TZ=UTC @daily", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
    ] {
        assert_eq!(runs(schedule, "UTC", after, 1), [expected], "{schedule} after {after}");
    }
    assert!(runs("59 23 31 2 *", "UTC", "2026-01-01T00:00:00Z", 1).is_empty(), "31 February does not come");
}

#[test]
fn clocks_that_are_changed_leave_out_a_run_or_double_it() {
    let forward = runs("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 2);
    assert_eq!(forward, ["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z"]);
    let back = runs("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 3);
    assert_eq!(back, ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"]);
    // midnight does not exist on the day that the clocks are put forward
    let midnight = runs("15 * * * *", "America/Havana", "2026-03-08T04:20:00Z", 1);
    assert_eq!(midnight, ["2026-03-08T05:15:00Z"]);
}

#[test]
fn what_is_no_schedule_is_told_why() {
    for (text, reason) in [
        ("", "empty spec string"),
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("* * * * 7", "end of range (7) above maximum (6): 7"),
        ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("*/2/3 * * * *", "too many slashes: */2/3"),
        ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
        ("@every", "unrecognized descriptor: @every"),
        ("@every x", "failed to parse duration @every x: invalid duration \"x\""),
        ("@noon", "unrecognized descriptor: @noon"),
        ("TZ=Nowhere/Here * * * * *", "provided bad location Nowhere/Here: unknown time zone Nowhere/Here"),
    ] {
        assert_eq!(Schedule::parse(text).unwrap_err().to_string(), reason, "{text}");
    }
}

#[test]
fn time_zones_are_known_on_a_machine_that_has_none() {
    let zone = built_in("Asia/Kolkata").unwrap();
    assert_eq!(zone.to_offset(at("2026-01-01T00:00:00Z")).seconds(), 19_800);
    assert!(built_in("Nowhere/Here").is_none());
}
