//! Owns the last ends, bounded in number and in bytes. They follow each other in a few blocks of
//! memory, so that a mass disconnect does not fragment the heap.

mod packed;

use super::report::{Ended, RouteNames};
use crate::addr::EndpointAddr;
pub(super) use packed::Packed;
use std::collections::VecDeque;
use std::sync::Arc;

/// The last ends.
#[derive(Clone, Debug)]
pub(crate) struct Recent {
    ends: VecDeque<Kept>,
    blocks: VecDeque<Vec<u8>>,
    /// Where the oldest end begins in the first block.
    start: usize,
    /// Bytes of the blocks.
    bytes: usize,
    /// The reasons of tunnels whose frames are not read: a handful of texts of the program.
    blind: Vec<&'static str>,
    /// The number of all ends so far, which is the index of the next one.
    count: u64,
}

/// What an end shares with others, and the size of its own part.
#[derive(Clone, Debug)]
struct Kept {
    names: Option<Arc<RouteNames>>,
    endpoint: Option<Arc<EndpointAddr>>,
    size: u32,
    /// The index of its reason. `None` means that its frames were read.
    blind: Option<u8>,
}

/// Size of a block, in bytes. No end is in two blocks.
const BLOCK: usize = 64 << 10;

impl Default for Recent {
    fn default() -> Self {
        let (ends, blocks) = (VecDeque::new(), VecDeque::new());
        Self { ends, blocks, start: 0, bytes: 0, blind: Vec::new(), count: 0 }
    }
}

impl Recent {
    /// Maximum number of ends: a mass disconnect of a few thousand clients fits.
    pub(crate) const MOST: usize = 10_000;
    /// Most bytes of them: some 180 for each, and paths may be long.
    pub(crate) const MOST_BYTES: usize = 2 << 20;

    /// Adds one, and drops the oldest if there are too many.
    pub(super) fn add(&mut self, end: Packed) {
        self.count += 1;
        let Ok(size) = u32::try_from(end.bytes.len()) else { return };
        self.ends.reserve_exact((Self::MOST + 1).saturating_sub(self.ends.len()));
        let blind = end.blind.map(|reason| self.reason(reason));
        self.ends.push_back(Kept { names: end.names, endpoint: end.endpoint, size, blind });
        self.append(&end.bytes);
        while self.ends.len() > Self::MOST || (self.size() > Self::MOST_BYTES && self.ends.len() > 1) {
            self.remove_oldest();
        }
    }

    /// Returns the number of all ends so far, so that a caller can find newer ones later.
    #[must_use]
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Returns the last `most` ends, the newest first.
    #[must_use]
    pub(crate) fn newest(&self, most: usize) -> Vec<Arc<Ended>> {
        let (mut blocks, mut at) = (self.blocks.iter(), self.start);
        let mut block = blocks.next();
        let mut found = Vec::with_capacity(self.ends.len().min(most));
        for (number, kept) in self.ends.iter().enumerate() {
            if block.is_some_and(|block| at >= block.len()) {
                (block, at) = (blocks.next(), 0);
            }
            let next = at + kept.size as usize;
            if self.ends.len() - number <= most {
                let bytes = block.and_then(|block| block.get(at..next)).unwrap_or_default();
                let blind = kept.blind.and_then(|number| self.blind.get(usize::from(number)).copied());
                // Whole ends were written.
                found.extend(
                    packed::unpack(bytes, kept.names.clone(), kept.endpoint.clone(), blind).map(Arc::new),
                );
            }
            at = next;
        }
        found.reverse();
        found
    }

    /// Returns the memory that they take.
    fn size(&self) -> usize {
        self.bytes + self.ends.capacity() * size_of::<Kept>()
    }

    fn append(&mut self, end: &[u8]) {
        let fits = |block: &&mut Vec<u8>| block.capacity() - block.len() >= end.len();
        if let Some(block) = self.blocks.back_mut().filter(fits) {
            return block.extend_from_slice(end);
        }
        let mut block = Vec::with_capacity(end.len().max(BLOCK));
        block.extend_from_slice(end);
        self.bytes += block.capacity();
        self.blocks.push_back(block);
    }

    fn remove_oldest(&mut self) {
        let Some(kept) = self.ends.pop_front() else { return };
        self.start += kept.size as usize;
        if self.blocks.front().is_some_and(|block| self.start >= block.len()) {
            self.bytes -= self.blocks.pop_front().map_or(0, |block| block.capacity());
            self.start = 0;
        }
    }

    fn reason(&mut self, reason: &'static str) -> u8 {
        let known = self.blind.iter().position(|known| *known == reason);
        let number = known.unwrap_or_else(|| {
            self.blind.push(reason);
            self.blind.len() - 1
        });
        u8::try_from(number).unwrap_or(u8::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::packed::tests::end;
    use super::*;

    fn add(recent: &mut Recent, number: u64, target: &str) -> Arc<Ended> {
        let end = Arc::new(end(number, target));
        recent.add(Packed::of(&end));
        end
    }

    #[track_caller]
    fn assert_are(found: &[Arc<Ended>], expected: impl Iterator<Item = Arc<Ended>>) {
        let json = |end: &Arc<Ended>| end.json(0);
        let expected: Vec<_> = expected.map(|end| json(&end)).collect();
        assert_eq!(found.iter().map(json).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn ten_thousand_ends_take_two_megabytes() {
        let mut recent = Recent::default();
        for number in 0..3 * Recent::MOST as u64 {
            add(&mut recent, number, "/rooms/a-usual-name?token=***&lang=de");
            assert!(recent.size() <= Recent::MOST_BYTES + BLOCK, "{}", recent.size());
        }
        assert_eq!((recent.ends.len(), recent.count()), (Recent::MOST, 3 * Recent::MOST as u64));
        let each = recent.size() / Recent::MOST;
        assert!(each <= 190, "{each} bytes an end");
        assert_eq!(recent.newest(1)[0].report.id.0, 3 * Recent::MOST as u64 - 1);
        assert_eq!(recent.newest(usize::MAX).last().unwrap().report.id.0, 2 * Recent::MOST as u64);
    }

    #[test]
    fn the_last_ones_are_found_whole_whatever_their_sizes() {
        let (mut recent, mut all) = (Recent::default(), Vec::new());
        assert!(recent.newest(5).is_empty());
        for number in 0..200 {
            let length = [3, 40_000, 400, 70_000, 20][number as usize % 5];
            all.push(add(&mut recent, number, &format!("/{}", "x".repeat(length))));
            assert!(recent.size() <= Recent::MOST_BYTES + BLOCK, "{}", recent.size());
        }
        let kept = recent.ends.len();
        assert!((20..200).contains(&kept), "{kept}");
        assert_are(&recent.newest(3), all.iter().rev().take(3).cloned());
        assert_are(&recent.newest(usize::MAX), all.iter().rev().take(kept).cloned());
    }
}
