//! Room `executor`.
