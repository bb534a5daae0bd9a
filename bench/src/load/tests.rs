//! The generator and the origin against each other.

use super::*;
use crate::ledger;
use crate::origin::{self, Origin};
use tokio::net::TcpListener;

async fn origin(name: &str, greeting: Option<&str>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let origin = Origin {
        name: name.to_owned(),
        greeting: greeting.map(str::to_owned),
        ..Origin::default()
    };
    tokio::spawn(origin::serve(listener, origin, std::future::pending()));
    address
}

fn plan(address: SocketAddr) -> Plan {
    Plan {
        connections: 4,
        requests: Some(100),
        ..Plan::new(address, "orders")
    }
}

#[tokio::test]
async fn every_request_is_answered_and_counted_by_task_over_both_protocols() {
    for wire in [Wire::Http1, Wire::Http2] {
        let address = origin("orders-1", None).await;
        let plan = Plan {
            wire,
            streams: 3,
            path: "/?bytes=1000".to_owned(),
            ..plan(address)
        };
        let record = Load::start(plan).finished().await;
        assert_eq!(
            (record.sent, record.failed),
            (100, 0),
            "{wire:?}: {:?}",
            record.reasons
        );
        assert_eq!(record.by_task["orders-1"].answers, 100);
        assert_eq!(record.bytes, 100_000);
        assert_eq!(record.latency.len(), 100);
    }
}

#[tokio::test]
async fn a_scripted_status_is_a_failure_that_names_the_task() {
    let address = origin("orders-1", None).await;
    let record = Load::start(Plan {
        path: "/status/503".to_owned(),
        ..plan(address)
    })
    .finished()
    .await;
    assert_eq!(record.failed, 100);
    assert_eq!(record.reasons["status 503 from orders-1"], 100);
    assert_eq!(record.failures.len(), 100);
}

#[tokio::test]
async fn resets_truncations_and_timeouts_are_failures_over_both_protocols() {
    for wire in [Wire::Http1, Wire::Http2] {
        for path in ["/reset", "/truncate?bytes=100000", "/delay?ms=60000"] {
            let address = origin("orders-1", None).await;
            let timeout = Duration::from_millis(200);
            let plan = Plan {
                wire,
                path: path.to_owned(),
                requests: Some(4),
                timeout,
                ..plan(address)
            };
            let record = Load::start(plan).finished().await;
            assert_eq!((record.sent, record.failed), (4, 4), "{wire:?} {path}");
        }
    }
}

#[tokio::test]
async fn a_refused_connection_is_a_failure_with_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let record = Load::start(Plan {
        requests: Some(3),
        ..plan(address)
    })
    .finished()
    .await;
    assert_eq!(record.failed, 3);
    assert!(
        record
            .reasons
            .keys()
            .all(|reason| reason.contains(&address.to_string())),
        "{:?}",
        record.reasons
    );
}

#[tokio::test]
async fn an_upload_comes_back_whole_over_http_and_tcp() {
    let body = Bytes::from(vec![7; 200_000]);
    for wire in [Wire::Http1, Wire::Http2, Wire::Tcp] {
        let address = match wire {
            Wire::Tcp => origin("echo", Some("")).await,
            _ => origin("echo", None).await,
        };
        let method = http::Method::POST;
        let plan = Plan {
            wire,
            method,
            path: "/echo".to_owned(),
            body: body.clone(),
            requests: Some(5),
            ..plan(address)
        };
        let record = Load::start(plan).finished().await;
        assert_eq!(
            (record.sent, record.failed),
            (5, 0),
            "{wire:?}: {:?}",
            record.reasons
        );
        assert_eq!(record.bytes, 1_000_000);
    }
}

#[tokio::test]
async fn the_open_loop_keeps_its_rate_and_measures_waiting_from_the_intended_time() {
    let address = origin("slow", None).await;
    let slow = Plan {
        connections: 1,
        rate: Some(100),
        requests: Some(10),
        path: "/delay?ms=50".to_owned(),
        ..plan(address)
    };
    let record = Load::start(slow).finished().await;
    assert_eq!(record.failed, 0);
    // The tenth should have left at 90 ms and was answered after ten answers of 50 ms.
    assert!(record.latency.max() >= 400_000, "{}", record.latency.max());
}

#[tokio::test]
async fn lateness_of_the_generator_is_told_in_the_open_loop_and_is_part_of_the_latency() {
    let address = origin("orders-1", None).await;
    let closed = Load::start(plan(address)).finished().await;
    assert_eq!(closed.late.len(), 0);
    let open = Load::start(Plan {
        rate: Some(500),
        arrivals: Arrivals::Poisson,
        requests: Some(50),
        ..plan(address)
    });
    let record = open.finished().await;
    assert_eq!(
        (record.sent, record.failed),
        (50, 0),
        "{:?}",
        record.reasons
    );
    assert!(!record.late.is_empty());
    // Two digits of the one histogram against three of the other.
    assert!(record.late.max() as f64 <= record.latency.max() as f64 * 1.01 + 1.0);
}

#[tokio::test]
async fn what_comes_before_the_record_is_taken_is_not_in_the_next_one() {
    let address = origin("orders-1", None).await;
    let load = Load::start(Plan {
        requests: Some(300),
        ..plan(address)
    });
    while load.sent() < 10 {
        tokio::task::yield_now().await;
    }
    let warm_up = load.take();
    let measured = load.finished().await;
    assert!(warm_up.sent >= 10);
    assert_eq!(warm_up.sent + measured.sent, 300);
}

#[tokio::test]
async fn idle_connections_are_held_after_one_request_each() {
    let address = origin("orders-1", None).await;
    assert!(hold_idle(&plan(address), 50).await.is_ok());
    let refusing = Plan {
        path: "/status/503".to_owned(),
        ..plan(address)
    };
    let reason = hold_idle(&refusing, 2).await.unwrap_err();
    assert!(reason.contains("503"), "{reason}");
}

#[tokio::test]
async fn stopping_waits_for_the_answers_under_way() {
    let address = origin("slow", None).await;
    let load = Load::start(Plan {
        requests: None,
        path: "/delay?ms=100".to_owned(),
        ..plan(address)
    });
    tokio::task::yield_now().await;
    let record = load.stop().await;
    assert_eq!((record.sent, record.failed), (4, 0), "{:?}", record.reasons);
}

#[test]
fn merging_adds_counts_and_keeps_the_earliest_answer() {
    let start = Instant::now();
    let answer = || record::Answer {
        task: Some(http::HeaderValue::from_static("a")),
        status: http::StatusCode::OK,
        bytes: 1,
    };
    let (mut one, mut two) = (Record::default(), Record::default());
    one.note(start, start + Duration::from_millis(9), Ok(answer()));
    two.note(start, start + Duration::from_millis(3), Ok(answer()));
    two.note(start, start, Err("gone".to_owned()));
    one.merge(&two);
    assert_eq!((one.sent, one.failed, one.bytes), (3, 1, 2));
    assert_eq!(one.by_task["a"].first, start + Duration::from_millis(3));
    assert_eq!(one.latency_ms(1.0).round(), 9.0);
}

/// An origin that treats everybody in this manner, and its ledger.
async fn noting(manner: origin::Manner) -> (SocketAddr, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ledger = ledger::Ledger::open(&folder.path().join("ledger"), "orders-1").unwrap();
    let origin = Origin {
        ledger: Some(Arc::new(ledger)),
        manner,
        ..Origin::default()
    };
    tokio::spawn(origin::serve(listener, origin, std::future::pending()));
    (address, folder)
}

async fn audited(plan: Plan, folder: &tempfile::TempDir) -> ledger::Audit {
    let record = Load::start(plan).finished().await;
    let entries = ledger::Entries::read(&folder.path().join("ledger")).unwrap();
    ledger::Audit::of(&record, &entries, "a")
}

#[tokio::test]
async fn every_request_with_an_id_is_written_down_once_over_every_protocol() {
    for wire in [Wire::Http1, Wire::Http2, Wire::Bidi] {
        let (address, folder) = noting(origin::Manner::Well).await;
        let plan = Plan {
            wire,
            method: http::Method::POST,
            path: "/echo.Echo/Bidi".to_owned(),
            body: Bytes::from_static(b"order"),
            streams: 2,
            messages: 3,
            gap: Duration::from_millis(1),
            ids: Some("a".to_owned()),
            ..plan(address)
        };
        let audit = audited(plan, &folder).await;
        let expected = ledger::Audit {
            sent: 100,
            answered: 100,
            deliveries: 100,
            ..ledger::Audit::default()
        };
        assert_eq!(audit, expected, "{wire:?}");
    }
}

#[tokio::test]
async fn what_an_origin_acts_upon_and_does_not_answer_is_in_the_ledger() {
    for wire in [Wire::Http1, Wire::Http2, Wire::Bidi] {
        for (manner, status) in [
            (origin::Manner::Break, 0),
            (origin::Manner::Unavailable, 503),
        ] {
            let (address, folder) = noting(manner).await;
            let plan = Plan {
                wire,
                ids: Some("a".to_owned()),
                requests: Some(5),
                ..plan(address)
            };
            let audit = audited(plan, &folder).await;
            assert_eq!(
                (audit.failed, audit.unknown),
                (5, 5),
                "{wire:?} {manner:?}: {audit:?}"
            );
            assert_eq!(audit.statuses[&status], 5, "{wire:?} {manner:?}: {audit:?}");
        }
    }
}

#[tokio::test]
async fn mute_and_resetting_origins_act_upon_nothing() {
    for manner in [origin::Manner::Mute, origin::Manner::Reset] {
        let (address, folder) = noting(manner).await;
        let plan = Plan {
            ids: Some("a".to_owned()),
            requests: Some(4),
            timeout: Duration::from_millis(50),
            ..plan(address)
        };
        let audit = audited(plan, &folder).await;
        assert_eq!((audit.failed, audit.unknown, audit.deliveries), (4, 0, 0));
    }
}
