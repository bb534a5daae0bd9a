//! A sidecar process on a static file, and an application behind it.

use std::any::Any;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// No read waits longer: a test that hangs fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Sidecar {
    process: Child,
    pub(crate) listener: SocketAddr,
    pub(crate) admin: SocketAddr,
    dir: tempfile::TempDir,
    beside: Vec<Box<dyn Any + Send + Sync>>,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.process.kill().expect("the child is ours to kill");
        self.process.wait().expect("a killed child ends");
    }
}

/// A port that was free a moment ago.
pub(crate) fn free(host: [u8; 4]) -> SocketAddr {
    let probe = TcpListener::bind(SocketAddr::from((host, 0))).expect("loopback can be bound");
    probe.local_addr().expect("a bound socket has an address")
}

impl Sidecar {
    pub(crate) fn start(
        listener: SocketAddr,
        listener_fields: &str,
        origin: &str,
        cluster_fields: &str,
    ) -> Self {
        Self::speaking("http", listener, listener_fields, origin, cluster_fields)
    }

    /// One that speaks `protocol` to the application.
    pub(crate) fn speaking(
        protocol: &str,
        listener: SocketAddr,
        listener_fields: &str,
        origin: &str,
        cluster_fields: &str,
    ) -> Self {
        let fields = [listener_fields, cluster_fields];
        Self::launch(listener, ["http", protocol], fields, origin, &[])
    }

    /// `protocol` is spoken on both sides; `fields` are the listener's and the cluster's.
    pub(crate) fn start_with(
        listener: SocketAddr,
        protocol: &str,
        fields: [&str; 2],
        origin: &str,
        arguments: &[&str],
    ) -> Self {
        Self::launch(listener, [protocol, protocol], fields, origin, arguments)
    }

    fn launch(
        listener: SocketAddr,
        [downstream, upstream]: [&str; 2],
        [listener_fields, cluster_fields]: [&str; 2],
        origin: &str,
        arguments: &[&str],
    ) -> Self {
        let text = format!(
            "[[listener]]\nname = \"in\"\ndirection = \"egress\"\naddress = \"{listener}\"\nprotocol = \"{downstream}\"\n\
             cluster = \"app\"\n{listener_fields}\n[[cluster]]\nname = \"app\"\nprotocol = \"{upstream}\"\n\
             endpoints = [{{ address = \"{origin}\" }}]\n{cluster_fields}\n"
        );
        Self::start_on(listener, &text, |command| {
            command.args(arguments);
        })
    }

    /// An ingress that takes hops for the task `instance`.
    pub(crate) fn ingress(host: [u8; 4], instance: &str, origin: SocketAddr) -> Self {
        let table = hop_table(instance);
        Self::start(free(host), &table, &origin.to_string(), "")
    }

    /// An egress that speaks the hop with the tasks at these addresses.
    pub(crate) fn egress(
        host: [u8; 4],
        protocol: &str,
        tasks: &[(SocketAddr, &str)],
        cluster_fields: &str,
    ) -> Self {
        let listener = free(host);
        let endpoint = |(address, instance): &(SocketAddr, &str)| {
            format!("{{ address = \"{address}\", {} }}", hop_table(instance))
        };
        let endpoints: Vec<String> = tasks.iter().map(endpoint).collect();
        let text = format!(
            "[[listener]]\nname = \"out\"\ndirection = \"egress\"\naddress = \"{listener}\"\nprotocol = \"http\"\n\
             cluster = \"orders\"\n[[cluster]]\nname = \"orders\"\nprotocol = \"{protocol}\"\n\
             endpoints = [{}]\n{cluster_fields}\n",
            endpoints.join(", ")
        );
        Self::start_on(listener, &text, |_| ())
    }

    /// One on the text of a static file; `listener` is one of its listeners, `more` adds to the command.
    pub(crate) fn start_on(
        listener: SocketAddr,
        text: &str,
        more: impl FnOnce(&mut Command),
    ) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let file = dir.path().join("static.toml");
        std::fs::write(&file, text).expect("the folder is ours");
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-proxy"));
        command.arg("--static").arg(&file);
        command.args(["--admin", "127.0.0.1:0"]);
        more(&mut command);
        command.stdout(Stdio::piped());
        let mut process = command.spawn().expect("the binary was built");
        let stdout = process.stdout.take().expect("standard output is piped");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("the sidecar says where its admin page is");
        let admin = line
            .trim()
            .rsplit('/')
            .next()
            .and_then(|address| address.parse().ok());
        let admin = admin.expect("the line ends in the address");
        let sidecar = Self {
            process,
            listener,
            admin,
            dir,
            beside: Vec::new(),
        };
        sidecar.until("/ready", |page| page.starts_with("HTTP/1.1 200"));
        sidecar
    }

    /// Gives it another static file, which is in force when `/config` is as wanted.
    pub(crate) fn reload(&self, text: &str, wanted: impl Fn(&str) -> bool) {
        let file = self.dir.path().join("static.toml");
        std::fs::write(file, text).expect("the folder is ours");
        self.signal(rustix::process::Signal::HUP);
        self.until("/config", wanted);
    }

    /// Keeps what lives as long as it does.
    pub(crate) fn beside(mut self, other: impl Any + Send + Sync) -> Self {
        self.beside.push(Box::new(other));
        self
    }

    /// Asks it to end, as an orchestrator does.
    pub(crate) fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Stops it where it stands, until it goes on.
    pub(crate) fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
        let path = format!("/proc/{}/stat", self.process.id());
        let start = Instant::now();
        loop {
            let stat = std::fs::read_to_string(&path).expect("the process lives");
            if stat.contains(") T ") {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "it does not stop: {stat}");
        }
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let process = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(process, signal).expect("the child is ours");
    }

    /// Waits for its end; whether it says that all was well.
    pub(crate) fn ended(mut self) -> bool {
        let status = self.process.wait().expect("a child ends");
        status.success()
    }

    /// Asks for the page until it is as wanted; a test that waits longer than it should fails.
    pub(crate) fn until(&self, path: &str, wanted: impl Fn(&str) -> bool) {
        let start = Instant::now();
        loop {
            let page = self.page(path);
            if wanted(&page) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{path} stays {page}");
        }
    }

    pub(crate) fn page(&self, path: &str) -> String {
        exchange(
            self.admin,
            &format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"),
        )
    }

    /// The value of a metric whose labels contain all of `labels`; 0 while there is none.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let page = self.page("/metrics");
        let wanted = |line: &&str| {
            let labelled = line.strip_prefix(name).unwrap_or_default();
            labelled.starts_with('{') && labels.iter().all(|label| labelled.contains(label))
        };
        let value = |line: &str| line.rsplit(' ').next()?.parse::<u64>().ok();
        page.lines().filter(wanted).filter_map(value).sum()
    }

    /// Waits until the metric is at least `least`.
    pub(crate) fn until_metric(&self, name: &str, labels: &[&str], least: u64) {
        let start = Instant::now();
        while self.metric(name, labels) < least {
            assert!(
                start.elapsed() < PATIENCE,
                "{name}{labels:?} stays below {least}: {}",
                self.page("/metrics")
            );
        }
    }

    /// Resident memory of the process in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).expect("the process lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
        1024 * kib.expect("the kernel says how much is resident")
    }

    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.listener)
    }
}

pub(crate) const REQUEST_TOKEN: &str = "4f1c4f1c4f1c4f1c4f1c4f1c4f1c4f1c";
pub(crate) const VERDICT_TOKEN: &str = "9be09be09be09be09be09be09be09be0";

/// A `hop` of the static file.
pub(crate) fn hop_table(instance: &str) -> String {
    format!(
        "hop = {{ namespace = \"shop\", service = \"orders\", instance = \"{instance}\", \
         request = \"{REQUEST_TOKEN}\", verdict = \"{VERDICT_TOKEN}\" }}"
    )
}

/// What an egress says first on a connection to the task `instance`.
pub(crate) fn hello(instance: &str, token: &str) -> String {
    format!(
        "OPTIONS * HTTP/1.1\r\nHost: hop.outrigger.invalid\r\nConnection: Upgrade\r\nUpgrade: outrigger-hop/1\r\n\
         Outrigger-Target: shop/orders/{instance}\r\nOutrigger-Token: {token}\r\n\r\n"
    )
}

/// What it is answered by whoever is meant.
pub(crate) fn proof(token: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: outrigger-hop/1\r\n\
         Outrigger-Token: {token}\r\n\r\n"
    )
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the listener is bound");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout can be set");
    stream
}

pub(crate) fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address);
    stream
        .write_all(request.as_bytes())
        .expect("the request fits the socket");
    read_all(stream)
}

pub(crate) fn read_all(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("no answer within {PATIENCE:?}: {error}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads one response head.
pub(crate) fn head(stream: &TcpStream) -> String {
    let mut lines = BufReader::new(stream).lines();
    lines.next().and_then(Result::ok).unwrap_or_default()
}

/// An application that answers 200 to every request on every connection.
pub(crate) fn application(host: [u8; 4]) -> SocketAddr {
    let socket = TcpListener::bind(SocketAddr::from((host, 0))).expect("loopback can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            std::thread::spawn(move || {
                let mut lines =
                    BufReader::new(stream.try_clone().expect("a socket can be cloned")).lines();
                let mut stream = stream;
                while let Some(Ok(line)) = lines.next() {
                    if line.is_empty() {
                        let answered =
                            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                        if answered.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

pub(crate) const GET: &str = "GET / HTTP/1.1\r\nhost: app\r\n\r\n";
