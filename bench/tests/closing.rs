//! The order of closing, as clients see it that are no sidecars and whom nobody tells of a drain; and with a control server that
//! fails meanwhile.

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::ensure;
use common::*;
use outrigger_bench::fleet::{Fleet, Process, Sidecar, call, wait_for};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

/// A sidecar before an application.
struct Ingress {
    process: Process,
    admin: SocketAddr,
    address: SocketAddr,
    _app: Process,
    folder: tempfile::TempDir,
}

impl Ingress {
    async fn start(ip: Ipv4Addr, mutant: Option<&str>) -> anyhow::Result<Self> {
        let binaries = tokio::task::spawn_blocking(binaries).await??;
        let folder = tempfile::tempdir()?;
        let (app, origin) = application(folder.path(), "app", (ip, 0).into()).await?;
        let address = free_address(ip)?;
        let path = folder.path().join("ingress.toml");
        std::fs::write(
            &path,
            file("ingress", address, "http", "http", &[origin], ""),
        )?;
        let (process, admin) = sidecar(&binaries.proxy, folder.path(), &path, mutant).await?;
        Ok(Self {
            process,
            admin,
            address,
            _app: app,
            folder,
        })
    }
}

async fn sidecar(
    program: &Path,
    folder: &Path,
    file: &Path,
    mutant: Option<&str>,
) -> anyhow::Result<(Process, SocketAddr)> {
    let mut command = Command::new(program);
    command.arg("--static").arg(file);
    command.args(["--admin", "127.0.0.1:0", "--workers", "1"]);
    if let Some(mutant) = mutant {
        command.env("OUTRIGGER_MUTANT", mutant);
    }
    let process = Process::spawn("ingress", command, folder)?;
    let admin = process.listening("admin", PATIENCE).await?;
    wait_for("a ready sidecar", PATIENCE, || async {
        let ready = json_page(admin, "/ready").await?;
        Ok((ready["ready"] == true).then_some(()))
    })
    .await?;
    Ok((process, admin))
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: app\r\n\r\n";

/// One answer of the application, and whether it says that the connection closes.
async fn answer(stream: &mut TcpStream) -> anyhow::Result<(String, bool)> {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !is_whole(&text) {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "the answer ends early: {text:?}");
        text += &String::from_utf8_lossy(&buffer[..read]);
    }
    let closes = text.to_ascii_lowercase().contains("connection: close");
    Ok((text, closes))
}

fn is_whole(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.is_some_and(|(_, length)| length.parse() == Ok(body.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_asked_to_close_with_its_next_answer_and_not_closed_before()
-> anyhow::Result<()> {
    bounded(async {
        let mut ingress = Ingress::start(Ipv4Addr::new(127, 0, 1, 216), None).await?;
        let mut stream = TcpStream::connect(ingress.address).await?;
        stream.write_all(GET).await?;
        let (_, closes) = answer(&mut stream).await?;
        ensure!(!closes, "nothing has happened yet");
        call(ingress.admin, http::Request::post("/drain"), String::new()).await?;
        wait_for("the drain's end", PATIENCE, || async {
            let ready = json_page(ingress.admin, "/ready").await?;
            Ok((ready["drained"] == "0 in flight finished").then_some(()))
        })
        .await?;
        stream.write_all(GET).await?;
        let (text, closes) = answer(&mut stream).await?;
        ensure!(text.starts_with("HTTP/1.1 200") && closes, "{text}");
        ensure!(stream.read(&mut [0; 1]).await? == 0, "it closes then");
        let mut late = TcpStream::connect(ingress.address).await?;
        late.write_all(GET).await?;
        let (text, closes) = answer(&mut late).await?;
        ensure!(
            text.starts_with("HTTP/1.1 200") && closes,
            "until its exit it accepts: {text}"
        );
        ingress.process.terminate()?;
        ensure!(ingress.process.ended(PATIENCE).await?.success(), "it fails");
        Ok(())
    })
    .await
}

/// Connections that are in the accept queue when the sidecar is told to end. Answers how many were answered.
async fn queued_at_the_end(ingress: &mut Ingress) -> anyhow::Result<usize> {
    ingress.process.signal(Signal::STOP)?;
    let mut clients = Vec::new();
    for _ in 0..QUEUED {
        let mut stream = TcpStream::connect(ingress.address).await?;
        stream.write_all(GET).await?;
        clients.push(stream);
    }
    ingress.process.terminate()?;
    ingress.process.signal(Signal::CONT)?;
    let mut answered = 0;
    for mut client in clients {
        answered += usize::from(answer(&mut client).await.is_ok());
    }
    let status = ingress.process.ended(PATIENCE).await?;
    ensure!(
        status.success(),
        "{status}:\n{}",
        ingress.process.log_tail()
    );
    Ok(answered)
}

const QUEUED: usize = 64;
const ROUNDS: usize = 20;
/// It is a race, which one round in many loses when the machine is busy.
#[cfg(debug_assertions)]
const MUTANT_ROUNDS: usize = 5 * ROUNDS;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_to_be_accepted_at_the_end_is_answered() -> anyhow::Result<()> {
    bounded(async {
        let ip = Ipv4Addr::new(127, 0, 1, 217);
        let mut ingress = Ingress::start(ip, None).await?;
        for _ in 0..ROUNDS {
            let answered = queued_at_the_end(&mut ingress).await?;
            ensure!(answered == QUEUED, "{answered} of {QUEUED} were answered");
            ingress.again(None).await?;
        }
        Ok(())
    })
    .await
}

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_closed_with_its_socket_loses_requests() -> anyhow::Result<()> {
    bounded(async {
        let ip = Ipv4Addr::new(127, 0, 1, 218);
        let mutant = Some("leave-accept-queue");
        let mut ingress = Ingress::start(ip, mutant).await?;
        for _ in 0..MUTANT_ROUNDS {
            if queued_at_the_end(&mut ingress).await? < QUEUED {
                return Ok(());
            }
            ingress.again(mutant).await?;
        }
        anyhow::bail!("nothing was lost in {MUTANT_ROUNDS} rounds")
    })
    .await
}

impl Ingress {
    /// Another run of the sidecar on the same file.
    async fn again(&mut self, mutant: Option<&str>) -> anyhow::Result<()> {
        let path = self.folder.path().join("ingress.toml");
        let program = binaries()?.proxy;
        (self.process, self.admin) = sidecar(&program, self.folder.path(), &path, mutant).await?;
        Ok(())
    }
}

/// A task with three services, and the sidecar of a caller.
async fn leaving(fleet: &Fleet, number: u8) -> anyhow::Result<(Process, Sidecar, Sidecar)> {
    let ip = Ipv4Addr::new(127, 0, 1, number);
    let (app, origin) = application(fleet.folder(), "app", (ip, 0).into()).await?;
    let mut ports = Vec::new();
    for name in ["orders", "parcels", "prices"] {
        ports.push(Port {
            name,
            container: origin.port(),
            alias: free_port()?,
        });
    }
    let mut flags = Beside::new(fleet, "leaving", number);
    flags.document = Some(document("demo", &ports));
    let leaving = flags.start(fleet).await?;
    let client = Beside::new(fleet, "client", number + 1)
        .start(fleet)
        .await?;
    for port in &ports {
        let address = dial(&client, port.name, port.alias).await?;
        with_log(answered_by(address, port.name, &["app"]).await, &client)?;
    }
    Ok((app, leaving, client))
}

async fn ended(leaving: &mut Sidecar) -> anyhow::Result<String> {
    let status = leaving.process.ended(PATIENCE).await?;
    ensure!(status.success(), "{status}");
    Ok(leaving.process.log_tail())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mute_control_server_holds_up_an_idle_sidecar_no_longer_than_its_drain_timeout()
-> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let (_app, mut leaving, _client) = leaving(&fleet, 222).await?;
        fleet.control.signal(Signal::STOP)?;
        leaving.process.terminate()?;
        let log = ended(&mut leaving).await;
        fleet.control.signal(Signal::CONT)?;
        let log = log?;
        ensure!(log.contains("not published"), "{log}");
        let missed = log.matches("not deregistered in time").count();
        ensure!(missed == 3, "{missed}: {log}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_outlives_a_control_server_that_dies_and_comes_back() -> anyhow::Result<()> {
    bounded(async {
        let mut fleet = fleet().await?;
        let (_app, mut leaving, client) = leaving(&fleet, 224).await?;
        // The drain waits for this one's answer.
        client.process.signal(Signal::STOP)?;
        leaving.process.terminate()?;
        wait_for(
            "the drain to reach the control server",
            PATIENCE,
            || async {
                let clusters = page(leaving.admin, "/clusters").await?;
                Ok(clusters.contains("draining").then_some(()))
            },
        )
        .await?;
        fleet.control.kill().await?;
        start_control(&mut fleet).await?;
        client.process.signal(Signal::CONT)?;
        let log = ended(&mut leaving).await?;
        ensure!(!log.contains("not published"), "{log}");
        ensure!(log.contains("acknowledged"), "{log}");
        Ok(())
    })
    .await
}
