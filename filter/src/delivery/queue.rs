//! The batches that wait or are under way, bounded in bytes.

use std::collections::VecDeque;

use super::SealedBatch;

/// Waiting batches in the order in which they will be sent, and the bytes of those and of all others that still count.
#[derive(Debug)]
pub(super) struct Queue {
    max_bytes: usize,
    bytes: usize,
    waiting: VecDeque<SealedBatch>,
}

impl Queue {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, bytes: 0, waiting: VecDeque::new() }
    }

    /// Whether a batch of `len` bytes fits.
    pub(super) fn has_room(&self, len: usize) -> bool {
        len <= self.max_bytes.saturating_sub(self.bytes)
    }

    /// Whether it would fit if nothing waited: what is under way stays.
    pub(super) fn can_make_room(&self, len: usize) -> bool {
        let waiting: usize = self.waiting.iter().map(|batch| batch.body.len()).sum();
        len <= self.max_bytes.saturating_sub(self.bytes.saturating_sub(waiting))
    }

    /// Appends a new batch, which fits.
    pub(super) fn push(&mut self, batch: SealedBatch) {
        self.bytes += batch.body.len();
        self.waiting.push_back(batch);
    }

    /// All that wait.
    pub(super) fn iter(&self) -> impl Iterator<Item = &SealedBatch> {
        self.waiting.iter()
    }

    /// The batch that will be sent next.
    pub(super) fn next(&self) -> Option<&SealedBatch> {
        self.waiting.front()
    }

    /// Takes the batch that has waited longest. Its bytes count until [`Queue::release`].
    pub(super) fn pop(&mut self) -> Option<SealedBatch> {
        self.waiting.pop_front()
    }

    /// Puts a batch back that was tried and not taken: before all that were not tried yet, the oldest first.
    pub(super) fn put_back(&mut self, batch: SealedBatch) {
        let is_younger = |waiting: &SealedBatch| !waiting.was_tried() || waiting.sequence > batch.sequence;
        let at = self.waiting.iter().position(is_younger).unwrap_or(self.waiting.len());
        self.waiting.insert(at, batch);
    }

    /// Takes all waiting batches of a kind. Their bytes count until [`Queue::release`].
    pub(super) fn take_all(&mut self, of_kind: impl Fn(&SealedBatch) -> bool) -> Vec<SealedBatch> {
        let (taken, kept) = std::mem::take(&mut self.waiting).into_iter().partition(of_kind);
        self.waiting = kept;
        Vec::from(taken)
    }

    /// A batch that was taken has its end.
    pub(super) fn release(&mut self, batch: &SealedBatch) {
        self.bytes = self.bytes.saturating_sub(batch.body.len());
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
