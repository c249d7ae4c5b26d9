//! One partition of the event stream: a log with an old end that is cut off.
//!
//! Events are kept in segments of a few hundred kilobytes: their bytes one
//! after the other as they arrived, and a fixed entry for each. A full segment
//! never changes, and memory goes back a segment at a time; what readers see
//! ends at the exact event. Telling readers that there is something new is the
//! shell's part.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Event, Origin, Source, Start};
use crate::ids::DeviceId;
use crate::limits;
use crate::property_bag::{Bag, MessageProperties};
use crate::time::Timestamp;

/// Memory of a segment; more only for one with a single large event.
const SEGMENT_BYTES: u64 = 256 * 1024;

/// The partition that a device's events go to. The same for ever, so that the
/// order of a device's events is that of its partition.
#[must_use]
pub fn partition_of(device: &DeviceId, partitions: NonZeroUsize) -> usize {
    // FNV-1a, then mixed: the plain hash's low bits hardly depend on the first
    // characters of an id.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in device.as_str().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 32;
    (hash % partitions.get() as u64) as usize
}

/// How much of a partition is kept; the oldest events go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How long an event is kept.
    pub time: Duration,
    /// Bytes of memory for events: bodies, properties and a fixed part for each.
    pub bytes: usize,
    /// Number of events.
    pub count: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            time: limits::EVENT_RETENTION,
            bytes: limits::EVENT_PARTITION_BYTES,
            count: usize::MAX,
        }
    }
}

/// An event that is to be kept.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// What it is about.
    pub source: Source,
    /// Its place in the whole hub's events; must grow within a partition.
    pub position: u64,
    /// Whom it is from or about.
    pub origin: &'a Arc<Origin>,
    /// Its properties.
    pub bag: &'a Bag<'a>,
    /// Its body.
    pub body: &'a [u8],
}

/// A partition's ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Sequence number of the oldest event that is kept; when none is, of the
    /// next that will be.
    pub begin_sequence: u64,
    /// Sequence number of the last event, kept or not; `None` before the first.
    pub last_sequence: Option<u64>,
    /// Its offset.
    pub last_offset: Option<u64>,
    /// When it arrived.
    pub last_enqueued: Option<Timestamp>,
    /// Number of events that are kept.
    pub count: u64,
    /// Bytes of memory that they take, as [`Retention::bytes`] counts them.
    pub bytes: u64,
}

impl PartitionInfo {
    /// Whether no event is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// A reader's start lies behind the partition's end: it remembers an event that
/// this partition never had. Texts as Event Hubs words them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutOfRange {
    /// No event has that offset yet.
    #[error("The supplied offset '{supplied}' is invalid. The last offset in the system is '{}'", number(*.last))]
    Offset {
        /// What the reader asks for.
        supplied: u64,
        /// The last event's offset.
        last: Option<u64>,
    },
    /// No event has that sequence number yet.
    #[error(
        "The supplied sequence number '{supplied}' is invalid. The last sequence number in the system is '{}'",
        number(*.last)
    )]
    Sequence {
        /// What the reader asks for.
        supplied: u64,
        /// The last event's sequence number.
        last: Option<u64>,
    },
}

/// A number as Event Hubs shows it, -1 for none.
fn number(number: Option<u64>) -> String {
    number.map_or_else(|| "-1".into(), |number| number.to_string())
}

/// The log.
#[derive(Debug)]
pub struct Partition {
    retention: Retention,
    segments: VecDeque<Segment>,
    /// Events at the start of the first segment that are no longer kept.
    cut: usize,
    /// Number of events ever appended, the next one's sequence number.
    next: u64,
    /// Their bytes, the next one's offset.
    next_offset: u64,
    last_offset: Option<u64>,
    last_enqueued: Option<Timestamp>,
}

#[derive(Debug)]
struct Segment {
    /// Sequence number and offset of the first entry.
    first: u64,
    offset: u64,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// The fixed part of an event.
#[derive(Debug, Clone)]
struct Entry {
    /// Where its bytes end in the segment; they are its bag and then its body.
    end: usize,
    bag: u32,
    source: Source,
    enqueued: Timestamp,
    position: u64,
    origin: Arc<Origin>,
}

/// What an event takes beyond its bytes, so that offsets differ even where
/// there are none.
const ENTRY_BYTES: u64 = size_of::<Entry>() as u64;

impl Segment {
    fn start_of(&self, index: usize) -> usize {
        index
            .checked_sub(1)
            .and_then(|before| self.entries.get(before))
            .map_or(0, |entry| entry.end)
    }

    fn offset_of(&self, index: usize) -> u64 {
        self.offset + self.start_of(index) as u64 + index as u64 * ENTRY_BYTES
    }

    /// Sequence number after the last entry.
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

impl Partition {
    /// A partition without events.
    #[must_use]
    pub fn new(retention: Retention) -> Self {
        Self {
            retention,
            segments: VecDeque::new(),
            cut: 0,
            next: 0,
            next_offset: 0,
            last_offset: None,
            last_enqueued: None,
        }
    }

    /// Keeps an event and gives its sequence number. Time does not go back in a
    /// partition, whatever the clock does. What exceeds the bounds is cut off,
    /// even the event itself.
    pub fn append(&mut self, draft: &Draft<'_>, now: Timestamp) -> u64 {
        let enqueued = self.last_enqueued.map_or(now, |last| last.max(now));
        let bag = draft.bag.as_str().as_bytes();
        let bytes = bag.len() + draft.body.len();
        let (sequence, offset) = (self.next, self.next_offset);
        let size = bytes as u64 + ENTRY_BYTES;
        let segment = self.segment_for(size);
        segment.bytes.extend_from_slice(bag);
        segment.bytes.extend_from_slice(draft.body);
        segment.entries.push(Entry {
            end: segment.bytes.len(),
            // Bags are bounded by what a request may carry, far below.
            bag: u32::try_from(bag.len()).unwrap_or(u32::MAX),
            source: draft.source,
            enqueued,
            position: draft.position,
            origin: draft.origin.clone(),
        });
        self.next += 1;
        self.next_offset += size;
        self.last_offset = Some(offset);
        self.last_enqueued = Some(enqueued);
        self.expire(enqueued);
        sequence
    }

    /// The segment that takes an event of `size` bytes.
    fn segment_for(&mut self, size: u64) -> &mut Segment {
        let (first, offset) = (self.next, self.next_offset);
        let is_full = self
            .segments
            .back()
            .is_none_or(|last| !last.entries.is_empty() && offset - last.offset + size > SEGMENT_BYTES);
        if is_full {
            // The first segment of a partition grows as it is needed: most
            // partitions of most hubs never fill one.
            let (mut bytes, mut entries) = (0, 0);
            if let Some(full) = self.segments.back_mut() {
                (bytes, entries) = (full.bytes.len(), full.entries.len());
                full.bytes.shrink_to_fit();
                full.entries.shrink_to_fit();
            }
            self.segments.push_back(Segment {
                first,
                offset,
                bytes: Vec::with_capacity(bytes.min(SEGMENT_BYTES as usize)),
                entries: Vec::with_capacity(entries),
            });
        }
        let last = self.segments.len() - 1;
        &mut self.segments[last]
    }

    /// Cuts off what is no longer kept at `now`. Appending does it too; this is
    /// for readers of a partition that nothing is written to.
    pub fn expire(&mut self, now: Timestamp) {
        while let Some(segment) = self.segments.front() {
            let Some(oldest) = segment.entries.get(self.cut) else {
                // All of it is cut off. The last one stays to be filled.
                if self.segments.len() == 1 {
                    break;
                }
                self.segments.pop_front();
                self.cut = 0;
                continue;
            };
            let kept = self.next - (segment.first + self.cut as u64);
            let bytes = self.next_offset - segment.offset_of(self.cut);
            let is_over = kept > self.retention.count as u64
                || bytes > self.retention.bytes as u64
                || now.saturating_since(oldest.enqueued) > self.retention.time;
            if !is_over {
                break;
            }
            self.cut += 1;
        }
    }

    /// The partition's ends.
    #[must_use]
    pub fn info(&self) -> PartitionInfo {
        let begin = self.begin();
        let begin_offset = self
            .segments
            .front()
            .map_or(self.next_offset, |segment| segment.offset_of(self.cut));
        PartitionInfo {
            begin_sequence: begin,
            last_sequence: self.next.checked_sub(1),
            last_offset: self.last_offset,
            last_enqueued: self.last_enqueued,
            count: self.next - begin,
            bytes: self.next_offset - begin_offset,
        }
    }

    /// Sequence number of the oldest event that is kept, or of the next one.
    fn begin(&self) -> u64 {
        self.segments
            .front()
            .map_or(self.next, |segment| segment.first + self.cut as u64)
    }

    /// The sequence number from which on a reader reads. Events that are gone
    /// are skipped.
    ///
    /// # Errors
    /// When the start lies behind the last event.
    pub fn locate(&self, start: Start) -> Result<u64, OutOfRange> {
        let sequence = match start {
            Start::Earliest => 0,
            Start::Latest => self.next,
            Start::Sequence { sequence, inclusive } => {
                let first = if inclusive {
                    sequence
                } else {
                    sequence.saturating_add(1)
                };
                if first > self.next {
                    return Err(OutOfRange::Sequence {
                        supplied: sequence,
                        last: self.next.checked_sub(1),
                    });
                }
                first
            }
            Start::Offset { offset, inclusive } => {
                if self.last_offset.is_none_or(|last| offset > last) {
                    return Err(OutOfRange::Offset {
                        supplied: offset,
                        last: self.last_offset,
                    });
                }
                self.first_where(|segment, index| {
                    let found = segment.offset_of(index);
                    found > offset || (inclusive && found == offset)
                })
            }
            Start::EnqueuedTime { time, inclusive } => {
                let time = time.unix_milliseconds();
                self.first_where(|segment, index| {
                    let found = segment.entries[index].enqueued.unix_milliseconds();
                    found > time || (inclusive && found == time)
                })
            }
        };
        Ok(sequence.max(self.begin()))
    }

    /// The sequence number of the first kept event behind `position` in the
    /// whole hub's events.
    #[must_use]
    pub fn after_position(&self, position: u64) -> u64 {
        self.first_where(|segment, index| segment.entries[index].position > position)
            .max(self.begin())
    }

    /// The first event for which `is_wanted` holds, which must hold for all
    /// behind it too. Indexes that it is asked about exist.
    fn first_where(&self, is_wanted: impl Fn(&Segment, usize) -> bool) -> u64 {
        let at = self.segments.partition_point(|segment| {
            let last = segment.entries.len().checked_sub(1);
            last.is_none_or(|last| !is_wanted(segment, last))
        });
        let Some(segment) = self.segments.get(at) else {
            return self.next;
        };
        let (mut low, mut high) = (0, segment.entries.len());
        while low < high {
            let middle = low.midpoint(high);
            if is_wanted(segment, middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        segment.first + low as u64
    }

    /// Copies events from `sequence` on, or from the oldest that is kept: as many
    /// as `max`, [`limits::EVENTS_PER_READ`] and one segment allow. Some unless
    /// there are none.
    #[must_use]
    pub fn read(&self, sequence: u64, max: usize) -> Batch {
        let from = sequence.max(self.begin());
        let at = self.segments.partition_point(|segment| segment.end() <= from);
        let Some(segment) = self.segments.get(at) else {
            return Batch::default();
        };
        // Both fit: `from` lies within the segment.
        let first = (from - segment.first) as usize;
        let entries = &segment.entries[first..];
        let entries = &entries[..entries.len().min(max).min(limits::EVENTS_PER_READ)];
        let start = segment.start_of(first);
        let end = entries.last().map_or(start, |last| last.end);
        Batch {
            sequence: from,
            offset: segment.offset_of(first),
            start,
            bytes: Bytes::copy_from_slice(&segment.bytes[start..end]),
            entries: entries.to_vec(),
        }
    }
}

/// Events copied from a partition, to be taken apart once it is free again.
#[derive(Debug, Default)]
pub struct Batch {
    sequence: u64,
    offset: u64,
    /// Where the copied bytes began in their segment.
    start: usize,
    bytes: Bytes,
    entries: Vec<Entry>,
}

impl Batch {
    /// Whether it has no events.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The sequence number after the last of its events; `None` without events.
    #[must_use]
    pub fn next_sequence(&self) -> Option<u64> {
        (!self.is_empty()).then(|| self.sequence + self.entries.len() as u64)
    }

    /// The events.
    #[must_use]
    pub fn into_events(self) -> Vec<Event> {
        let Self {
            mut sequence,
            mut offset,
            start,
            bytes,
            entries,
        } = self;
        let mut from = 0;
        let events = entries.into_iter().map(|entry| {
            let record = bytes.slice(from..entry.end - start);
            let event = Event {
                sequence,
                offset,
                position: entry.position,
                enqueued: entry.enqueued,
                source: entry.source,
                origin: entry.origin,
                properties: decode(&record[..entry.bag as usize]),
                body: record.slice(entry.bag as usize..),
            };
            sequence += 1;
            offset += record.len() as u64 + ENTRY_BYTES;
            from = entry.end - start;
            event
        });
        events.collect()
    }
}

/// What a bag's bytes say.
fn decode(bag: &[u8]) -> MessageProperties {
    // It was a bag when it was kept.
    std::str::from_utf8(bag)
        .ok()
        .and_then(|bag| MessageProperties::decode(bag).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
