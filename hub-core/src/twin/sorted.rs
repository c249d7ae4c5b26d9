//! Members of a twin's objects, sorted by name.

/// Members up to which a list grows one at a time: most objects of a twin have
/// very few, and a vector's own first step is four.
const EXACT_GROWTH: usize = 4;

/// A vector that is sorted by name, because most objects are small.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sorted<T>(Vec<(Box<str>, T)>);

impl<T> Sorted<T> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// For names that are sorted already, at most `len`.
    pub(super) fn of_sorted(len: usize, members: impl Iterator<Item = (Box<str>, T)>) -> Self {
        let mut sorted = Vec::with_capacity(len);
        sorted.extend(members);
        Self(sorted)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, member)| (&**name, member))
    }

    pub(super) fn get(&self, name: &str) -> Option<&T> {
        let index = self.find(name)?;
        self.0.get(index).map(|(_, member)| member)
    }

    /// Visits `patch`, which is sorted by name: `change` sees each value with
    /// the member that it is about, if there is one, and says what becomes of it.
    ///
    /// The list is moved once, however much the patch adds and removes.
    pub(super) fn merge<'p, V: 'p>(
        &mut self,
        patch: impl Iterator<Item = (&'p String, &'p V)>,
        mut change: impl FnMut(&'p V, Option<&mut T>) -> Fate<T>,
    ) {
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for (name, value) in patch {
            let place = self.find(name);
            let member = place.map(|index| &mut self.0[index].1);
            match (change(value, member), place) {
                (Fate::Added(member), None) => added.push((Box::from(name.as_str()), member)),
                (Fate::Removed, Some(index)) => removed.push(index),
                _ => {}
            }
        }
        if !removed.is_empty() {
            let (mut index, mut removed) = (0, removed.into_iter().peekable());
            self.0.retain(|_| {
                index += 1;
                removed.next_if_eq(&(index - 1)).is_none()
            });
        }
        if !added.is_empty() {
            if self.0.len() < EXACT_GROWTH {
                self.0.reserve_exact(added.len());
            }
            self.0.append(&mut added);
            self.0.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.0.binary_search_by(|(n, _)| (**n).cmp(name)).ok()
    }
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// What becomes of a member that a patch names.
pub(super) enum Fate<T> {
    /// It stays, as it is or changed in place; a name that is not there stays away.
    Kept,
    /// It comes new.
    Added(T),
    /// It goes.
    Removed,
}
