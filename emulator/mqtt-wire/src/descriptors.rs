//! Room for thousands of connections in one process.

/// Raises the number of files and sockets that this process may open to what
/// the system allows without further rights, and returns that number.
///
/// Many systems start a program with 1024, far below what they would grant.
/// `None` where there is no such limit, or none that can be asked for.
#[cfg(unix)]
pub fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let lowest = limit.current;
    limit.current = limit.maximum;
    // Refused where the hard limit is higher than what the kernel grants; the
    // soft limit then stays as it was.
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.maximum,
        Err(_) => lowest,
    }
}

/// Does nothing: this system has no such limit.
#[cfg(not(unix))]
pub fn raise_descriptor_limit() -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_limit_does_not_sink() {
        let first = raise_descriptor_limit();
        assert_eq!(raise_descriptor_limit(), first);
    }
}
