//! The six training operations.
