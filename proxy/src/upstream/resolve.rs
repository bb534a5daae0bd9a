//! DNS through hickory: TTL respected, a failed or empty answer keeps the last one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::time::Instant;

/// Shorter TTLs would ask for every request, longer ones would outlive a moved task.
const MIN_TTL: Duration = Duration::from_secs(1);
const MAX_TTL: Duration = Duration::from_secs(300);
/// Until the next try after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Names whose last answer is kept.
const MAX_KEPT: usize = 4096;

/// A name that has no address, now or ever.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host}: {reason}")]
pub struct ResolveError {
    /// The name.
    pub host: String,
    /// What DNS said.
    pub reason: String,
}

/// The addresses of a name, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// In the order of the answer.
    pub addrs: Vec<IpAddr>,
    /// When to ask again.
    pub ttl: Duration,
    /// From an earlier answer: the latest one failed or was empty.
    pub stale: bool,
}

/// Looks names up and remembers their last good answers.
pub struct Resolver {
    dns: Result<TokioResolver, String>,
    last: Mutex<HashMap<String, Vec<IpAddr>>>,
}

impl Resolver {
    /// With `/etc/resolv.conf` and `/etc/hosts`. Without a usable resolv.conf only literals and `localhost` resolve.
    pub fn system() -> Self {
        let dns = TokioResolver::builder_tokio().and_then(|mut builder| {
            *builder.options_mut() = options(builder.options_mut().clone());
            builder.build()
        });
        Self {
            dns: dns.map_err(|error| error.to_string()),
            last: Mutex::default(),
        }
    }

    /// With these name servers over UDP, for tests and for setups without resolv.conf.
    pub fn with_servers(servers: &[SocketAddr]) -> Self {
        let servers = servers
            .iter()
            .map(|server| {
                let mut connection = ConnectionConfig::udp();
                connection.port = server.port();
                NameServerConfig::new(server.ip(), true, vec![connection])
            })
            .collect();
        let config = ResolverConfig::from_name_servers(servers);
        let dns = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options(ResolverOpts::default()))
            .build();
        Self {
            dns: dns.map_err(|error| error.to_string()),
            last: Mutex::default(),
        }
    }

    /// The addresses of `host`, and when to ask again.
    pub async fn lookup(&self, host: &str) -> Result<Resolved, ResolveError> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Resolved {
                addrs: vec![address],
                ttl: MAX_TTL,
                stale: false,
            });
        }
        if host.eq_ignore_ascii_case("localhost") {
            return Ok(Resolved {
                addrs: vec![Ipv4Addr::LOCALHOST.into()],
                ttl: MAX_TTL,
                stale: false,
            });
        }
        match self.ask(host).await {
            Ok(resolved) => {
                self.keep(host, &resolved.addrs);
                Ok(resolved)
            }
            Err(reason) => match self.kept(host) {
                Some(addrs) => {
                    tracing::debug!(host, reason, "the last answer is kept");
                    Ok(Resolved {
                        addrs,
                        ttl: RETRY,
                        stale: true,
                    })
                }
                None => Err(ResolveError {
                    host: host.to_owned(),
                    reason,
                }),
            },
        }
    }

    /// Calls `changed` with the addresses of `host` whenever they change, for as long as it is polled.
    pub async fn watch(
        &self,
        host: &str,
        port: u16,
        mut changed: impl FnMut(Vec<SocketAddr>) + Send,
    ) {
        let mut known: Option<Vec<SocketAddr>> = None;
        loop {
            let pause = match self.lookup(host).await {
                Ok(resolved) => {
                    let mut addrs: Vec<_> = resolved
                        .addrs
                        .iter()
                        .map(|address| SocketAddr::new(*address, port))
                        .collect();
                    addrs.sort_unstable();
                    addrs.dedup();
                    if known.as_ref() != Some(&addrs) {
                        known = Some(addrs.clone());
                        changed(addrs);
                    }
                    resolved.ttl
                }
                Err(error) => {
                    tracing::debug!(%error, "not resolved yet");
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn ask(&self, host: &str) -> Result<Resolved, String> {
        let dns = self
            .dns
            .as_ref()
            .map_err(|error| format!("no DNS here: {error}"))?;
        let answer = dns
            .lookup_ip(host)
            .await
            .map_err(|error| error.to_string())?;
        let addrs: Vec<IpAddr> = answer.iter().collect();
        if addrs.is_empty() {
            return Err("the answer is empty".to_owned());
        }
        let left =
            Instant::from_std(answer.valid_until()).saturating_duration_since(Instant::now());
        Ok(Resolved {
            addrs,
            ttl: left.clamp(MIN_TTL, MAX_TTL),
            stale: false,
        })
    }

    fn keep(&self, host: &str, addrs: &[IpAddr]) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() < MAX_KEPT || last.contains_key(host) {
            last.insert(host.to_owned(), addrs.to_vec());
        }
    }

    fn kept(&self, host: &str) -> Option<Vec<IpAddr>> {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(host)
            .cloned()
    }
}

fn options(mut options: ResolverOpts) -> ResolverOpts {
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.positive_min_ttl = Some(MIN_TTL);
    options.positive_max_ttl = Some(MAX_TTL);
    options.negative_max_ttl = Some(RETRY);
    options.timeout = Duration::from_secs(2);
    options
}

/// Keeps the addresses of `host` fresh in a task of its own; aborting the handle ends it.
pub fn watch(
    resolver: Arc<Resolver>,
    host: String,
    port: u16,
    changed: impl FnMut(Vec<SocketAddr>) + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { resolver.watch(&host, port, changed).await })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UdpSocket;

    type Zone = Arc<Mutex<Option<(Ipv4Addr, u32)>>>;

    /// Answers every A question from `zone` and everything else with an empty answer; silent zone is SERVFAIL.
    async fn responder(zone: Zone) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
        let address = socket.local_addr().expect("bound");
        tokio::spawn(async move {
            let mut packet = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut packet).await {
                let question = &packet[..length];
                let end = 12
                    + question[12..]
                        .iter()
                        .position(|byte| *byte == 0)
                        .expect("a name")
                    + 5;
                let is_a = question[end - 4..end - 2] == [0, 1];
                let held = *zone.lock().expect("not poisoned");
                let mut answer = question[..2].to_vec();
                let found = held.filter(|_| is_a);
                let code = if held.is_some() { 0x80 } else { 0x82 };
                answer.extend([0x85, code, 0, 1, 0, u8::from(found.is_some()), 0, 0, 0, 0]);
                answer.extend(&question[12..end]);
                if let Some((ip, ttl)) = found {
                    answer.extend([0xc0, 12, 0, 1, 0, 1]);
                    answer.extend(ttl.to_be_bytes());
                    answer.extend([0, 4]);
                    answer.extend(ip.octets());
                }
                let _ = socket.send_to(&answer, peer).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn literals_and_localhost_need_no_dns() {
        let resolver = Resolver::with_servers(&[]);
        for (host, address) in [
            ("10.1.2.3", "10.1.2.3"),
            ("[::1]", "::1"),
            ("localhost", "127.0.0.1"),
        ] {
            let resolved = resolver.lookup(host).await.expect("resolves");
            assert_eq!(
                resolved.addrs,
                [address.parse::<IpAddr>().expect("an address")]
            );
        }
    }

    #[tokio::test]
    async fn ttl_is_respected_clamped_and_the_stale_answer_kept() {
        let zone: Zone = Arc::new(Mutex::new(Some((Ipv4Addr::new(10, 0, 0, 1), 7))));
        let resolver = Resolver::with_servers(&[responder(zone.clone()).await]);
        let first = resolver.lookup("seven.test.").await.expect("resolves");
        assert_eq!(first.addrs, [IpAddr::from([10, 0, 0, 1])]);
        assert!(
            first.ttl <= Duration::from_secs(7) && first.ttl > Duration::from_secs(5),
            "{:?}",
            first.ttl
        );
        *zone.lock().expect("not poisoned") = Some((Ipv4Addr::new(10, 0, 0, 2), 86_400));
        let long = resolver.lookup("long.test.").await.expect("resolves");
        assert!(
            long.ttl <= MAX_TTL && long.ttl > MAX_TTL - Duration::from_secs(5),
            "{:?}",
            long.ttl
        );
        *zone.lock().expect("not poisoned") = None;
        resolver.dns.as_ref().expect("built").clear_cache();
        let stale = resolver
            .lookup("seven.test.")
            .await
            .expect("the last answer");
        assert_eq!((stale.addrs, stale.stale), (first.addrs, true));
        let error = resolver.lookup("never.test.").await.expect_err("no answer");
        assert_eq!(error.host, "never.test.");
    }

    #[tokio::test]
    async fn kept_answers_are_bounded() {
        let resolver = Resolver::with_servers(&[]);
        for index in 0..MAX_KEPT + 2 {
            resolver.keep(&format!("h{index}"), &[Ipv4Addr::LOCALHOST.into()]);
        }
        assert_eq!(resolver.last.lock().expect("not poisoned").len(), MAX_KEPT);
    }

    #[tokio::test]
    async fn watch_tells_the_first_answer() {
        let zone: Zone = Arc::new(Mutex::new(Some((Ipv4Addr::new(10, 0, 0, 9), 60))));
        let resolver = Arc::new(Resolver::with_servers(&[responder(zone).await]));
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let task = watch(resolver, "w.test.".to_owned(), 80, move |addrs| {
            let _ = sender.try_send(addrs);
        });
        let addrs = receiver.recv().await.expect("an answer");
        assert_eq!(
            addrs,
            ["10.0.0.9:80".parse::<SocketAddr>().expect("an address")]
        );
        task.abort();
    }
}
