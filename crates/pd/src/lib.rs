//! Room `pd`.
