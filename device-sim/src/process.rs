//! What this process uses and may use, as far as the system tells.
//!
//! Read from Linux' `/proc`; elsewhere everything is unknown.

use std::fs;

use serde::Serialize;

/// Clock ticks per second in `/proc/self/stat`: the kernel's interface fixes
/// them at 100 on every common architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// What this process has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Most memory that was resident at once, in bytes.
    pub peak_rss_bytes: u64,
    /// Processor time in user mode, in seconds.
    pub user_seconds: f64,
    /// Processor time in the kernel, in seconds.
    pub system_seconds: f64,
}

impl Usage {
    /// The usage up to this moment; `None` where the system does not tell.
    #[must_use]
    pub fn current() -> Option<Self> {
        Self::parse(
            &fs::read_to_string("/proc/self/status").ok()?,
            &fs::read_to_string("/proc/self/stat").ok()?,
        )
    }

    fn parse(status: &str, stat: &str) -> Option<Self> {
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kilobytes: u64 = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
        // The program's name, in parentheses, may contain blanks.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS_PER_SECOND);
        Some(Self {
            peak_rss_bytes: kilobytes * 1024,
            user_seconds: seconds()?,
            system_seconds: seconds()?,
        })
    }
}

/// How many files and sockets this process may have open; `None` where the
/// system does not tell.
#[must_use]
pub fn open_file_limit() -> Option<u64> {
    parse_limit(&fs::read_to_string("/proc/self/limits").ok()?)
}

fn parse_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    // The first number is the soft limit, the one that counts.
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_from_the_documented_fields() {
        let status = "Name:\tx\nVmPeak:\t  999 kB\nVmHWM:\t    2048 kB\nThreads:\t3\n";
        let stat = "12 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 150 250 0 0 20 0 3 0 1 1 1";
        let expected = Usage {
            peak_rss_bytes: 2048 * 1024,
            user_seconds: 1.5,
            system_seconds: 2.5,
        };
        assert_eq!(Usage::parse(status, stat), Some(expected));
        assert_eq!(Usage::parse("", stat), None);
        assert_eq!(Usage::parse(status, "garbage"), None);
    }

    #[test]
    fn the_soft_limit_of_open_files_counts() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\n\
                      Max open files            20000                524288               files\n";
        assert_eq!(parse_limit(limits), Some(20_000));
        assert_eq!(parse_limit("Max open files unlimited unlimited files"), None);
        assert_eq!(parse_limit(""), None);
    }
}
