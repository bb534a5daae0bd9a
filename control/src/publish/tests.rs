use std::sync::atomic::{AtomicUsize, Ordering};

use outrigger_xds::Resource;
use outrigger_xds::model::EndpointSet;

use super::*;

fn endpoints(name: &str) -> Resource {
    Resource::Endpoints(EndpointSet {
        cluster: name.to_owned(),
        endpoints: Vec::new(),
    })
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn changes_that_come_together_are_published_once_and_what_is_equal_not_again() {
    let publisher = Publisher::default();
    let (size, translated) = (AtomicUsize::new(1), AtomicUsize::new(0));
    let run = publisher.run(|_| {
        translated.fetch_add(1, Ordering::Relaxed);
        (0..size.load(Ordering::Relaxed))
            .map(|number| endpoints(&format!("e{number}")))
            .collect()
    });
    let test = async {
        let mut watched = publisher.watch("shop");
        assert!(
            watched.borrow().is_none(),
            "nothing is answered before it is loaded"
        );
        publisher.changed(names(&["shop", "nobody-asked"]));
        publisher.changed(names(&["shop"]));
        publisher.flushed().await;
        assert_eq!(translated.load(Ordering::Relaxed), 1);
        let first = watched
            .borrow_and_update()
            .clone()
            .expect("it is published");
        assert_eq!((first.sequence, first.set.len()), (1, 1));

        publisher.changed(names(&["shop"]));
        publisher.flushed().await;
        assert!(
            !watched.has_changed().expect("the publisher lives"),
            "it is the same"
        );

        size.store(2, Ordering::Relaxed);
        publisher.changed(names(&["shop"]));
        publisher.flushed().await;
        let second = watched
            .borrow_and_update()
            .clone()
            .expect("it is published");
        assert_eq!((second.sequence, second.set.len()), (2, 2));
        assert_eq!(publisher.sequence("shop"), 2);
    };
    tokio::select! {
        () = run => unreachable!("publishing does not end"),
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn namespaces_are_bounded_and_those_without_resources_and_watchers_make_room() {
    let publisher = Publisher::default();
    let watched: Vec<_> = (0..MAX_NAMESPACES)
        .map(|number| publisher.watch(&format!("n{number}")))
        .collect();
    assert!(
        publisher.watch("more").has_changed().is_err(),
        "it is never published"
    );
    assert_eq!(publisher.lock().namespaces.len(), MAX_NAMESPACES);
    drop(watched);
    assert!(publisher.watch("more").has_changed().is_ok());
    assert_eq!(publisher.lock().namespaces.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn resources_that_do_not_fit_together_leave_the_last_state_in_force() {
    let publisher = Publisher::default();
    let broken = std::sync::atomic::AtomicBool::new(false);
    let run = publisher.run(|_| {
        let twice = if broken.load(Ordering::Relaxed) { 2 } else { 1 };
        (0..twice).map(|_| endpoints("e")).collect()
    });
    let test = async {
        let watched = publisher.watch("shop");
        publisher.flushed().await;
        broken.store(true, Ordering::Relaxed);
        publisher.changed(names(&["shop"]));
        publisher.flushed().await;
        assert_eq!(
            watched
                .borrow()
                .as_ref()
                .map(|published| published.sequence),
            Some(1)
        );
        assert_eq!(
            publisher.sequence("shop"),
            2,
            "nobody can have acknowledged it"
        );
    };
    tokio::select! {
        () = run => unreachable!("publishing does not end"),
        () = test => {}
    }
}
