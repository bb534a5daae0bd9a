use super::workers::quota_cpus;
use super::*;

fn args(flags: &[&str]) -> Args {
    let flags = std::iter::once("outrigger-proxy").chain(flags.iter().copied());
    <Args as clap::Parser>::try_parse_from(flags).expect("the flags exist")
}

fn fields_of(flags: &[&str]) -> Vec<String> {
    let errors = Config::from_args(args(flags)).expect_err("the flags are wrong");
    errors.0.into_iter().map(|error| error.field).collect()
}

#[test]
fn a_client_needs_only_xds_and_namespace() {
    let config = Config::from_args(args(&[
        "--xds",
        "http://a:1,http://b:2",
        "--namespace",
        "prod",
    ]))
    .expect("valid");
    let Mode::Mesh(mesh) = &config.mode else {
        panic!("a mesh")
    };
    assert_eq!(mesh.xds.len(), 2);
    assert_eq!(mesh.namespace, "prod");
    assert_eq!(mesh.app_address, IpAddr::V4(Ipv4Addr::LOCALHOST));
    assert!(!mesh.task_id.is_empty());
    assert_eq!(config.admin.to_string(), "127.0.0.1:9901");
    assert_eq!(config.vip_cidr.to_string(), "127.255.0.0/16");
    assert_eq!(config.drain_timeout, Duration::from_secs(20));
    assert!((1..=4).contains(&config.workers));
}

#[test]
fn all_errors_are_reported_at_once() {
    let flags = [
        "--control",
        "https://x",
        "--admin",
        "0.0.0.0:1",
        "--workers",
        "0",
        "--egress",
        "capture",
        "--vip-cidr",
        "10.0.0.0/16",
        "--address",
        "nowhere",
        "--metrics",
        "9",
        "--drain-timeout",
        "20",
        "--task-id",
        "a b",
    ];
    let mut found = fields_of(&flags);
    found.sort();
    let expected = [
        "--address",
        "--admin",
        "--control",
        "--drain-timeout",
        "--egress",
        "--metrics",
        "--namespace",
        "--task-id",
        "--vip-cidr",
        "--workers",
        "--xds",
    ];
    assert_eq!(found, expected);
}

#[test]
fn an_error_shows_field_value_and_reason() {
    let errors = Config::from_args(args(&["--static", "x.toml", "--workers", "many"]))
        .expect_err("not a number");
    assert_eq!(
        errors.to_string(),
        "--workers = \"many\": must be a number from 1 to 256"
    );
}

#[test]
fn a_declaring_sidecar_needs_control_and_address() {
    let json = r#"{"portMappings":[{"name":"web","containerPort":8080}],"serviceConnectConfiguration":
        {"enabled":true,"namespace":"prod","services":[{"portName":"web"}]}}"#;
    assert_eq!(
        fields_of(&["--xds", "http://a:1", "--service-connect", json]),
        ["--control", "--address"]
    );
}

#[test]
fn namespace_of_flag_and_document_must_agree() {
    let json = r#"{"serviceConnectConfiguration":{"enabled":true,"namespace":"prod"}}"#;
    let flags = ["--xds", "http://a:1", "--service-connect", json];
    let config = Config::from_args(args(&flags)).expect("the document names it");
    assert!(matches!(config.mode, Mode::Mesh(mesh) if mesh.namespace == "prod"));
    let more = [&flags[..], &["--namespace", "test"]].concat();
    assert_eq!(fields_of(&more), ["--namespace"]);
}

#[test]
fn random_task_id_is_kept_in_the_state_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("state").display().to_string();
    let flags = [
        "--xds",
        "http://a:1",
        "--namespace",
        "prod",
        "--state",
        &state,
    ];
    let id = || match Config::from_args(args(&flags)).expect("valid").mode {
        Mode::Mesh(mesh) => mesh.task_id,
        Mode::Static(_) => String::new(),
    };
    let first = id();
    assert_eq!(first.len(), 16);
    assert_eq!(first, id());
}

#[test]
fn cgroup_quota_is_rounded_up_and_capped() {
    assert_eq!(quota_cpus("150000 100000"), Some(2));
    assert_eq!(quota_cpus("25000 100000\n"), Some(1));
    assert_eq!(quota_cpus("900000 100000"), Some(4));
    assert_eq!(quota_cpus("max 100000"), None);
    assert_eq!(quota_cpus("-1 100000"), None);
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let config = Config::from_args(args(&[
        "--xds",
        "http://a:1",
        "--namespace",
        "n",
        "--metrics",
        "",
        "--workers",
        "",
    ]));
    assert_eq!(config.expect("valid").metrics, None);
}

#[test]
fn a_hot_restart_needs_a_state_directory_whose_path_a_unix_socket_can_have() {
    let restart = |flags: &[&str]| {
        let all = [&["--static", "x.toml"], flags].concat();
        Config::from_args(args(&all)).map(|config| config.hot_restart)
    };
    assert_eq!(restart(&[]), Ok(None));
    let path = Some(PathBuf::from("/state/restart.sock"));
    assert_eq!(restart(&["--state", "/state"]), Ok(path.clone()));
    let auto = ["--state", "/state", "--hot-restart", "auto"];
    assert_eq!(restart(&auto), Ok(path));
    let off = ["--state", "/state", "--hot-restart", "off"];
    assert_eq!(restart(&off), Ok(None));
    let long = format!("/{}", "x".repeat(120));
    let error = restart(&["--state", &long])
        .expect_err("too long")
        .0
        .remove(0);
    assert_eq!(
        (error.field.as_str(), error.value.as_str()),
        ("--state", long.as_str())
    );
    assert!(error.reason.contains("at most 107"), "{error}");
    assert_eq!(
        restart(&["--state", &long, "--hot-restart", "off"]),
        Ok(None)
    );
    assert_eq!(
        fields_of(&["--static", "x", "--hot-restart", "on"]),
        ["--hot-restart"]
    );
}
