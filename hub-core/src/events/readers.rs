//! Consumer groups, and who reads which partition in them.
//!
//! A reader with an epoch is alone in its partition and group: it takes the
//! place of whoever is there, unless that one has a higher epoch. Readers
//! without one share a partition, five at most. Source: the Event Hubs guides on
//! event processing and quotas. Bookkeeping only: that a reader has lost its
//! place is for the shell to tell it.

use std::collections::BTreeMap;

use crate::limits;

/// The consumer group that every stream has.
pub const DEFAULT_GROUP: &str = "$Default";

/// The consumer groups of a stream. Names are compared without regard to case.
#[derive(Debug)]
pub struct ConsumerGroups {
    /// By name in lower case.
    groups: BTreeMap<String, Group>,
    readers: u64,
}

#[derive(Debug, Default)]
struct Group {
    name: String,
    /// By partition.
    seats: BTreeMap<usize, Vec<Seat>>,
}

#[derive(Debug)]
struct Seat {
    reader: ReaderId,
    epoch: Option<i64>,
}

/// A reader's number, unique in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(u64);

/// A reader that was let in.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Its number.
    pub reader: ReaderId,
    /// Readers that have lost their places to it (`amqp:link:stolen`).
    pub stolen: Vec<ReaderId>,
}

/// Why a reader is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// There is no such group (`amqp:not-found`).
    #[error("there is no consumer group {0:?}")]
    NoSuchGroup(String),
    /// A reader with a higher epoch is there (`amqp:link:stolen`).
    #[error(
        "a reader with the epoch {current} reads this partition; one with the epoch {supplied} cannot take its place"
    )]
    LowerEpoch {
        /// The new reader's.
        supplied: i64,
        /// That of the reader that is there.
        current: i64,
    },
    /// A reader with an epoch is there, and this one has none (`amqp:link:stolen`).
    #[error(
        "a reader with the epoch {current} reads this partition, so that readers without an epoch may not"
    )]
    EpochRequired {
        /// That of the reader that is there.
        current: i64,
    },
    /// As many readers as are allowed are there (`amqp:resource-limit-exceeded`).
    #[error(
        "the partition has {} readers in this consumer group, as many as are allowed",
        limits::READERS_PER_PARTITION
    )]
    TooManyReaders,
}

/// Why a consumer group is not made or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The name breaks the naming rules.
    #[error(
        "a consumer group's name has 1 to {} letters, digits, -, . or _",
        limits::CONSUMER_GROUP_CHARS
    )]
    Name,
    /// There are as many as are allowed.
    #[error(
        "a hub has at most {} consumer groups beside $Default",
        limits::CONSUMER_GROUPS
    )]
    TooMany,
    /// There is no such group.
    #[error("there is no such consumer group")]
    NotFound,
    /// `$Default` stays.
    #[error("the consumer group $Default cannot be removed")]
    Default,
}

impl Default for ConsumerGroups {
    fn default() -> Self {
        let default = Group {
            name: DEFAULT_GROUP.into(),
            ..Group::default()
        };
        Self {
            groups: BTreeMap::from([(DEFAULT_GROUP.to_ascii_lowercase(), default)]),
            readers: 0,
        }
    }
}

impl ConsumerGroups {
    /// The groups' names as they were given, in the order of their lower case.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.groups.values().map(|group| group.name.as_str())
    }

    /// Makes a group; says whether it is new.
    ///
    /// # Errors
    /// For a name that is not legal, or one group too many.
    pub fn create(&mut self, name: &str) -> Result<bool, GroupError> {
        let key = name.to_ascii_lowercase();
        if self.groups.contains_key(&key) {
            return Ok(false);
        }
        let is_legal = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if !(1..=limits::CONSUMER_GROUP_CHARS).contains(&name.len()) || !name.chars().all(is_legal) {
            return Err(GroupError::Name);
        }
        if self.groups.len() > limits::CONSUMER_GROUPS {
            return Err(GroupError::TooMany);
        }
        let group = Group {
            name: name.into(),
            ..Group::default()
        };
        self.groups.insert(key, group);
        Ok(true)
    }

    /// Removes a group and gives the readers that were in it.
    ///
    /// # Errors
    /// When there is no such group, or it is `$Default`.
    pub fn delete(&mut self, name: &str) -> Result<Vec<ReaderId>, GroupError> {
        if name.eq_ignore_ascii_case(DEFAULT_GROUP) {
            return Err(GroupError::Default);
        }
        let group = self.groups.remove(&name.to_ascii_lowercase());
        let group = group.ok_or(GroupError::NotFound)?;
        Ok(group
            .seats
            .into_values()
            .flatten()
            .map(|seat| seat.reader)
            .collect())
    }

    /// Lets a reader in. A reader with an epoch takes the places of all who
    /// have none, and of one whose epoch is not higher.
    ///
    /// # Errors
    /// When the group does not exist or the partition's readers do not allow it;
    /// nobody has lost a place then.
    pub fn attach(
        &mut self,
        group: &str,
        partition: usize,
        epoch: Option<i64>,
    ) -> Result<Admitted, AttachError> {
        let reader = ReaderId(self.readers);
        let seats = match self.groups.get_mut(&group.to_ascii_lowercase()) {
            Some(group) => group.seats.entry(partition).or_default(),
            None => return Err(AttachError::NoSuchGroup(group.chars().take(120).collect())),
        };
        let current = seats.iter().find_map(|seat| seat.epoch);
        let mut stolen = Vec::new();
        match (epoch, current) {
            (Some(supplied), Some(current)) if supplied < current => {
                return Err(AttachError::LowerEpoch { supplied, current });
            }
            (Some(_), _) => stolen = seats.drain(..).map(|seat| seat.reader).collect(),
            (None, Some(current)) => return Err(AttachError::EpochRequired { current }),
            (None, None) if seats.len() >= limits::READERS_PER_PARTITION => {
                return Err(AttachError::TooManyReaders);
            }
            (None, None) => {}
        }
        seats.push(Seat { reader, epoch });
        self.readers += 1;
        Ok(Admitted { reader, stolen })
    }

    /// Frees a reader's place, if it still has it.
    pub fn detach(&mut self, group: &str, partition: usize, reader: ReaderId) {
        if let Some(group) = self.groups.get_mut(&group.to_ascii_lowercase())
            && let Some(seats) = group.seats.get_mut(&partition)
        {
            seats.retain(|seat| seat.reader != reader);
            if seats.is_empty() {
                group.seats.remove(&partition);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attach(groups: &mut ConsumerGroups, epoch: Option<i64>) -> Result<Admitted, AttachError> {
        groups.attach(DEFAULT_GROUP, 0, epoch)
    }

    #[test]
    fn groups_come_and_go() {
        let mut groups = ConsumerGroups::default();
        assert_eq!(groups.create("Mine"), Ok(true));
        assert_eq!(groups.create("mine"), Ok(false));
        assert_eq!(groups.create("$default"), Ok(false));
        for bad in ["", "a b", "$x", "ä", &"x".repeat(51)] {
            assert_eq!(groups.create(bad), Err(GroupError::Name), "{bad}");
        }
        assert_eq!(groups.names().collect::<Vec<_>>(), ["$Default", "Mine"]);
        let one = groups.attach("MINE", 0, None).unwrap().reader;
        let two = groups.attach("mine", 1, Some(0)).unwrap().reader;
        assert_eq!(groups.delete("mine"), Ok(vec![one, two]));
        assert_eq!(groups.delete("mine"), Err(GroupError::NotFound));
        assert_eq!(groups.delete("$DEFAULT"), Err(GroupError::Default));
        assert_eq!(
            groups.attach("mine", 0, None),
            Err(AttachError::NoSuchGroup("mine".into()))
        );
        for number in 0..limits::CONSUMER_GROUPS {
            assert_eq!(groups.create(&format!("g{number}")), Ok(true));
        }
        assert_eq!(groups.create("one-more"), Err(GroupError::TooMany));
    }

    #[test]
    fn five_readers_without_an_epoch_share_a_partition() {
        let mut groups = ConsumerGroups::default();
        groups.create("other").unwrap();
        let readers: Vec<_> = (0..5)
            .map(|_| attach(&mut groups, None).unwrap().reader)
            .collect();
        assert_eq!(attach(&mut groups, None), Err(AttachError::TooManyReaders));
        assert!(groups.attach("other", 0, None).is_ok());
        assert!(groups.attach(DEFAULT_GROUP, 1, None).is_ok());
        groups.detach("$default", 0, readers[2]);
        groups.detach("$default", 0, readers[2]);
        assert!(attach(&mut groups, None).is_ok());
        assert_eq!(attach(&mut groups, None), Err(AttachError::TooManyReaders));
    }

    #[test]
    fn an_epoch_takes_the_places_of_lower_ones() {
        let mut groups = ConsumerGroups::default();
        let one = attach(&mut groups, None).unwrap().reader;
        let two = attach(&mut groups, None).unwrap().reader;
        let first = attach(&mut groups, Some(1)).unwrap();
        assert_eq!(first.stolen, [one, two]);
        assert_eq!(
            attach(&mut groups, None),
            Err(AttachError::EpochRequired { current: 1 })
        );
        assert_eq!(
            attach(&mut groups, Some(0)),
            Err(AttachError::LowerEpoch {
                supplied: 0,
                current: 1
            })
        );
        let same = attach(&mut groups, Some(1)).unwrap();
        assert_eq!(same.stolen, [first.reader]);
        // Who has lost its place does not take the new one's with it.
        groups.detach(DEFAULT_GROUP, 0, first.reader);
        let higher = attach(&mut groups, Some(7)).unwrap();
        assert_eq!(higher.stolen, [same.reader]);
        // An epoch lasts as long as its reader.
        groups.detach(DEFAULT_GROUP, 0, higher.reader);
        assert_eq!(attach(&mut groups, Some(0)).unwrap().stolen, []);
    }
}
