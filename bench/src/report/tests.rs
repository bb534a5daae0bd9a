use super::*;
use crate::compare::results::{Cell, Figure, Machine, Peer, Reading, Round, Subject, Verdict};

fn round(user: f64, p50: f64) -> Round {
    Round {
        cpu_user: user,
        cpu_system: user * 3.0,
        throughput: 21_000.0,
        p50,
        p99: p50 * 2.0,
        p999: p50 * 4.0,
        ..Round::default()
    }
}

fn subject(peer: &str, hops: u8, rounds: Vec<Round>) -> Subject {
    let latency = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0];
    Subject {
        peer: peer.to_owned(),
        hops,
        latency: latency
            .map(|at| (at, 60.0 + at * f64::from(hops + 1)))
            .into(),
        rounds,
        configuration: vec![(format!("{peer}.conf"), "bind <all> & \"any\"".to_owned())],
        ..Subject::default()
    }
}

fn verdict(against: &str, ratio: f64, reading: Reading) -> Verdict {
    Verdict {
        metric: "cpu".to_owned(),
        against: against.to_owned(),
        ratio,
        low: ratio - 0.02,
        high: ratio + 0.02,
        pairs: 15,
        target: 0.95,
        reading,
    }
}

/// Three peers, one of them missing; a cell of figures, one of memory, one of nothing.
fn results() -> Results {
    let direct = subject(
        "direct",
        0,
        vec![
            Round {
                cpu_user: 0.0,
                cpu_system: 0.0,
                ..round(0.0, 50.0)
            };
            3
        ],
    );
    let memory = |peer: &str, mib| Subject {
        rounds: vec![Round {
            memory: Some(mib),
            ..Round::default()
        }],
        ..subject(peer, 1, Vec::new())
    };
    Results {
        command: "outrigger-bench compare --cells 'a<b'".to_owned(),
        began: "2026-01-02T03:04:05Z".to_owned(),
        machine: Machine {
            cpus: 2,
            model: "A & B".to_owned(),
            ..Machine::default()
        },
        peers: vec![
            Peer {
                name: "outrigger".to_owned(),
                version: Some("0.1.0".to_owned()),
                missing: None,
            },
            Peer {
                name: "nginx".to_owned(),
                version: Some("1.22".to_owned()),
                missing: None,
            },
            Peer {
                name: "envoy".to_owned(),
                version: None,
                missing: Some("pip: no <network>".to_owned()),
            },
        ],
        cells: vec![
            Cell {
                name: "h1".to_owned(),
                title: "HTTP/1.1 <script>alert(1)</script> | 64".to_owned(),
                per: "100k requests".to_owned(),
                subjects: vec![
                    direct,
                    subject(
                        "outrigger",
                        1,
                        vec![round(0.25, 110.0), round(0.35, 130.0), round(0.3, 120.0)],
                    ),
                    subject("nginx", 1, vec![round(0.4, 140.0); 3]),
                ],
                verdicts: vec![
                    verdict("nginx", 0.75, Reading::Tied),
                    verdict("best (nginx)", 0.75, Reading::Better),
                ],
                notes: vec!["envoy: pip <failed>".to_owned()],
                ..Cell::default()
            },
            Cell {
                name: "rss".to_owned(),
                per: "MiB".to_owned(),
                subjects: vec![memory("outrigger", 8.5), memory("nginx", 18.0)],
                ..Cell::default()
            },
            Cell {
                name: "empty".to_owned(),
                notes: vec!["interrupted".to_owned()],
                ..Cell::default()
            },
        ],
    }
}

/// Every element is closed by its own name, in order; nothing but markup holds `<`.
fn assert_well_formed(page: &str) {
    const VOID: [&str; 1] = ["meta"];
    let body = page
        .strip_prefix("<!DOCTYPE html>")
        .expect("a page begins with its type");
    let mut open = Vec::new();
    for tag in body.split('<').skip(1) {
        let (inside, text) = tag.split_once('>').expect("a tag ends");
        assert!(
            !text.contains('>') || open.last() == Some(&"style"),
            "a bare > in {text:?}"
        );
        let name = inside
            .trim_start_matches('/')
            .split([' ', '/'])
            .next()
            .unwrap_or_default();
        if inside.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "closing {inside:?}");
        } else if !inside.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

#[test]
fn the_page_is_well_formed_and_needs_nothing_else() {
    let page = page::render(&results());
    assert_well_formed(&page);
    for elsewhere in ["<script", "<link", "@import", "url(", "src="] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    let svg = "http://www.w3.org/2000/svg";
    assert_eq!(page.matches("http").count(), page.matches(svg).count());
}

#[test]
fn the_page_shows_figures_verdicts_missing_peers_and_configurations() {
    let page = page::render(&results());
    for shown in [
        "1.20 (0.30 + 0.90)",
        "missing: pip: no &lt;network&gt;",
        "bind &lt;all&gt; &amp; &quot;any&quot;",
        "best (nginx)",
        "reading better",
        "18.0 MiB",
        "interrupted",
        "No figures.",
        "A &amp; B",
    ] {
        assert!(page.contains(shown), "{shown}");
    }
    assert_eq!(page.matches("<svg").count(), 4);
    assert!(
        !page.contains("NaN") && !page.contains("inf"),
        "a figure is not a number"
    );
}

#[test]
fn nothing_measured_is_still_a_page() {
    assert_well_formed(&page::render(&Results::default()));
    let broken = Results {
        cells: vec![Cell {
            subjects: vec![
                subject("outrigger", 1, vec![Round::default()]),
                Subject {
                    figures: vec![Figure {
                        name: "rss".to_owned(),
                        value: 0.0,
                        unit: "MiB".to_owned(),
                    }],
                    latency: vec![(50.0, 0.0), (100.0, f64::NAN)],
                    ..subject("nginx", 2, Vec::new())
                },
            ],
            verdicts: vec![verdict("nginx", f64::INFINITY, Reading::Tied)],
            ..Cell::default()
        }],
        ..Results::default()
    };
    let page = page::render(&broken);
    assert_well_formed(&page);
    assert!(!page.contains("NaN") && !page.contains("inf"));
    markdown::render(&broken);
}

#[test]
fn the_markdown_table_has_a_column_for_each_peer_measured_and_names_the_missing() {
    let text = markdown::render(&results());
    let lines: Vec<_> = text.lines().collect();
    let columns = |line: &str| line.replace("\\|", "").matches('|').count();
    assert!(lines[0].starts_with("| cell | per | outrigger | nginx | ours ÷ theirs"));
    for line in &lines[1..4] {
        assert_eq!(columns(line), columns(lines[0]), "{line}");
    }
    assert!(lines[2].contains("| 1.20 (0.30 + 0.90) | 1.60 (0.40 + 1.20) | 0.75 [0.73–0.77] best (nginx) | ≤ 0.95 | better | 70 / 140 | 90 / 180 nginx |"));
    assert!(lines[2].contains("&lt;script&gt;") && lines[2].contains("\\| 64"));
    assert!(lines[3].contains("| 8.50 | 18.0 |"));
    assert!(text.contains("envoy is missing: pip: no &lt;network&gt;"));
}

#[test]
fn what_was_not_asked_for_is_refused_before_anything_is_read() {
    let options = Options {
        results: "nowhere.json".into(),
        html: None,
        markdown: false,
    };
    assert!(run(&options).unwrap_err().to_string().contains("--html"));
}
