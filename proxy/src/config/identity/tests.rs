use clap::Parser as _;

use super::*;
use crate::config::{Args, Config, Mode};

const FINGERPRINT: &str = "ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01";
const DOCUMENT: &str =
    r#"{"serviceName":"orders","serviceConnectConfiguration":{"enabled":true,"namespace":"shop"}}"#;
const BASE: [&str; 7] = [
    "outrigger-proxy",
    "--xds",
    "https://control:2",
    "--control",
    "https://control:1",
    "--service-connect",
    DOCUMENT,
];

fn parsed(more: &[&str]) -> Args {
    Args::try_parse_from(BASE.iter().chain(more)).expect("the flags exist")
}

fn config(more: &[&str]) -> Result<Config, crate::config::ConfigErrors> {
    Config::from_args(parsed(more))
}

fn identity(more: &[&str]) -> crate::config::MeshIdentity {
    match config(more).expect("valid").mode {
        Mode::Mesh(mesh) => mesh.identity.expect("it has a source"),
        Mode::Static(_) => panic!("a mesh"),
    }
}

/// The one error, as field and text.
fn error(more: &[&str]) -> (String, String) {
    let mut errors = config(more).expect_err("refused").0;
    assert_eq!(errors.len(), 1, "{errors:?}");
    let error = errors.remove(0);
    (error.field.clone(), error.to_string())
}

#[test]
fn a_join_token_is_given_itself_or_as_a_file_and_brings_the_fingerprint() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token").display().to_string();
    let token = format!("{JOIN_TOKEN}{FINGERPRINT}.s3cret");
    std::fs::write(&file, format!("{token}\n")).expect("writes");
    for given in [&token, &file] {
        let identity = identity(&["--join-token", given]);
        let Source::Enrol(enrolment) = &identity.config.source else {
            panic!("it enrols")
        };
        let (proof, pin) = enrolment.read().expect("it is a token");
        assert_eq!(proof, Proof::JoinToken(token.clone()));
        assert_eq!(pin.fingerprints(), [FINGERPRINT]);
        assert_eq!(
            identity.service.as_str(),
            "spiffe://outrigger.internal/ns/shop/svc/orders"
        );
    }
}

#[test]
fn a_token_is_shown_nowhere() {
    let token = format!("{JOIN_TOKEN}{FINGERPRINT}.s3cret");
    let shown = format!("{:?}", parsed(&["--join-token", &token]));
    assert!(!shown.contains("s3cret"), "{shown}");
    let shown = format!("{:?}", config(&["--join-token", &token]).expect("valid"));
    assert!(!shown.contains("s3cret"), "{shown}");
    for wrong in [
        format!("{JOIN_TOKEN}s3cret"),
        format!("{JOIN_TOKEN}00.s3cret"),
        "ojt2.s3cret".to_owned(),
    ] {
        let (field, text) = error(&["--join-token", &wrong]);
        assert_eq!(field, "--join-token");
        assert!(
            !text.contains("s3cret") && text.contains("join token"),
            "{text}"
        );
    }
}

#[test]
fn a_service_token_needs_to_know_whom_it_is_sent_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token").display().to_string();
    std::fs::write(&file, "s3cret\n").expect("writes");
    for flag in ["--service-token-file", "--identity-document"] {
        assert!(error(&[flag, &file]).1.contains("--control-ca"));
        let with = |ca| [flag, &file, "--control-ca", ca];
        let identity = identity(&with(FINGERPRINT));
        let Source::Enrol(enrolment) = &identity.config.source else {
            panic!("it enrols")
        };
        assert!(enrolment.read().is_ok());
        assert_eq!(error(&with("/nowhere.pem")).0, "--control-ca");
    }
    let made = format!("{SERVICE_TOKEN}{FINGERPRINT}.s3cret");
    std::fs::write(&file, &made).expect("writes");
    let Source::Enrol(enrolment) = identity(&["--service-token-file", &file]).config.source else {
        panic!("it enrols")
    };
    let (proof, pin) = enrolment.read().expect("the token has the fingerprint");
    assert_eq!(proof, Proof::ServiceToken(made));
    assert_eq!(pin.fingerprints(), [FINGERPRINT]);
    let missing = [
        "--service-token-file",
        "/nowhere",
        "--control-ca",
        FINGERPRINT,
    ];
    let (field, text) = error(&missing);
    assert!(
        field == "--service-token-file" && text.contains("/nowhere"),
        "{text}"
    );
    // What was used may be gone where a certificate is kept.
    let state = folder.path().join("state");
    std::fs::create_dir(&state).expect("creates");
    std::fs::write(state.join(KEPT), "").expect("writes");
    let state = state.display().to_string();
    assert!(config(&[&missing[..], &["--state", &state]].concat()).is_ok());
}

#[test]
fn nothing_is_sent_unencrypted_and_nobody_is_believed_without_a_source() {
    let token = format!("{JOIN_TOKEN}{FINGERPRINT}.s3cret");
    let plain = [
        "--control",
        "http://10.0.0.1:1,https://b:1",
        "--join-token",
        &token,
    ];
    let replaced = |more: &[&str]| {
        let flags = [
            "outrigger-proxy",
            "--xds",
            "https://control:2",
            "--service-connect",
            DOCUMENT,
        ];
        Config::from_args(Args::try_parse_from(flags.iter().chain(more)).expect("flags")).map(drop)
    };
    let text = replaced(&plain).expect_err("refused").to_string();
    assert!(
        text.starts_with("--control = \"http://10.0.0.1:1\": must be https")
            && text.contains("unencrypted"),
        "{text}"
    );
    let errors = config(&[]).expect_err("no source").0;
    let fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(fields, ["--control", "--xds"]);
    assert!(errors[0].reason.contains("--join-token"), "{}", errors[0]);
}

#[test]
fn files_are_named_one_by_one_or_found_in_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().display().to_string();
    let found = |more: &[&str]| match identity(more).config.source {
        Source::Files(files) => files,
        Source::Enrol(_) => panic!("files"),
    };
    assert!(found(&["--tls-dir", &dir]).key.ends_with("tls.key"));
    for name in ["svid.pem", "svid_key.pem", "bundle.pem"] {
        std::fs::write(folder.path().join(name), "").expect("writes");
    }
    let spire = found(&["--tls-dir", &dir]);
    assert_eq!(spire.ca, folder.path().join("bundle.pem"));
    let one_by_one = ["--tls-cert", "a", "--tls-key", "b", "--tls-ca", "c"];
    assert_eq!(found(&one_by_one).ca, Path::new("c"));
    assert_eq!(error(&["--tls-cert", "a", "--tls-key", "b"]).0, "--tls-ca");
    let two = [&one_by_one[..], &["--tls-dir", &dir]].concat();
    assert!(error(&two).1.contains("beside --tls-dir"));
}

#[test]
fn a_service_that_is_to_speak_tls_needs_an_identity_and_an_identity_a_name() {
    let mode = |mode: &str, name: &str| {
        format!(
            r#"{{{name}"portMappings":[{{"name":"web","containerPort":8080}}],"serviceConnectConfiguration":
            {{"enabled":true,"namespace":"shop","services":[{{"portName":"web","policy":{{"tls":"{mode}"}}}}]}}}}"#
        )
    };
    let check = |scheme: &str, document: &str, more: &[&str]| {
        let url = format!("{scheme}://control:1");
        let flags = [
            "outrigger-proxy",
            "--address",
            "127.0.0.1",
            "--xds",
            &url,
            "--control",
            &url,
        ];
        let document = ["--service-connect", document];
        let flags = flags.iter().chain(&document).chain(more);
        Config::from_args(Args::try_parse_from(flags).expect("flags")).map(drop)
    };
    for wanted in ["permissive", "strict"] {
        let text = check("http", &mode(wanted, ""), &[])
            .expect_err("refused")
            .to_string();
        let field = format!("serviceConnectConfiguration.services[0].policy.tls = \"{wanted}\"");
        assert!(
            text.starts_with(&field) && text.contains("--join-token"),
            "{text}"
        );
    }
    assert_eq!(check("http", &mode("disable", ""), &[]), Ok(()));
    let token = format!("{JOIN_TOKEN}{FINGERPRINT}.s3cret");
    let with = ["--join-token", token.as_str()];
    let text = check("https", &mode("strict", ""), &with)
        .expect_err("nameless")
        .to_string();
    assert!(text.starts_with("serviceName"), "{text}");
    let text = check("https", &mode("strict", r#""serviceName":"a b","#), &with);
    assert!(
        text.expect_err("no SPIFFE id")
            .to_string()
            .starts_with("serviceName")
    );
    assert_eq!(
        check("https", &mode("strict", r#""serviceName":"a","#), &with),
        Ok(())
    );
}

#[test]
fn a_join_token_in_the_file_of_a_service_token_is_recognised_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("ojt1.{}.s3cret", "5a".repeat(32))).unwrap();
    for pin in [None, Some("5a".repeat(32).parse().unwrap())] {
        let read = Enrolment::ServiceToken(file.clone(), pin).read();
        let said = read.err().unwrap_or_default();
        assert!(
            said.contains("--join-token") && !said.contains("s3cret"),
            "{said}"
        );
    }
}
