//! Room `monitoring`.
