//! Fleets of real processes on loopback: control server, sidecars and applications, ended and cleaned up by `Drop`.

mod process;
mod secure;
mod task;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::process::Command;

pub use process::Process;
pub use secure::Enrolment;
pub use task::{AppProtocol, Service, Sidecar, Task, address, client_document};

/// How long a process may take to say where it listens.
const START: Duration = Duration::from_secs(20);

/// The three programs, as built beside the running one.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `outrigger-control`.
    pub control: PathBuf,
    /// `outrigger-proxy`.
    pub proxy: PathBuf,
    /// `outrigger-bench`, for origins as processes of their own.
    pub bench: PathBuf,
}

impl Binaries {
    /// Finds the programs next to the running one; builds them when cargo runs us (so that they are never older than
    /// we are) or when one is missing, and says so.
    pub fn find() -> anyhow::Result<Self> {
        let exe = std::env::current_exe().context("the running program's own path")?;
        let mut folder = exe
            .parent()
            .context("a program lies in a folder")?
            .to_owned();
        let is_test = folder.ends_with("deps");
        if is_test {
            folder.pop();
        }
        let found = Self {
            control: folder.join("outrigger-control"),
            proxy: folder.join("outrigger-proxy"),
            bench: folder.join("outrigger-bench"),
        };
        let missing = found.missing();
        if !missing.is_empty() {
            println!("building {}", missing.join(", "));
        }
        if !missing.is_empty() || (!is_test && std::env::var_os("CARGO").is_some()) {
            build(&folder)?;
        }
        match found.missing().first() {
            Some(name) => bail!("cargo build made no {name} in {}", folder.display()),
            None => Ok(found),
        }
    }

    fn missing(&self) -> Vec<String> {
        let all = [&self.control, &self.proxy, &self.bench];
        let missing = all.into_iter().filter(|path| !path.exists());
        missing
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect()
    }
}

fn build(folder: &Path) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(cargo);
    command.args(["build", "--workspace", "--bins"]);
    if folder.ends_with("release") {
        command.arg("--release");
    }
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let status = command.status().context("cargo build")?;
    if !status.success() {
        bail!("cargo build of the control server and the sidecar failed: {status}");
    }
    Ok(())
}

/// A control server, its data and everything that was started beside it.
#[derive(Debug)]
pub struct Fleet {
    /// Where the programs are.
    pub binaries: Binaries,
    /// The control server's process.
    pub control: Process,
    /// Cloud Map and operator API.
    pub api: SocketAddr,
    /// ADS.
    pub xds: SocketAddr,
    /// The safeguard that sidecars started from now on go without, in debug builds.
    pub mutant: Option<String>,
    /// More flags of the control server. With any, sidecars enrol and speak TLS to it.
    control_flags: Vec<String>,
    folder: tempfile::TempDir,
}

impl Fleet {
    /// Starts a control server on free ports, with a fresh registry in a temporary folder.
    pub async fn start(binaries: Binaries) -> anyhow::Result<Self> {
        Self::with_flags(binaries, &[]).await
    }

    /// The same with identities: sidecars enrol by a token of their service. `flags` are the control server's, `--tls strict` at least.
    pub async fn secure(binaries: Binaries, flags: &[&str]) -> anyhow::Result<Self> {
        Self::with_flags(binaries, flags).await
    }

    async fn with_flags(binaries: Binaries, flags: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("outrigger-").tempdir()?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        let (control, api, xds) = start_control(&binaries, folder.path(), any, any, &flags).await?;
        Ok(Self {
            binaries,
            control,
            api,
            xds,
            mutant: None,
            control_flags: flags,
            folder,
        })
    }

    /// Kills the control server and starts it again on the same ports and data.
    pub async fn restart_control(&mut self) -> anyhow::Result<()> {
        self.control.kill().await?;
        let (folder, flags) = (self.folder.path(), &self.control_flags);
        (self.control, self.api, self.xds) =
            start_control(&self.binaries, folder, self.api, self.xds, flags).await?;
        Ok(())
    }

    /// The temporary folder with every process's log, state and files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Calls one Cloud Map operation.
    pub async fn cloud_map(
        &self,
        operation: &str,
        body: serde_json::Value,
    ) -> anyhow::Result<serde_json::Value> {
        let request = http::Request::post("/")
            .header("content-type", "application/x-amz-json-1.1")
            .header(
                "x-amz-target",
                format!("Route53AutoNaming_v20170314.{operation}"),
            );
        let (status, answer) = call(self.api, request, body.to_string()).await?;
        if !status.is_success() {
            bail!("{operation}: {status}: {answer}");
        }
        serde_json::from_str(&answer).with_context(|| format!("{operation} answered {answer:?}"))
    }
}

async fn start_control(
    binaries: &Binaries,
    folder: &Path,
    api: SocketAddr,
    xds: SocketAddr,
    flags: &[String],
) -> anyhow::Result<(Process, SocketAddr, SocketAddr)> {
    let mut command = Command::new(&binaries.control);
    command.args([
        "serve",
        "--api",
        &api.to_string(),
        "--xds",
        &xds.to_string(),
        "--data",
    ]);
    command.arg(folder.join("registry")).args(flags);
    let process = Process::spawn("control", command, folder)?;
    let api = process.listening("api", START).await?;
    let xds = process.listening("xds", START).await?;
    Ok((process, api, xds))
}

/// One HTTP/1.1 request on a connection of its own.
pub async fn call(
    address: SocketAddr,
    request: http::request::Builder,
    body: String,
) -> anyhow::Result<(http::StatusCode, String)> {
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = request
            .header("host", address.to_string())
            .body(Full::new(Bytes::from(body)))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        connection.abort();
        anyhow::Ok((head.status, String::from_utf8_lossy(&body).into_owned()))
    };
    let answer = tokio::time::timeout(Duration::from_secs(10), exchange).await;
    answer
        .with_context(|| format!("{address} did not answer in 10 s"))?
        .with_context(|| format!("request to {address}"))
}

/// The address of `name` in the managed block of a hosts file, and the line that says so.
pub fn resolve(
    hosts_file: &Path,
    name: &str,
) -> anyhow::Result<Option<(std::net::IpAddr, String)>> {
    let text =
        std::fs::read_to_string(hosts_file).with_context(|| hosts_file.display().to_string())?;
    let block = text
        .lines()
        .skip_while(|line| !line.starts_with("# outrigger begin"));
    for line in block.take_while(|line| !line.starts_with("# outrigger end")) {
        let mut words = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
            continue;
        };
        if words.any(|word| word == name) {
            return Ok(Some((address, line.to_owned())));
        }
    }
    Ok(None)
}

/// Polls `check` every few milliseconds until it gives a value; the error names what was waited for.
pub async fn wait_for<T, F>(
    what: &str,
    bound: Duration,
    mut check: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let deadline = tokio::time::Instant::now() + bound;
    let mut last = None;
    while tokio::time::Instant::now() < deadline {
        match check().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    match last {
        Some(error) => Err(error.context(format!("waited {bound:?} for {what}"))),
        None => bail!("waited {bound:?} for {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_resolves_only_inside_the_managed_block() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = folder.path().join("hosts");
        let text = "127.0.0.1 localhost\n9.9.9.9 orders\n# outrigger begin\n127.201.0.1 cart orders # two\n# outrigger end\n8.8.8.8 other\n";
        std::fs::write(&hosts, text).unwrap();
        let (address, line) = resolve(&hosts, "orders").unwrap().unwrap();
        assert_eq!(address.to_string(), "127.201.0.1");
        assert_eq!(line, "127.201.0.1 cart orders # two");
        for absent in ["localhost", "other", "two", "9.9.9.9"] {
            assert!(resolve(&hosts, absent).unwrap().is_none(), "{absent}");
        }
    }
}
