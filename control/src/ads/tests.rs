use outrigger_xds::resource::ResourceType;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::store::Store;

fn nodes(directory: &tempfile::TempDir, max_streams: usize) -> Nodes {
    let (store, loaded) = Store::open(directory.path(), &mut StdRng::seed_from_u64(1)).unwrap();
    let (writer, _thread) = Writer::start(store, loaded.registry, |_| {}).unwrap();
    Nodes::with_max_streams(Arc::default(), writer, Instant::now(), max_streams)
}

fn node(id: &str, secret: &str) -> NodeInfo {
    NodeInfo {
        id: id.to_owned(),
        namespace: "shop".to_owned(),
        secret: secret.to_owned(),
        ..NodeInfo::default()
    }
}

#[tokio::test]
async fn the_same_secret_takes_over_and_the_old_stream_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = nodes(&directory, 10);
    let old = nodes.connected(&node("task", "s")).unwrap();
    let closed = nodes.closed(old);
    let new = nodes.connected(&node("task", "s")).unwrap();
    closed.await;
    nodes.disconnected(old);
    assert!(
        nodes.reports()[0].connected,
        "the node belongs to its new stream"
    );
    nodes.disconnected(new);
    assert!(!nodes.reports()[0].connected);
}

#[tokio::test]
async fn another_secret_is_refused_while_the_first_is_connected() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = nodes(&directory, 10);
    let first = nodes.connected(&node("task", "s")).unwrap();
    let refused = nodes.connected(&node("task", "t")).unwrap_err();
    assert!(refused.contains("\"task\""), "{refused}");
    nodes.disconnected(first);
    nodes.connected(&node("task", "t")).unwrap();
}

#[tokio::test]
async fn streams_and_rejections_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = nodes(&directory, 1);
    let stream = nodes.connected(&node("task", "s")).unwrap();
    assert!(
        nodes
            .connected(&node("more", "s"))
            .unwrap_err()
            .contains("1 streams")
    );
    for number in 0..=MAX_NACKS {
        for _twice in 0..2 {
            nodes.rejected(
                stream,
                Rejection {
                    type_url: ResourceType::Listener.type_url().to_owned(),
                    name: format!("l{number}"),
                    field: "address".to_owned(),
                    reason: "in use".to_owned(),
                },
            );
        }
    }
    let reports = nodes.reports();
    assert_eq!(reports[0].nacks.len(), MAX_NACKS);
    assert_eq!(reports[0].nacks[0].resource, "l1");
    assert_eq!(reports[0].nacks[0].reason, "address: in use");
}

#[tokio::test]
async fn a_stream_that_ends_is_no_longer_waited_for_and_counts_as_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = nodes(&directory, 10);
    let (one, two) = (
        nodes.connected(&node("one", "")).unwrap(),
        nodes.connected(&node("two", "")).unwrap(),
    );
    let awaited = [one, two].map(|stream| Awaited {
        stream,
        node: String::new(),
        sequence: 3,
    });
    let mut done = [false; 2];
    let waiting = nodes.all_acknowledged(&awaited, &mut done);
    let events = async {
        nodes.acknowledged(one, 2);
        nodes.acknowledged(one, 3);
        nodes.disconnected(two);
    };
    tokio::join!(waiting, events);
    assert_eq!(done, [true, false]);
}
