//! How the sidecar is linked: every task carries one, so what is mapped of its program counts.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    let target = |key: &str| env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let at_home = env::var("HOST").is_ok_and(|host| env::var("TARGET") == Ok(host));
    if !release || !at_home || target("OS") != "linux" || target("ENV") != "gnu" {
        return;
    }
    // 8 kB instead of 578 kB, all of which the loader reads.
    if glibc().is_some_and(|version| version >= (2, 36)) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    // LLD's alone, which Rust brings along and uses on this architecture unless it is told otherwise.
    let linker = env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("link"));
    if target("ARCH") == "x86_64" && !linker && env::var_os("RUSTC_LINKER").is_none() {
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
}

/// The version of this machine's C library: older loaders do not know packed relocations.
fn glibc() -> Option<(u32, u32)> {
    let asked = Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .output()
        .ok()?;
    let text = String::from_utf8(asked.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
