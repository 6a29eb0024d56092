//! Room `strategies`.
