//! Which routes matched and which endpoints a message goes to: sets that are
//! copied, not allocated.

/// An endpoint of a [`Routing`](super::Routing): the built-in one, or the place
/// of another in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(u8);

impl EndpointId {
    /// The built-in endpoint, `events`.
    pub const EVENTS: Self = Self(0);

    /// The endpoint at a place of [`Routing::endpoints`](super::Routing::endpoints);
    /// `None` behind the greatest legal place.
    #[must_use]
    pub fn custom(place: usize) -> Option<Self> {
        if place >= crate::limits::ROUTING_ENDPOINTS {
            return None;
        }
        u8::try_from(place + 1).ok().map(Self)
    }

    /// The place in [`Routing::endpoints`](super::Routing::endpoints); `None`
    /// for the built-in endpoint.
    #[must_use]
    pub fn place(self) -> Option<usize> {
        usize::from(self.0).checked_sub(1)
    }
}

/// A set of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndpointSet(u16);

impl EndpointSet {
    /// The set without endpoints.
    pub const EMPTY: Self = Self(0);
    /// The built-in endpoint alone.
    pub const EVENTS: Self = Self(1);

    /// Adds an endpoint.
    pub fn insert(&mut self, endpoint: EndpointId) {
        self.0 |= 1 << endpoint.0;
    }

    /// Whether an endpoint is in the set.
    #[must_use]
    pub fn contains(self, endpoint: EndpointId) -> bool {
        self.0 & 1 << endpoint.0 != 0
    }

    /// Whether no endpoint is in the set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The endpoints, the built-in one first.
    pub fn iter(self) -> impl Iterator<Item = EndpointId> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            // At most 15: a set of sixteen bits has no more.
            let next = u8::try_from(rest.trailing_zeros()).ok().filter(|n| *n < 16)?;
            rest &= rest - 1;
            Some(EndpointId(next))
        })
    }
}

impl FromIterator<EndpointId> for EndpointSet {
    fn from_iter<I: IntoIterator<Item = EndpointId>>(endpoints: I) -> Self {
        let mut set = Self::EMPTY;
        endpoints.into_iter().for_each(|endpoint| set.insert(endpoint));
        set
    }
}

/// A set of routes by their places in [`Routing::routes`](super::Routing::routes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteSet(u128);

impl RouteSet {
    /// Adds the route at a place, which is below
    /// [`limits::ROUTES`](crate::limits::ROUTES).
    pub(super) fn insert(&mut self, place: u8) {
        self.0 |= 1 << (place & 127);
    }

    /// Whether the route at a place is in the set.
    #[must_use]
    pub fn contains(self, place: usize) -> bool {
        place < 128 && self.0 & 1 << place != 0
    }

    /// Whether no route is in the set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Number of routes in the set.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The places, in their order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let next = rest.trailing_zeros() as usize;
            if next >= 128 {
                return None;
            }
            rest &= rest - 1;
            Some(next)
        })
    }
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decision {
    /// The routes that matched; without the fallback route.
    pub routes: RouteSet,
    /// Where the message goes, each endpoint once; empty when it is dropped.
    pub endpoints: EndpointSet,
    /// Whether it was the fallback route that took it.
    pub fallback: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_in() {
        let places = [0, 3, 9];
        let mut set: EndpointSet = places.iter().filter_map(|p| EndpointId::custom(*p)).collect();
        assert!(!set.contains(EndpointId::EVENTS) && !set.is_empty());
        set.insert(EndpointId::EVENTS);
        let found: Vec<_> = set.iter().map(EndpointId::place).collect();
        assert_eq!(found, [None, Some(0), Some(3), Some(9)]);
        assert_eq!(EndpointId::custom(10), None);
        assert_eq!(EndpointSet::EMPTY.iter().count(), 0);

        let mut routes = RouteSet::default();
        for place in [99, 0, 7] {
            routes.insert(place);
        }
        assert_eq!(routes.iter().collect::<Vec<_>>(), [0, 7, 99]);
        assert!(routes.contains(99) && !routes.contains(1) && !routes.contains(1000));
        assert_eq!(routes.len(), 3);
    }
}
