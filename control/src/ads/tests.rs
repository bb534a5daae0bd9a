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

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_is_no_longer_waited_for_and_one_whose_stream_breaks_is() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = nodes(&directory, 10);
    let (one, two) = (
        nodes.connected(&node("one", "")).unwrap(),
        nodes.connected(&node("two", "")).unwrap(),
    );
    let changed = BTreeSet::from(["shop/orders".to_owned()]);
    let mut awaited = awaiting(&nodes, &changed, 3);
    nodes.acknowledged(one, 2, &BTreeSet::new());
    nodes.acknowledged(one, 3, &BTreeSet::new());
    nodes.disconnected(two);
    let waiting = nodes.answered(&mut awaited);
    let bounded = tokio::time::timeout(Duration::from_secs(10), waiting);
    assert!(bounded.await.is_err(), "it is on its way back");
    assert!(nodes.callers("shop", None).contains("one"));
    nodes.leaves("two");
    nodes.answered(&mut awaited).await;
    assert!(!nodes.callers("shop", None).contains("two"));
    assert_eq!(knowing(&awaited), ["one"]);
}

#[tokio::test]
async fn a_node_that_connects_again_while_others_are_waited_for_counts_with_its_new_stream() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = nodes(&directory, 10);
    let (one, two) = (
        nodes.connected(&node("one", "")).unwrap(),
        nodes.connected(&node("two", "")).unwrap(),
    );
    let changed = BTreeSet::from(["shop/orders".to_owned()]);
    let mut awaited = awaiting(&nodes, &changed, 3);
    let waiting = nodes.answered(&mut awaited);
    let events = async {
        nodes.disconnected(one);
        let again = nodes.connected(&node("one", "")).unwrap();
        nodes.acknowledged(again, 3, &BTreeSet::new());
        nodes.acknowledged(two, 4, &BTreeSet::new());
    };
    tokio::join!(waiting, events);
    assert_eq!(knowing(&awaited), ["one", "two"]);
}

#[tokio::test]
async fn a_refusal_counts_unless_it_is_of_what_has_changed() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = nodes(&directory, 10);
    let changed = BTreeSet::from(["shop/orders".to_owned()]);
    for (name, refused) in [
        ("other", "shop/stock"),
        ("this", "shop/orders"),
        ("foreign", ""),
    ] {
        let stream = nodes.connected(&node(name, "")).unwrap();
        nodes.acknowledged(stream, 3, &BTreeSet::from([refused.to_owned()]));
    }
    let mut awaited = awaiting(&nodes, &changed, 3);
    nodes.answered(&mut awaited).await;
    assert_eq!(knowing(&awaited), ["other"]);
}

fn awaiting<'a>(nodes: &Nodes, changed: &'a BTreeSet<String>, sequence: u64) -> Vec<Awaited<'a>> {
    let awaited = nodes.awaited("shop", changed, Some("itself"));
    let later = awaited.into_iter().map(|awaited| Awaited {
        sequence,
        ..awaited
    });
    later.collect()
}

fn knowing<'a>(awaited: &'a [Awaited<'_>]) -> Vec<&'a str> {
    let knowing = awaited.iter().filter(|awaited| awaited.knows);
    knowing.map(|awaited| awaited.node.as_str()).collect()
}
