//! How the sidecar is linked: every task carries one, so what is mapped of its program counts.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |key: &str| env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    if target("OS") != "linux"
        || target("ENV") != "gnu"
        || env::var("PROFILE").as_deref() != Ok("release")
    {
        return;
    }
    // 8 kB instead of 578 kB, all of which the loader reads; glibc 2.36 or newer.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    // LLD only, which Rust brings along and uses on this architecture.
    if target("ARCH") == "x86_64" {
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
}
