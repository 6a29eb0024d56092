//! Room `engine-model`.
