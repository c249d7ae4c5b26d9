//! Tracking ids, by which the service's errors can be found in its logs.

use hub_core::time::Timestamp;
use uuid::Uuid;

/// A fresh tracking id: `<32 hex>-G:0-TimeStamp:MM/dd/yyyy HH:mm:ss`.
pub(crate) fn id(now: Timestamp) -> String {
    // 2026-01-02T03:04:05… becomes 01/02/2026 03:04:05.
    let t = now.to_string();
    let (date, time) = (&t[..10], &t[11..19]);
    let (year, rest) = date.split_at(4);
    format!(
        "{}-G:0-TimeStamp:{}/{}/{} {}",
        Uuid::new_v4().simple(),
        &rest[1..3],
        &rest[4..6],
        year,
        time
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_the_services_own() {
        let text = id(Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap());
        let (hex, rest) = text.split_at(32);
        assert!(hex.chars().all(|c| c.is_ascii_hexdigit()));
        assert_eq!(rest, "-G:0-TimeStamp:01/02/2026 03:04:05");
    }
}
