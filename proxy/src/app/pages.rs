//! The admin and metrics pages: their sockets, and what they show.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use outrigger_xds::model::Direction;
use tokio_util::sync::CancellationToken;

use super::restarting::Ending;
use super::{Parts, StartError};
use crate::config::Config;
use crate::downstream::listener;
use crate::observe::admin::{AdminSocket, AdminState, serve_admin, serve_agent, serve_metrics};
use crate::restart::Socket;
use crate::routing::snapshot::{ListenerPolicy, Snapshot};

/// The admin pages on loopback, and `/metrics` with `/ready` where they are asked for.
pub(super) struct Pages {
    admin: TcpListener,
    metrics: Option<TcpListener>,
    agent: Option<AdminSocket>,
    /// The same sockets, for a successor.
    lent: Vec<Socket>,
}

impl Pages {
    pub(super) fn bind(config: &Config, parts: &Parts) -> Result<Self, StartError> {
        let mut lent = Vec::new();
        let mut bind = |flag: &str, address| {
            let inherited = parts.running.lock().inherited.listener(flag, address);
            let socket = inherited.map_or_else(|| listener::bind(address), Ok);
            let bound = socket.and_then(|socket| {
                lent.push(Socket::new(flag, Some(address), socket.try_clone()?));
                Ok(socket)
            });
            bound.map_err(StartError::io(format!("{flag} {address}")))
        };
        let admin = bind("--admin", config.admin)?;
        let metrics = config.metrics.map(|it| bind("--metrics", it)).transpose()?;
        let agent = config.admin_socket.as_deref();
        let agent = agent.map(|path| agent_socket(path, parts, &mut lent));
        Ok(Self {
            admin,
            metrics,
            agent: agent.transpose()?,
            lent,
        })
    }

    /// Serves them; the sockets, for a successor.
    pub(super) fn serve(
        self,
        parts: &Parts,
        drain_asked: &CancellationToken,
        ending: &mut Ending,
    ) -> Result<Vec<Socket>, StartError> {
        let (metrics, clusters, drain) = (
            Arc::clone(&parts.metrics),
            Arc::clone(&parts.clusters),
            drain_asked.clone(),
        );
        let (accepted, current) = {
            let running = parts.running.lock();
            (running.accepted(), running.current())
        };
        let state = AdminState {
            ready: Arc::clone(&parts.ready),
            metrics: Arc::new(move || metrics.render()),
            config: Arc::new(move || {
                let page = without_tokens(serde_json::json!(**accepted.load()));
                with_security(page, &current.load())
            }),
            clusters: Arc::new(move || clusters.describe()),
            drain: Arc::new(move || drain.cancel()),
        };
        let admin =
            tokio::net::TcpListener::from_std(self.admin).map_err(StartError::io("--admin"))?;
        let address = admin.local_addr().map_err(StartError::io("--admin"))?;
        println!("admin listening on http://{address}");
        let until = ending.until.clone();
        ending
            .pages
            .spawn(serve_admin(admin, state.clone(), until.clone()));
        if let Some(agent) = self.agent {
            let (state, until) = (state.clone(), until.clone());
            ending.pages.spawn(serve_agent(agent, state, until));
        }
        if let Some(metrics) = self.metrics {
            let metrics =
                tokio::net::TcpListener::from_std(metrics).map_err(StartError::io("--metrics"))?;
            let address = metrics.local_addr().map_err(StartError::io("--metrics"))?;
            println!("metrics listening on http://{address}");
            ending.pages.spawn(serve_metrics(metrics, state, until));
        }
        Ok(self.lent)
    }
}

/// The ECS agent's socket: the one of the process before, or a new one.
fn agent_socket(
    path: &Path,
    parts: &Parts,
    lent: &mut Vec<Socket>,
) -> Result<AdminSocket, StartError> {
    const FLAG: &str = "--admin-socket";
    let inherited = parts.running.lock().inherited.unix_listener(FLAG);
    let socket = match inherited {
        Some(listener) => Ok(AdminSocket::adopt(path, listener)),
        None => AdminSocket::bind(path),
    };
    let bound = socket.and_then(|socket| {
        lent.push(Socket::new(FLAG, None, socket.listener.try_clone()?));
        Ok(socket)
    });
    bound.map_err(StartError::io(format!("{FLAG} {}", path.display())))
}

/// Says of each ingress listener what it takes and whom it lets in.
fn with_security(mut page: serde_json::Value, snapshot: &Snapshot) -> serde_json::Value {
    let inbound = page["inbound"].take();
    let ingress = |listener: &&Arc<ListenerPolicy>| listener.direction == Direction::Ingress;
    for listener in snapshot.listeners().filter(ingress) {
        if let Some(shown) = page["listeners"].get_mut(&listener.name) {
            let policy = shown["inbound"].as_str().and_then(|name| inbound.get(name));
            let authorization = policy.map(|policy| policy["authorization"].clone());
            shown["authorization"] = authorization.unwrap_or_default();
            shown["tls"] = listener.describe_tls();
        }
    }
    page["inbound"] = inbound;
    page
}

/// Who may read this page need not know the tokens of the hop protocol.
fn without_tokens(mut page: serde_json::Value) -> serde_json::Value {
    match &mut page {
        serde_json::Value::Object(fields) => {
            for token in ["request", "verdict"] {
                if let Some(text) = fields.get_mut(token).filter(|value| value.is_string()) {
                    *text = "(hidden)".into();
                }
            }
            for value in fields.values_mut() {
                *value = without_tokens(value.take());
            }
        }
        serde_json::Value::Array(items) => {
            for item in items {
                *item = without_tokens(item.take());
            }
        }
        _ => {}
    }
    page
}
