//! Sidecars on static files: two in a row, and one whose successor never gets ready.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use http::Request;
use outrigger_bench::fleet::{Process, call, wait_for};
use tokio::process::Command;

use super::common::*;
use super::side::Side;
use super::traffic::{Traffic, Ways};

/// Two sidecars on static files, and their applications.
pub(super) struct Chain {
    pub(super) egress: Side,
    pub(super) ingress: Side,
    pub(super) paths: Ways,
    pub(super) _apps: Vec<Process>,
    pub(super) _folder: tempfile::TempDir,
}

impl Chain {
    pub(super) async fn start(ip: [u8; 4], mutant: Option<&'static str>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let ip = Ipv4Addr::from(ip);
        let (web, origin) = application(folder.path(), "web", free_address(ip)?).await?;
        let (raw, greeter) = greeter(folder.path(), free_address(ip)?).await?;
        let origins = [origin, origin, greeter];
        let hops = three(|| free_address(ip))?;
        let doors = three(|| free_address(ip))?;
        let ingress = side("ingress", folder.path(), hops, origins, mutant).await?;
        let egress = side("egress", folder.path(), doors, hops, mutant).await?;
        let [web_door, grpc, tcp] = doors;
        Ok(Self {
            egress,
            ingress,
            paths: Ways {
                web: web_door,
                grpc,
                tcp,
            },
            _apps: vec![web, raw],
            _folder: folder,
        })
    }

    pub(super) fn traffic(&self) -> Traffic {
        let Ways { web, grpc, tcp } = self.paths;
        let admins = [self.egress.admin, self.ingress.admin];
        Traffic::start(Ways { web, grpc, tcp }, &admins)
    }
}

pub(super) fn three<T>(mut make: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<[T; 3]> {
    Ok([make()?, make()?, make()?])
}

pub(super) async fn greeter(
    folder: &Path,
    listen: SocketAddr,
) -> anyhow::Result<(Process, SocketAddr)> {
    let mut command = Command::new(binaries()?.bench);
    command.args(["origin", "--name", "raw", "--greeting", "hello"]);
    command.args(["--listen", &listen.to_string()]);
    let process = Process::spawn("raw", command, folder)?;
    let address = process.listening("origin", PATIENCE).await?;
    Ok((process, address))
}

/// A sidecar with a listener for each protocol.
pub(super) async fn side(
    name: &'static str,
    folder: &Path,
    listen: [SocketAddr; 3],
    to: [SocketAddr; 3],
    mutant: Option<&'static str>,
) -> anyhow::Result<Side> {
    let mut text = String::new();
    for ((protocol, listen), to) in ["http", "grpc", "tcp"].iter().zip(listen).zip(to) {
        let part = file(name, listen, protocol, protocol, &[to], "");
        let part = part.replace("\"in\"", &format!("\"{protocol}-in\""));
        text += &part.replace("\"out\"", &format!("\"{protocol}-out\""));
    }
    let path = folder.join(format!("{name}.toml"));
    std::fs::write(&path, text)?;
    let arguments = vec!["--static".to_owned(), path.display().to_string()];
    Side::start(name, folder, arguments, mutant).await
}

/// A sidecar on a file, and a successor that has the sockets and never gets ready: its file is a pipe nobody writes to.
pub(super) struct Stuck {
    pub(super) side: Side,
    pub(super) address: SocketAddr,
    pub(super) successor: Process,
    pub(super) pipe: PathBuf,
    pub(super) _app: Process,
    pub(super) _folder: tempfile::TempDir,
}

impl Stuck {
    pub(super) async fn start(ip: [u8; 4], mutant: Option<&'static str>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let ip = Ipv4Addr::from(ip);
        let (app, origin) = application(folder.path(), "web", free_address(ip)?).await?;
        let listen = three(|| free_address(ip))?;
        let side = side("ingress", folder.path(), listen, [origin; 3], mutant).await?;
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status()?;
        ensure!(made.success(), "mkfifo: {made}");
        let successor = side.with_file(2, &pipe)?;
        said(&successor, "taking over").await?;
        Ok(Self {
            side,
            address: listen[0],
            successor,
            pipe,
            _app: app,
            _folder: folder,
        })
    }

    /// New connections are served.
    pub(super) async fn serves(&self) -> anyhow::Result<()> {
        for _ in 0..20 {
            let (status, _) = call(self.address, Request::get("/"), String::new()).await?;
            ensure!(status.is_success(), "{status}");
        }
        Ok(())
    }

    /// What the successor has waited for.
    pub(super) async fn feed(&self) -> anyhow::Result<()> {
        let text = std::fs::read(self.side.folder.join("ingress.toml"))?;
        let pipe = self.pipe.clone();
        Ok(tokio::task::spawn_blocking(move || std::fs::write(pipe, text)).await??)
    }
}

pub(super) async fn said(process: &Process, text: &str) -> anyhow::Result<()> {
    let what = format!("{text:?} in the log of {}", process.name());
    let seen = wait_for(&what, PATIENCE, || async {
        Ok(process.log_tail().contains(text).then_some(()))
    });
    seen.await.with_context(|| process.log_tail())
}

/// It ended with this status and said why.
pub(super) async fn refused(process: &mut Process, code: i32, why: &str) -> anyhow::Result<()> {
    let status = process.ended(PATIENCE).await?;
    ensure!(
        status.code() == Some(code),
        "{status}: {}",
        process.log_tail()
    );
    said(process, why).await
}
