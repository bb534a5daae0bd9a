//! DNS through hickory: TTL respected, a failed or empty answer keeps the last one.
