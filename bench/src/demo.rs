//! `cargo demo`: a service of three tasks and a client, real traffic by short name, while a task is killed, another is
//! drained and a fourth is added; ends with a plain verdict.

mod screen;
mod verdict;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;

use crate::fleet::{self, AppProtocol, Binaries, Fleet, Service, Sidecar, Task, wait_for};
use crate::load::{Load, Plan};
use screen::Screen;
use verdict::{Phase, Verdict};

const SERVICE: &str = "orders";
/// Every answer takes its task 10 ms, so that requests are under way when a task is killed or drained.
const PATH: &str = "/?ms=10";
/// For starts, and for a drain (the sidecar's own bound is 20 s).
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the registry is asked whether the fourth task is in it.
const POLL: Duration = Duration::from_millis(2);

/// What the command line may change.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Leave everything running afterwards, and print commands to try
    #[arg(long)]
    pub keep: bool,
    /// Requests per second
    #[arg(long, default_value_t = 400)]
    pub rate: u32,
    /// Seconds of traffic between two events
    #[arg(long, default_value_t = 4)]
    pub seconds: u64,
}

/// Runs the demo until its verdict (with `keep`, until it is told to stop); whether the verdict is good.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let stage = tokio::select! {
        stage = play(&options) => stage?,
        () = crate::stop_signal() => anyhow::bail!("interrupted; all processes are ended"),
    };
    if options.keep {
        stage.print_commands();
        crate::stop_signal().await;
    }
    Ok(stage.good)
}

/// What runs when the story is told.
struct Stage {
    fleet: Fleet,
    client: Sidecar,
    tasks: Vec<Task>,
    address: SocketAddr,
    good: bool,
}

async fn play(options: &Options) -> anyhow::Result<Stage> {
    let binaries = Binaries::find()?;
    let screen = Screen::new();
    let (port, why) = service_port();
    if let Some(why) = why {
        screen.say(&format!(
            "port 80 cannot be bound here ({why}): {SERVICE} listens on port {port}"
        ));
    }
    let site = Site::free(port)
        .context("every address range of the demo is in use: is it running several times?")?;
    let fleet = Fleet::start(binaries).await?;
    screen.say(&format!(
        "control server: api http://{}, xds http://{}",
        fleet.api, fleet.xds
    ));

    let service = Service {
        name: SERVICE.to_owned(),
        port,
        protocol: AppProtocol::Http,
    };
    let client = Sidecar::start(
        &fleet,
        "client",
        site.number(0),
        site.vip_net(0),
        &fleet::client_document(),
    )
    .await?;
    let mut tasks = Vec::new();
    for n in 1..=3 {
        tasks.push(start_task(&fleet, &service, site, n).await?);
    }
    client.ready().await?;
    for task in &tasks {
        task.sidecar.ready().await?;
    }
    screen
        .say("three tasks of orders and one client, each with its own sidecar process, all ready");

    let vip = short_name(&client, &screen).await?;
    let address = SocketAddr::new(vip, port);
    warm_up(address, port)
        .await
        .map_err(|error| error.context(sidecar_log(&client)))?;
    screen.say(&format!(
        "the client sends {} requests per second to http://{}{PATH} (an answer takes a task 10 ms)",
        options.rate,
        authority(port)
    ));

    let story = Story {
        options,
        screen: &screen,
        fleet: &fleet,
        service: &service,
        site,
    };
    let mut load = Load::start(Plan {
        rate: Some(options.rate),
        connections: 32,
        path: PATH.to_owned(),
        ..Plan::new(address, authority(port))
    });
    let (phases, change) = story.tell(&mut load, &mut tasks).await?;
    let record = load.stop().await;
    screen.clear();

    let verdict = Verdict::new(&record, phases, change);
    print!("{verdict}");
    if !verdict.is_good() {
        println!(
            "the client's sidecar said last:\n{}",
            client.process.log_tail()
        );
    }
    let good = verdict.is_good();
    Ok(Stage {
        fleet,
        client,
        tasks,
        address,
        good,
    })
}

async fn start_task(fleet: &Fleet, service: &Service, site: Site, n: u8) -> anyhow::Result<Task> {
    Task::start(
        fleet,
        service,
        &format!("{SERVICE}-{n}"),
        site.number(n),
        site.vip_net(n),
    )
    .await
}

/// The events, with traffic before, between and after them.
struct Story<'a> {
    options: &'a Options,
    screen: &'a Screen,
    fleet: &'a Fleet,
    service: &'a Service,
    site: Site,
}

impl Story<'_> {
    async fn tell(
        &self,
        load: &mut Load,
        tasks: &mut Vec<Task>,
    ) -> anyhow::Result<(Vec<Phase>, Option<Instant>)> {
        let mut phases = vec![Phase::begin("three tasks")];
        self.traffic(load, "three tasks").await;

        let victim = tasks.remove(0);
        self.screen
            .say(&format!("SIGKILL to {} and its sidecar", victim.id));
        self.screen.mark(&victim.id, "killed");
        phases.push(Phase::begin("through the kill"));
        victim.kill().await?;
        self.traffic(load, "orders-1 was killed").await;

        let leaver = tasks.remove(0);
        self.screen
            .say(&format!("SIGTERM to {}'s sidecar: it drains", leaver.id));
        self.screen.mark(&leaver.id, "draining");
        phases.push(Phase::begin("through the drain"));
        let id = leaver.id.clone();
        let drained = self
            .screen
            .during(load, "orders-2 drains", leaver.drain(PATIENCE))
            .await?;
        self.screen.say(&format!(
            "{id} is drained and gone after {:.2} s",
            drained.as_secs_f64()
        ));
        self.screen.mark(&id, "drained");
        self.traffic(load, "orders-2 was drained").await;

        self.screen.say("a fourth task starts");
        phases.push(Phase::begin("through the addition"));
        let (added, change) = self
            .screen
            .during(load, "orders-4 starts", self.add(4))
            .await?;
        self.screen.mark(&added.id, "added");
        tasks.push(added);
        self.traffic(load, "orders-4 was added").await;
        Ok((phases, change))
    }

    async fn traffic(&self, load: &Load, what: &str) {
        let seconds = Duration::from_secs(self.options.seconds);
        self.screen
            .during(load, what, tokio::time::sleep(seconds))
            .await;
    }

    /// Starts a task; with it, the last moment at which the registry did not have it.
    async fn add(&self, n: u8) -> anyhow::Result<(Task, Option<Instant>)> {
        let start = start_task(self.fleet, self.service, self.site, n);
        let (task, change) = tokio::join!(start, self.registered(format!("{SERVICE}-{n}")));
        let task = task?;
        let change = change.with_context(|| {
            format!(
                "{} said last:\n{}",
                task.id,
                task.sidecar.process.log_tail()
            )
        })?;
        task.sidecar.ready().await?;
        Ok((task, Some(change)))
    }

    async fn registered(&self, id: String) -> anyhow::Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        let mut absent = Instant::now();
        while Instant::now() < deadline {
            let asked = Instant::now();
            let query =
                json!({ "NamespaceName": "demo", "ServiceName": SERVICE, "HealthStatus": "ALL" });
            let answer = self.fleet.cloud_map("DiscoverInstances", query).await?;
            let instances = answer["Instances"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            if instances
                .iter()
                .any(|instance| instance["InstanceId"] == id.as_str())
            {
                return Ok(absent);
            }
            absent = asked;
            tokio::time::sleep(POLL).await;
        }
        anyhow::bail!("{id} is not in the registry after {PATIENCE:?}")
    }
}

/// What the client's hosts block says.
async fn short_name(client: &Sidecar, screen: &Screen) -> anyhow::Result<IpAddr> {
    let found = wait_for("orders in the client's hosts block", PATIENCE, || async {
        fleet::resolve(&client.hosts_file, SERVICE)
    });
    let (vip, line) = found
        .await
        .map_err(|error| error.context(sidecar_log(client)))?;
    screen.say(&format!(
        "the client resolves {SERVICE} from its sidecar's block in {}",
        client.hosts_file.display()
    ));
    screen.say(&format!("    {line}"));
    Ok(vip)
}

/// Uncounted requests until all three tasks have answered.
async fn warm_up(address: SocketAddr, port: u16) -> anyhow::Result<()> {
    wait_for(
        "an answer from each of the three tasks",
        PATIENCE,
        || async {
            let plan = Plan {
                connections: 1,
                requests: Some(30),
                ..Plan::new(address, authority(port))
            };
            let record = Load::start(plan).finished().await;
            if record.failed == 0 && record.by_task.len() == 3 {
                return Ok(Some(()));
            }
            let seen: Vec<_> = record.by_task.keys().collect();
            anyhow::bail!("answers came from {seen:?}; failures: {:?}", record.reasons)
        },
    )
    .await
}

fn sidecar_log(sidecar: &Sidecar) -> String {
    format!(
        "{} said last:\n{}",
        sidecar.process.name(),
        sidecar.process.log_tail()
    )
}

fn authority(port: u16) -> String {
    if port == 80 {
        SERVICE.to_owned()
    } else {
        format!("{SERVICE}:{port}")
    }
}

/// 80 where it can be bound, else 8080 and why.
fn service_port() -> (u16, Option<std::io::Error>) {
    match std::net::TcpListener::bind((Ipv4Addr::new(127, 255, 254, 253), 80)) {
        Ok(_) => (80, None),
        Err(error) => (8080, Some(error)),
    }
}

/// Loopback addresses for one demo: several may run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Site(u8);

impl Site {
    /// The first one whose VIP ranges nobody listens in.
    fn free(port: u16) -> Option<Self> {
        (0..5).map(Self).find(|site| {
            let first_vip = |n| Ipv4Addr::new(127, site.vip_net(n)[1], 0, 1);
            (0..=4).all(|n| std::net::TcpListener::bind((first_vip(n), port)).is_ok())
        })
    }

    /// The last byte of the n-th task's address, 127.0.1.x.
    fn number(self, n: u8) -> u8 {
        10 + 10 * self.0 + n
    }

    /// The first two bytes of the n-th task's VIP range.
    fn vip_net(self, n: u8) -> [u8; 2] {
        [127, 200 + 10 * self.0 + n]
    }
}

impl Stage {
    fn print_commands(&self) {
        let Self {
            fleet,
            client,
            tasks,
            address,
            ..
        } = self;
        let (port, vip) = (address.port(), address.ip());
        println!(
            "\nstill running until Ctrl-C; files and logs are in {}",
            fleet.folder().display()
        );
        println!(
            "  curl -si --resolve {SERVICE}:{port}:{vip} http://{}/",
            authority(port)
        );
        println!(
            "  curl -s --resolve {SERVICE}:{port}:{vip} 'http://{}/?bytes=20&ms=100'",
            authority(port)
        );
        println!(
            "  curl -s http://{}/clusters      # the client's sidecar; also /ready, /metrics, /config",
            client.admin
        );
        for task in tasks {
            println!(
                "  curl -s http://{}/metrics       # {}'s sidecar",
                task.sidecar.admin, task.id
            );
        }
        println!(
            "  curl -s http://{}/v1/nodes      # the control server",
            fleet.api
        );
        println!(
            "  AWS_DISABLE_HOST_PREFIX_INJECTION=true aws --endpoint-url http://{} servicediscovery list-services",
            fleet.api
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sites_share_no_address() {
        let ranges = |site: Site| (0..=4).map(move |n| (site.number(n), site.vip_net(n)));
        let all: std::collections::BTreeSet<_> = (0..5).map(Site).flat_map(ranges).collect();
        assert_eq!(all.len(), 25);
        assert!(
            all.iter()
                .all(|(number, vip)| *number < 255 && vip[1] < 255)
        );
    }

    #[test]
    fn a_site_in_use_is_passed_over() {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let _held = std::net::TcpListener::bind((Ipv4Addr::new(127, 203, 0, 1), port)).unwrap();
        assert_eq!(Site::free(port), Some(Site(1)));
    }
}
