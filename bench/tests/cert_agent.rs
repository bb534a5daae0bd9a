//! `outrigger-proxy cert-agent` beside a stock Envoy: its certificate by SDS, and the same as files for a server of the mesh.

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use common::*;
use outrigger_bench::fleet::{Fleet, Process, wait_for};
use outrigger_bench::peers;
use outrigger_xds::identity::SpiffeId;
use outrigger_xds::tls::{
    Acceptor, Clients, Credentials, Identity, Peer, Roots, alpn, identity_of,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;

const DOMAIN: &str = "outrigger.internal";

/// A control server whose certificates last a few seconds.
async fn short_lived() -> anyhow::Result<Fleet> {
    let mut fleet = fleet().await?;
    fleet.control.kill().await?;
    let mut command = Command::new(&fleet.binaries.control);
    command.args(["serve", "--api", &fleet.api.to_string()]);
    command.args(["--xds", &fleet.xds.to_string(), "--data"]);
    command.arg(fleet.folder().join("registry"));
    command.args(["--certificate-lifetime", "6s"]);
    fleet.control = Process::spawn("control-short", command, fleet.folder())?;
    fleet.control.listening("xds", PATIENCE).await?;
    Ok(fleet)
}

/// An agent for a task of `service`, with flags that say where its certificate goes.
async fn agent(fleet: &Fleet, service: &str, flags: &[&str]) -> anyhow::Result<Process> {
    let mut command = Command::new(&fleet.binaries.control);
    command.args([
        "token",
        "create",
        "--namespace",
        "demo",
        "--service",
        service,
    ]);
    command.args(["--server", &fleet.api.to_string(), "--operator"]);
    command.arg(fleet.folder().join("registry/operator.json"));
    let token = command.kill_on_drop(true).output().await?;
    ensure!(token.status.success(), "{token:?}");
    let mut command = Command::new(&fleet.binaries.proxy);
    command.args(["cert-agent", "--namespace", "demo", "--service", service]);
    command.args(["--control", &format!("https://{}", fleet.api)]);
    command.args(flags);
    // By the environment, as a task definition gives a secret.
    command.env(
        "OUTRIGGER_JOIN_TOKEN",
        String::from_utf8(token.stdout)?.trim(),
    );
    command.env("OUTRIGGER_LOG", "debug");
    Process::spawn(&format!("agent-{service}"), command, fleet.folder())
}

/// Takes mutual TLS from `cart` alone, with whatever certificate is in the folder then, and says who came with which certificate.
async fn serve(listener: TcpListener, folder: PathBuf) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let read = |name: &str| std::fs::read(folder.join(name));
        let identity = Identity::default();
        let credentials = Credentials::from_pem(&read("tls.crt")?, &read("tls.key")?)?;
        identity.set_credentials(credentials);
        identity.set_roots(Roots::from_pem(&read("ca.crt")?)?);
        let cart = Peer::OneOf(vec![id("cart")?]);
        let protocols = &[alpn::TCP];
        let acceptor = Acceptor::new(
            Arc::new(identity),
            Clients::Must(cart),
            protocols,
            &[],
            None,
        );
        let config = acceptor.config().context("an identity")?;
        // Who is refused is not answered.
        let Ok(mut stream) = TlsAcceptor::from(config).accept(stream).await else {
            continue;
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let leaf = chain.first().context("a certificate")?;
        let who = identity_of(leaf).context("a SPIFFE id")?;
        let answer = format!("{who} {:x?}", &leaf[leaf.len() - 16..]);
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
    }
}

fn id(service: &str) -> anyhow::Result<SpiffeId> {
    SpiffeId::service(DOMAIN, "demo", service).map_err(anyhow::Error::msg)
}

fn at(address: Value, name: &str) -> Value {
    let endpoint = json!({ "endpoint": { "address": address } });
    json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] })
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } })
}

/// Opaque TCP in, mutual TLS to `orders` out. One secret is asked for in each of SDS's two variants.
fn bootstrap(listen: SocketAddr, orders: SocketAddr, agent: &Path) -> anyhow::Result<Value> {
    const TYPE: &str = "type.googleapis.com/envoy.extensions";
    const AGENT: &str = "outrigger-cert-agent";
    let secret = |name: &str, api: &str| {
        let service = json!({ "envoy_grpc": { "cluster_name": AGENT } });
        json!({ "name": name, "sds_config": {
            "resource_api_version": "V3",
            "api_config_source": { "api_type": api, "transport_api_version": "V3", "grpc_services": [service] },
        }})
    };
    let name = json!({ "san_type": "URI", "matcher": { "exact": id("orders")?.as_str() } });
    let tls = json!({
        "@type": format!("{TYPE}.transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": {
            "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
            "alpn_protocols": ["outrigger-tcp/1"],
            "tls_certificate_sds_secret_configs": [secret("outrigger-identity", "GRPC")],
            "combined_validation_context": {
                "default_validation_context": { "match_typed_subject_alt_names": [name] },
                "validation_context_sds_secret_config": secret("outrigger-trust-bundle", "DELTA_GRPC"),
            },
        },
    });
    let proxy = json!({
        "@type": format!("{TYPE}.filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": "in",
        "cluster": "orders",
    });
    let http2 = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": format!("{TYPE}.upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": { "http2_protocol_options": {} },
    }});
    let chain = json!({ "filters": [{ "name": "envoy.filters.network.tcp_proxy", "typed_config": proxy }] });
    let orders = json!({
        "name": "orders", "type": "STATIC", "load_assignment": at(socket(orders), "orders"),
        "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
    });
    let agent = json!({
        "name": AGENT, "type": "STATIC", "typed_extension_protocol_options": http2,
        "load_assignment": at(json!({ "pipe": { "path": agent } }), AGENT),
    });
    Ok(json!({
        "node": { "id": "stock", "cluster": "cart" },
        "static_resources": {
            "listeners": [{ "name": "in", "address": socket(listen), "filter_chains": [chain] }],
            "clusters": [orders, agent],
        },
    }))
}

async fn ask(envoy: SocketAddr) -> anyhow::Result<Option<String>> {
    let mut stream = TcpStream::connect(envoy).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok((!answer.is_empty()).then_some(answer))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_envoy_proves_who_it_is_and_follows_every_renewal() -> anyhow::Result<()> {
    let names = ["envoy".to_owned()];
    let found = tokio::task::spawn_blocking(move || peers::find(&names, &[], true)).await??;
    let envoy = found.into_iter().find(|peer| peer.name == "envoy");
    let envoy = envoy.and_then(|peer| peer.program).context("an Envoy")?;
    // Neither does building them count.
    tokio::task::spawn_blocking(binaries).await??;
    bounded(async {
        let fleet = short_lived().await?;
        let (sds, files) = (
            fleet.folder().join("sds.sock"),
            fleet.folder().join("orders"),
        );
        let shown = |path: &Path| path.display().to_string();
        let _orders = agent(&fleet, "orders", &["--out-dir", &shown(&files)]).await?;
        let cart = agent(&fleet, "cart", &["--sds", &shown(&sds)]).await?;
        wait_for("the certificate as files", PATIENCE, || async {
            Ok(files.join("tls.crt").exists().then_some(()))
        })
        .await?;
        let mode = |path: &Path| std::fs::metadata(path).map(|about| about.mode() & 0o777);
        ensure!(mode(&files.join("tls.key"))? == 0o600);
        wait_for("the socket", PATIENCE, || async {
            Ok(sds.exists().then_some(()))
        })
        .await?;
        ensure!(std::fs::metadata(&sds)?.file_type().is_socket() && mode(&sds)? == 0o600);

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(serve(listener, files.clone()));
        let listen = free_address(Ipv4Addr::LOCALHOST)?;
        let config = fleet.folder().join("envoy.json");
        std::fs::write(&config, bootstrap(listen, address, &sds)?.to_string())?;
        let mut command = Command::new(envoy);
        command.arg("--config-path").arg(&config);
        command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "warn"]);
        let envoy = Process::spawn("envoy", command, fleet.folder())?;
        let mut seen = Vec::new();
        for times in 1..=3 {
            let what = format!("certificate {times} of the Envoy");
            let answer = wait_for(&what, PATIENCE, || async {
                let answer = ask(listen).await?;
                Ok(answer.filter(|answer| !seen.contains(answer)))
            });
            let answer = answer.await.with_context(|| {
                format!("envoy: {}\nagent: {}", envoy.log_tail(), cart.log_tail())
            })?;
            ensure!(answer.starts_with(id("cart")?.as_str()), "{answer}");
            seen.push(answer);
        }
        ensure!(!serving.is_finished(), "{:?}", serving.await);
        let log = std::fs::read_to_string(fleet.folder().join("agent-cart.log"))?;
        ensure!(!log.contains("PRIVATE") && !log.contains("ojt1."), "{log}");
        let mut cart = cart;
        cart.terminate()?;
        ensure!(cart.ended(PATIENCE).await?.success() && !sds.exists());
        Ok(())
    })
    .await
}
