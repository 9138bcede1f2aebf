//! Blocks read from the store, the least recently used ones dropped beyond a number of bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::checkpoint::BlockId;
use crate::mvcc::block::Block;

#[derive(Debug)]
pub(super) struct BlockCache {
    bytes_max: usize,
    bytes: usize,
    clock: u64,
    blocks: BTreeMap<BlockId, (Arc<Block>, u64)>,
    by_use: BTreeMap<u64, BlockId>,
}

impl BlockCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, clock: 0, blocks: BTreeMap::new(), by_use: BTreeMap::new() }
    }

    pub(super) fn get(&mut self, id: BlockId) -> Option<Arc<Block>> {
        let (block, used) = self.blocks.get_mut(&id)?;
        self.clock += 1;
        self.by_use.remove(used);
        self.by_use.insert(self.clock, id);
        *used = self.clock;
        Some(Arc::clone(block))
    }

    pub(super) fn insert(&mut self, id: BlockId, block: Arc<Block>) {
        self.remove(id);
        self.clock += 1;
        self.bytes += block.memory_bytes();
        self.blocks.insert(id, (block, self.clock));
        self.by_use.insert(self.clock, id);
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.remove(oldest);
        }
    }

    pub(super) fn remove(&mut self, id: BlockId) {
        if let Some((block, used)) = self.blocks.remove(&id) {
            self.bytes -= block.memory_bytes();
            self.by_use.remove(&used);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ids::{ChangeId, Revision};
    use crate::mvcc::record::Record;

    fn block(main: i64) -> (BlockId, Arc<Block>) {
        let first = ChangeId { main: Revision(main), sub: 0 };
        let record = Record { change: first, tombstone: false, bytes: Bytes::from_static(b"x") };
        (BlockId { first, sequence: 1 }, Arc::new(Block::seal(&[record])))
    }

    #[test]
    fn the_least_recently_used_block_goes_first() {
        let size = block(2).1.memory_bytes();
        let mut cache = BlockCache::new(2 * size);
        for main in [2, 3] {
            let (id, block) = block(main);
            cache.insert(id, block);
        }
        assert!(cache.get(block(2).0).is_some());
        let (id, newest) = block(4);
        cache.insert(id, newest);
        assert!(cache.get(block(3).0).is_none());
        assert!(cache.get(block(2).0).is_some() && cache.get(block(4).0).is_some());
        assert!(cache.bytes <= 2 * size);
    }
}
