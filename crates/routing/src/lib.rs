//! Room `routing`.
