//! Room `perf`.
