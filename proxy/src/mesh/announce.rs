//! Announces this task with plain Cloud Map calls.
