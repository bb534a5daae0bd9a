//! The Cloud Map API as real clients see it: boto3 and the aws CLI against a real process.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const PACKAGES: [&str; 4] = [
    "boto3==1.44.5",
    "botocore==1.44.5",
    "s3transfer==0.19.3",
    "awscli==1.46.3",
];

/// `outrigger-control serve` on free ports; killed when dropped.
struct Server {
    child: Child,
    api: String,
}

impl Server {
    fn start(data: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_outrigger-control"))
            .args(["serve", "--api", "127.0.0.1:0", "--xds", "127.0.0.1:0"])
            .arg("--data")
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the control server starts");
        let stdout = child.stdout.take().expect("standard output is a pipe");
        let mut lines = BufReader::new(stdout).lines();
        let api = lines
            .find_map(|line| {
                let line = line.expect("standard output is text");
                line.strip_prefix("api listening on ").map(str::to_owned)
            })
            .expect("the server says where its API is");
        Self { child, api }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL, so that whatever was answered must be on disk already.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// A virtual environment in `target/` with the pinned packages; the test fails where it cannot be made.
fn environment() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let environment = target.join("boto3-venv");
    let stamp = environment.join("installed");
    let wanted = PACKAGES.join("\n");
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(wanted.as_str()) {
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&environment));
        run(Command::new(environment.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--no-input"])
            .args(PACKAGES));
        std::fs::write(&stamp, wanted).expect("the environment can be written");
    }
    environment
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program is installed");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{out}\n{err}",
        output.status
    );
    out.into_owned()
}

#[test]
fn boto3_and_the_aws_cli_use_every_operation_and_a_restart_loses_nothing() {
    let environment = environment();
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let (data, state) = (
        directory.path().join("data"),
        directory.path().join("state.json"),
    );
    for phase in ["before", "after"] {
        let server = Server::start(&data);
        let mut python = Command::new(environment.join("bin/python"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boto3_lifecycle.py");
        let out = run(python.arg(script).args([&server.api, phase]).arg(&state));
        assert_eq!(out.trim(), "ok");
        let aws = |arguments: &[&str]| {
            run(Command::new(environment.join("bin/aws"))
                .args(["--endpoint-url", &server.api, "servicediscovery"])
                .args(arguments)
                .envs([
                    ("AWS_ACCESS_KEY_ID", "any"),
                    ("AWS_SECRET_ACCESS_KEY", "any"),
                    ("AWS_DEFAULT_REGION", "us-east-1"),
                    ("AWS_DEFAULT_OUTPUT", "json"),
                    ("AWS_DISABLE_HOST_PREFIX_INJECTION", "true"),
                ]))
        };
        assert!(aws(&["list-namespaces"]).contains("\"shop\""));
        let found = aws(&[
            "discover-instances",
            "--namespace-name",
            "shop",
            "--service-name",
            "orders",
        ]);
        assert!(found.contains("\"10.0.0.4\""), "{found}");
    }
}
