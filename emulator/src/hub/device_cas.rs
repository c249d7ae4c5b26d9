//! The authorities that may issue certificates of devices.

use std::sync::{Arc, PoisonError, RwLock};

use hub_core::limits;
use hub_core::registry::Thumbprint;

use crate::tls::{DeviceCa, DeviceCaError};

/// The registered authorities, each once; those that the hub was started with
/// survive a reset.
#[derive(Debug)]
pub(crate) struct DeviceCas {
    /// Replaced as a whole, so that a chain is followed without a lock.
    all: RwLock<Arc<[DeviceCa]>>,
    from_start: Arc<[DeviceCa]>,
}

impl DeviceCas {
    pub(crate) fn new(from_start: Vec<DeviceCa>) -> Self {
        let from_start: Arc<[DeviceCa]> = from_start.into();
        Self {
            all: RwLock::new(from_start.clone()),
            from_start,
        }
    }

    /// The authorities at this moment.
    pub(crate) fn all(&self) -> Arc<[DeviceCa]> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Registers `more`; those that are registered already change nothing.
    ///
    /// # Errors
    /// When the hub would have too many; nothing is registered then.
    pub(crate) fn add(&self, more: Vec<DeviceCa>) -> Result<(), DeviceCaError> {
        let mut current = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let mut all = current.to_vec();
        merge(&mut all, more)?;
        *current = all.into();
        Ok(())
    }

    /// Removes the authority with this thumbprint; says whether there was one.
    pub(crate) fn remove(&self, thumbprint: &Thumbprint) -> bool {
        let mut current = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let rest: Vec<DeviceCa> = current.iter().filter(|ca| !ca.has(thumbprint)).cloned().collect();
        let removed = rest.len() < current.len();
        *current = rest.into();
        removed
    }

    /// Back to those that the hub was started with.
    pub(crate) fn reset(&self) {
        *self.all.write().unwrap_or_else(PoisonError::into_inner) = self.from_start.clone();
    }
}

/// Adds to `all` those of `more` that are not in it.
///
/// # Errors
/// When there would be too many.
pub(crate) fn merge(all: &mut Vec<DeviceCa>, more: Vec<DeviceCa>) -> Result<(), DeviceCaError> {
    for ca in more {
        if !all.iter().any(|known| known.fingerprints == ca.fingerprints) {
            all.push(ca);
        }
    }
    if all.len() > limits::DEVICE_AUTHORITIES {
        return Err(DeviceCaError::TooMany {
            limit: limits::DEVICE_AUTHORITIES,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Issuing, authority};

    fn cas(count: usize) -> Vec<DeviceCa> {
        (0..count)
            .flat_map(|_| {
                let pem = Issuing::root(authority("root")).certificate.pem();
                DeviceCa::parse(pem.as_bytes()).unwrap()
            })
            .collect()
    }

    fn thumbprint(ca: &DeviceCa) -> Thumbprint {
        let digits: String = ca
            .fingerprints
            .sha256
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        Thumbprint::parse(&digits).unwrap()
    }

    #[test]
    fn authorities_come_and_go_and_a_reset_brings_back_the_first() {
        let all = cas(3);
        let registered = DeviceCas::new(all[..1].to_vec());
        registered.add(all[1..].to_vec()).unwrap();
        registered.add(all.clone()).unwrap();
        assert_eq!(registered.all().len(), 3);
        assert!(registered.remove(&thumbprint(&all[0])));
        assert!(!registered.remove(&thumbprint(&all[0])));
        assert_eq!(registered.all().len(), 2);
        registered.reset();
        let left = registered.all();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].fingerprints, all[0].fingerprints);
    }

    #[test]
    fn their_number_is_limited_and_too_many_leave_no_trace() {
        let registered = DeviceCas::new(cas(24));
        assert!(registered.add(cas(2)).is_err());
        assert_eq!(registered.all().len(), 24);
        registered.add(cas(1)).unwrap();
        assert!(registered.add(cas(1)).is_err());
    }
}
