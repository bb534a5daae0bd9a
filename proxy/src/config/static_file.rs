//! The static file: the same model from TOML, without a control server.
