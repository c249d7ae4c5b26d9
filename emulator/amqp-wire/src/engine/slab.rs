//! Links by number, where numbers of links that are gone stay unknown.

/// Names a link of one connection. No later link has the same, so a command
/// that comes late finds that its link is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    index: u32,
    generation: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values under [`LinkId`]s.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Adds a value; `None` if `limit` values are there.
    pub(super) fn insert(&mut self, value: T, limit: usize) -> Option<LinkId> {
        if self.len() >= limit {
            return None;
        }
        if let Some(index) = self.free.pop() {
            let slot = self.slots.get_mut(index as usize)?;
            slot.generation = slot.generation.wrapping_add(1);
            slot.value = Some(value);
            return Some(LinkId {
                index,
                generation: slot.generation,
            });
        }
        let index = u32::try_from(self.slots.len()).ok()?;
        self.slots.push(Slot {
            generation: 0,
            value: Some(value),
        });
        Some(LinkId { index, generation: 0 })
    }

    fn slot(&mut self, id: LinkId) -> Option<&mut Slot<T>> {
        self.slots
            .get_mut(id.index as usize)
            .filter(|slot| slot.generation == id.generation)
    }

    pub(super) fn get(&self, id: LinkId) -> Option<&T> {
        self.slots
            .get(id.index as usize)
            .filter(|slot| slot.generation == id.generation)?
            .value
            .as_ref()
    }

    pub(super) fn get_mut(&mut self, id: LinkId) -> Option<&mut T> {
        self.slot(id)?.value.as_mut()
    }

    pub(super) fn remove(&mut self, id: LinkId) -> Option<T> {
        let value = self.slot(id)?.value.take()?;
        self.free.push(id.index);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_never_given_twice() {
        let mut slab = Slab::new();
        let first = slab.insert("a", 2).unwrap();
        let second = slab.insert("b", 2).unwrap();
        assert_eq!(slab.insert("c", 2), None);
        assert_eq!(slab.remove(first), Some("a"));
        assert_eq!(slab.remove(first), None);
        let third = slab.insert("c", 2).unwrap();
        assert_eq!(third.index, first.index);
        assert_eq!(
            (slab.get(first), slab.get(second), slab.get(third)),
            (None, Some(&"b"), Some(&"c"))
        );
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.len(), 2);
    }
}
