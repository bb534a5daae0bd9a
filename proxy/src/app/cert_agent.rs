//! `outrigger-proxy cert-agent`: gives a proxy that is not ours its identity. The key is made here, and goes to that proxy alone.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use outrigger_xds::tls::Identity;
use outrigger_xds::transport::{Held, Secrets, serve_sds};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;

use super::StartError;
use crate::config::AgentConfig;
use crate::mesh::identity::{EnrolConfig, Issued, Keeper};
use crate::mesh::state::StateDir;
use crate::observe::admin::AdminSocket;
use crate::observe::ready::Readiness;
use crate::upstream::resolve::Resolver;

/// Runs an agent until SIGTERM or SIGINT.
pub fn run_agent(config: AgentConfig) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::io("runtime"))?;
    runtime.block_on(live(config))
}

async fn live(config: AgentConfig) -> Result<(), StartError> {
    let mut terminate =
        signal(SignalKind::terminate()).map_err(StartError::io("SIGTERM handler"))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(StartError::io("SIGINT handler"))?;
    let ready = Arc::new(Readiness::new(&[]));
    let enrol = EnrolConfig {
        enrolment: config.enrolment,
        service: config.service,
        node: config.task_id,
        control: config.control,
        resolver: Arc::new(Resolver::system()),
        state: config.state.as_deref().map(StateDir::open).transpose()?,
        ready: Arc::clone(&ready),
        counts: Arc::default(),
    };
    let keeper = Keeper::new(enrol, Arc::<Identity>::default());
    let issued = keeper.issued();
    let held = watch::Sender::new(None);
    // Its file goes when this function ends.
    let _socket = match &config.sds {
        Some((path, mode)) => Some(serve(path, *mode, held.subscribe())?),
        None => None,
    };
    if let Some(folder) = &config.out_dir {
        make(folder).map_err(StartError::io(format!("--out-dir {}", folder.display())))?;
    }
    tokio::select! {
        () = keeper.run() => {}
        () = publish(issued, &held, config.out_dir.as_deref(), &ready) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn serve(path: &Path, mode: u32, held: Held) -> Result<AdminSocket, StartError> {
    let what = || format!("--sds {}", path.display());
    let socket = AdminSocket::bind_for(path, mode).map_err(StartError::io(what()))?;
    let listener = socket.listener.try_clone();
    let listener = listener
        .and_then(UnixListener::from_std)
        .map_err(StartError::io(what()))?;
    println!("sds listening on {}", path.display());
    tokio::spawn(async move {
        if let Err(error) = serve_sds(UnixListenerStream::new(listener), held).await {
            tracing::error!(%error, "SDS is not served any more");
        }
    });
    Ok(socket)
}

/// Hands on every certificate there will be.
async fn publish(
    mut issued: watch::Receiver<Option<Arc<Issued>>>,
    held: &watch::Sender<Option<Arc<Secrets>>>,
    folder: Option<&Path>,
    ready: &Readiness,
) {
    loop {
        let newest = issued.borrow_and_update().clone();
        if let Some(issued) = newest {
            if let Some(folder) = folder {
                match write_all(folder, &issued) {
                    Ok(()) => ready.clear("out-dir"),
                    Err(error) => {
                        ready.problem("out-dir", format!("{}: {error}", folder.display()));
                    }
                }
            }
            held.send_replace(Some(Arc::new(Secrets {
                chain: issued.chain.clone(),
                key: issued.key.clone(),
                bundle: issued.bundle.clone(),
            })));
        }
        if issued.changed().await.is_err() {
            return;
        }
    }
}

fn make(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
}

/// The certificate last: who looks when it changes finds its key there already.
fn write_all(folder: &Path, issued: &Issued) -> io::Result<()> {
    replace(folder, "ca.crt", issued.bundle.as_bytes(), 0o644)?;
    replace(folder, "tls.key", issued.key.as_bytes(), 0o600)?;
    replace(folder, "tls.crt", issued.chain.as_bytes(), 0o644)
}

/// By rename, so that a reader sees the old file or the new one.
fn replace(folder: &Path, name: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = tempfile::Builder::new()
        .prefix(name)
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(folder.join(name)).map_err(io::Error::from)?;
    Ok(())
}
