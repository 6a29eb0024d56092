//! Everything that an engine keeps twice, recomputed from scratch.

use crate::Engine;
use crate::blocks::Blocks;

impl Engine {
    /// Recomputes what sequences hold and compares it with the books. O(sequences + blocks).
    ///
    /// # Errors
    /// A sentence that names the first figure that is wrong.
    pub fn check(&self) -> Result<(), String> {
        let size = u64::from(self.config.block_size);
        let mut private = 0;
        let mut held: Vec<u32> = Vec::new();
        let reading = self.reading.iter().map(|timer| timer.1);
        let joining = reading.chain(self.received.iter().map(|key| key.2));
        for place in self.running.iter().copied().chain(joining) {
            let slot = &self.slots[place as usize];
            let id = slot.sequence.id;
            if slot.sequence.output_tokens > 0 && slot.remaining() == 0 {
                return Err(format!("sequence {id} has all its tokens and still runs"));
            }
            let room = u64::from(slot.blocks()) * size;
            if u64::from(slot.computed) > room {
                let computed = slot.computed;
                return Err(format!("sequence {id} has {computed} tokens in room for {room}"));
            }
            private += slot.private;
            held.extend(&slot.held);
        }
        for &(_, place) in &self.kept {
            let slot = &self.slots[place as usize];
            if slot.remaining() > 0 {
                return Err(format!("sequence {} is kept and has not ended", slot.sequence.id));
            }
            private += slot.private;
            held.extend(&slot.held);
        }
        for &(_, _, place) in &self.waiting {
            let slot = &self.slots[place as usize];
            if slot.blocks() > 0 {
                return Err(format!("sequence {} waits and holds blocks", slot.sequence.id));
            }
        }
        self.blocks.check(private, held)
    }
}

impl Blocks {
    /// Compares the books with what sequences hold: so many blocks alone, and stored ones at these
    /// places.
    fn check(&self, private: u32, mut held: Vec<u32>) -> Result<(), String> {
        if self.private() != private {
            return Err(format!("{} blocks are held alone, not {private}", self.private()));
        }
        held.sort_unstable();
        let mut shared = 0;
        for group in held.chunk_by(|a, b| a == b) {
            shared += 1;
            let holders = self.holders(group[0]);
            if holders as usize != group.len() {
                return Err(format!("{holders} hold a stored block, not {}", group.len()));
            }
        }
        if self.used() != private + shared {
            return Err(format!("{} blocks are in use, not {}", self.used(), private + shared));
        }
        if self.committed() > self.total() {
            return Err(format!("{} blocks of {} are taken", self.committed(), self.total()));
        }
        Ok(())
    }
}
