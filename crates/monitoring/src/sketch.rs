//! How long things took, in little space: quantiles of durations with at most 1 % relative error.
//!
//! Log-linear buckets as in HdrHistogram (Tene, 2012): each power of two is cut into 64 equal
//! buckets, so a bucket's width is at most 1/64 of its lower end, and its middle is at most 1/128
//! (0.78 %) from any value in it. The index is two shifts and an addition on whole nanoseconds: no
//! logarithm, no float, the same on every machine. Whatever the order of records and merges, equal
//! values give equal sketches.
//!
//! A sketch starts as a sorted list of occupied buckets (4 bytes each: the gaps between the tokens
//! of one stream fit into 1 KB) and turns into a plain array over the occupied range when the list
//! grows long.

use std::time::Duration;

/// Buckets per power of two, as a power of two.
const PRECISION: u32 = 6;
/// The longest list of occupied buckets: 896 bytes.
const SPARSE_CELLS: usize = 224;
/// The list grows by so many cells at a time, so that short streams stay small.
const SPARSE_STEP: usize = 16;
/// The array's ends are multiples of this, so that it seldom grows.
const DENSE_STEP: usize = 32;

/// Quantiles, sum and extremes of recorded durations; mergeable.
///
/// ```
/// use sagellm_monitoring::Sketch;
/// use std::time::Duration;
///
/// let mut sketch = Sketch::default();
/// (1..=1000).for_each(|ms| sketch.record(Duration::from_millis(ms)));
/// let p99 = sketch.quantile(0.99).expect("something was recorded");
/// assert!((p99.as_secs_f64() - 0.990).abs() <= 0.990 * 0.01);
/// assert_eq!(sketch.mean(), Some(Duration::from_micros(500_500)));
/// ```
#[derive(Clone, Debug)]
pub struct Sketch {
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
    store: Store,
}

#[derive(Clone, Debug)]
enum Store {
    /// Occupied buckets in ascending order.
    Sparse(Vec<Cell>),
    /// Counts of the buckets `base..base + counts.len()`.
    Dense { base: usize, counts: Vec<u64> },
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    bucket: u16,
    count: u16,
}

impl Default for Sketch {
    fn default() -> Self {
        Self { count: 0, sum: 0, min: u64::MAX, max: 0, store: Store::Sparse(Vec::new()) }
    }
}

impl Sketch {
    /// Records a duration. Cost: O(1); a young sketch searches its list.
    pub fn record(&mut self, duration: Duration) {
        self.record_ns(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Records a duration of `nanos` nanoseconds.
    pub fn record_ns(&mut self, nanos: u64) {
        self.count += 1;
        self.sum += u128::from(nanos);
        self.min = self.min.min(nanos);
        self.max = self.max.max(nanos);
        self.add(bucket_of(nanos), 1);
    }

    /// Adds everything that `other` recorded. Cost: O(buckets of `other`).
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        match &other.store {
            Store::Sparse(cells) => {
                for cell in cells {
                    self.add(usize::from(cell.bucket), u64::from(cell.count));
                }
            }
            Store::Dense { base, counts } => {
                let Some(first) = counts.iter().position(|&n| n > 0) else { return };
                let last = counts.iter().rposition(|&n| n > 0).unwrap_or(first);
                let (offset, own) = self.store.dense(base + first, base + last);
                let start = base + first - offset;
                for (to, from) in own[start..].iter_mut().zip(&counts[first..=last]) {
                    *to += from;
                }
            }
        }
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        (self.count, self.sum, self.min, self.max) = (0, 0, u64::MAX, 0);
        match &mut self.store {
            Store::Sparse(cells) => cells.clear(),
            Store::Dense { counts, .. } => counts.fill(0),
        }
    }

    /// Returns how many durations were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the exact sum, in seconds.
    pub fn sum_secs(&self) -> f64 {
        self.sum as f64 * 1e-9
    }

    /// Returns the exact mean, or `None` of nothing.
    pub fn mean(&self) -> Option<Duration> {
        let mean = self.sum.checked_div(u128::from(self.count))?;
        Some(Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX)))
    }

    /// Returns the exact least, or `None` of nothing.
    pub fn min(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_nanos(self.min))
    }

    /// Returns the exact largest, or `None` of nothing.
    pub fn max(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_nanos(self.max))
    }

    /// Returns the value of rank ⌈`q` × count⌉ with at most 1 % relative error, or `None` of
    /// nothing; `q` is cut to 0..=1. Cost: O(buckets).
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        // A hair less, so that 0.07 × 100 is rank 7 although the product is 7.000000000000001.
        let exact = q.clamp(0.0, 1.0) * self.count as f64;
        let rank = ((exact - exact * 1e-12).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        let bucket = self.buckets().find(|&(_, count)| {
            seen += count;
            seen >= rank
        });
        let (bucket, _) = bucket.expect("the buckets add up to the count");
        Some(Duration::from_nanos(middle_of(bucket).clamp(self.min, self.max)))
    }

    /// Returns the bytes that the sketch occupies.
    pub fn bytes(&self) -> usize {
        let heap = match &self.store {
            Store::Sparse(cells) => cells.capacity() * size_of::<Cell>(),
            Store::Dense { counts, .. } => counts.capacity() * size_of::<u64>(),
        };
        size_of::<Self>() + heap
    }

    fn add(&mut self, bucket: usize, count: u64) {
        match &mut self.store {
            Store::Dense { base, counts } => {
                if let Some(slot) = bucket.checked_sub(*base).and_then(|i| counts.get_mut(i)) {
                    *slot += count;
                    return;
                }
            }
            Store::Sparse(cells) => {
                if add_sparse(cells, bucket, count) {
                    return;
                }
            }
        }
        let (base, counts) = self.store.dense(bucket, bucket);
        counts[bucket - base] += count;
    }

    /// Iterates over the occupied buckets and their counts, in ascending order.
    fn buckets(&self) -> impl Iterator<Item = (usize, u64)> {
        let (cells, base, counts): (&[Cell], usize, &[u64]) = match &self.store {
            Store::Sparse(cells) => (cells, 0, &[]),
            Store::Dense { base, counts } => (&[], *base, counts),
        };
        let sparse = cells.iter().map(|c| (usize::from(c.bucket), u64::from(c.count)));
        let dense = counts.iter().enumerate().map(move |(i, &count)| (base + i, count));
        sparse.chain(dense.filter(|&(_, count)| count > 0))
    }
}

/// Two sketches are equal if they recorded the same, however each stores it.
impl PartialEq for Sketch {
    fn eq(&self, other: &Self) -> bool {
        let figures = |s: &Self| (s.count, s.sum, s.min, s.max);
        figures(self) == figures(other) && self.buckets().eq(other.buckets())
    }
}

impl Store {
    /// Turns into an array that covers `first..=last` and what it held; returns its base and it.
    fn dense(&mut self, first: usize, last: usize) -> (usize, &mut [u64]) {
        let (held, end) = match self {
            Self::Sparse(cells) => match (cells.first(), cells.last()) {
                (Some(a), Some(b)) => (usize::from(a.bucket), usize::from(b.bucket) + 1),
                _ => (first, first),
            },
            Self::Dense { base, counts } => (*base, *base + counts.len()),
        };
        let fits = matches!(self, Self::Dense { .. }) && held <= first && last < end;
        if !fits {
            let base = held.min(first) / DENSE_STEP * DENSE_STEP;
            let mut grown = vec![0; end.max(last + 1).next_multiple_of(DENSE_STEP) - base];
            match self {
                Self::Sparse(cells) => {
                    for cell in cells {
                        grown[usize::from(cell.bucket) - base] = u64::from(cell.count);
                    }
                }
                Self::Dense { counts, .. } => {
                    grown[held - base..end - base].copy_from_slice(counts);
                }
            }
            *self = Self::Dense { base, counts: grown };
        }
        match self {
            Self::Dense { base, counts } => (*base, counts),
            Self::Sparse(_) => unreachable!("it was made an array above"),
        }
    }
}

/// Adds to the list; returns whether the list can hold it.
fn add_sparse(cells: &mut Vec<Cell>, bucket: usize, count: u64) -> bool {
    let Ok(count) = u16::try_from(count) else { return false };
    let place = cells.partition_point(|cell| usize::from(cell.bucket) < bucket);
    if let Some(cell) = cells.get_mut(place).filter(|cell| usize::from(cell.bucket) == bucket) {
        let Some(sum) = cell.count.checked_add(count) else { return false };
        cell.count = sum;
        return true;
    }
    if cells.len() == SPARSE_CELLS {
        return false;
    }
    if cells.len() == cells.capacity() {
        cells.reserve_exact(SPARSE_STEP);
    }
    // 64-bit values have fewer than 3,776 buckets.
    cells.insert(place, Cell { bucket: bucket as u16, count });
    true
}

/// Returns the bucket of a value: the value itself below 128, then 64 per power of two.
fn bucket_of(value: u64) -> usize {
    let shift = (u64::BITS - (value >> (PRECISION + 1)).leading_zeros()) as usize;
    (shift << PRECISION) + (value >> shift) as usize
}

/// Returns the middle of a bucket.
fn middle_of(bucket: usize) -> u64 {
    let shift = (bucket >> PRECISION).saturating_sub(1);
    let low = ((bucket - (shift << PRECISION)) as u64) << shift;
    low + ((1 << shift) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_within_one_percent_of_the_middle_of_its_bucket() {
        let mut value = 1u64;
        while value < u64::MAX / 3 {
            for v in [value - 1, value, value + 1] {
                let error = middle_of(bucket_of(v)).abs_diff(v) as f64;
                assert!(error <= v as f64 * 0.0079, "{v}: off by {error}");
            }
            value += value / 97 + 1;
        }
        assert_eq!(bucket_of(0), 0);
        assert!(bucket_of(u64::MAX) < 3776);
    }

    #[test]
    fn buckets_ascend_without_gaps() {
        for bucket in 0..3776 {
            assert_eq!(bucket_of(middle_of(bucket)), bucket);
        }
    }

    #[test]
    fn a_stream_of_500_tokens_keeps_its_gaps_in_one_kilobyte() {
        let mut sketch = Sketch::default();
        for i in 0..500u64 {
            sketch.record_ns(20_000_000 + (i * 7919 % 500) * 60_000);
        }
        assert!(sketch.bytes() <= 1024, "{} bytes", sketch.bytes());
    }

    #[test]
    fn nothing_has_no_quantile_and_one_value_is_exact() {
        let mut sketch = Sketch::default();
        assert_eq!((sketch.quantile(0.5), sketch.mean(), sketch.max()), (None, None, None));
        sketch.record(Duration::from_millis(123));
        for q in [0.0, 0.5, 1.0] {
            assert_eq!(sketch.quantile(q), Some(Duration::from_millis(123)));
        }
        sketch.clear();
        assert_eq!(sketch, Sketch::default());
    }

    #[test]
    fn a_bucket_of_the_list_overflows_into_the_array() {
        let mut sketch = Sketch::default();
        (0..70_000).for_each(|_| sketch.record_ns(0));
        assert_eq!(sketch.count(), 70_000);
        assert_eq!(sketch.buckets().collect::<Vec<_>>(), [(0, 70_000)]);
    }
}
