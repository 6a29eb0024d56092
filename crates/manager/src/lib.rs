//! Room `manager`.
