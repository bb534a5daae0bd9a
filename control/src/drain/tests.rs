use std::collections::BTreeSet;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_xds::transport::{NodeEvents, NodeInfo, StreamId};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::publish::from_registry;
use crate::store::Store;

/// A control server without sockets: one service `orders` with the instance `one` on node `one`.
struct World {
    drains: Drains,
    service: String,
}

impl World {
    async fn start() -> Self {
        let (store, loaded) = Store::in_memory(&mut StdRng::seed_from_u64(1)).unwrap();
        let publisher = Arc::<Publisher>::default();
        let told = Arc::clone(&publisher);
        let changed = move |namespaces| told.changed(namespaces);
        let (writer, _) = Writer::start(store, loaded.registry, changed).unwrap();
        let nodes = Nodes::new(Arc::clone(&publisher), writer.clone(), Instant::now());
        let (publishing, read) = (Arc::clone(&publisher), writer.clone());
        tokio::spawn(async move { publishing.run(from_registry(|| read.read(), || None)).await });
        let nodes = Arc::new(nodes);
        let drains = Drains {
            writer,
            publisher,
            nodes,
        };
        let mut world = Self {
            drains,
            service: String::new(),
        };
        let made = world
            .call("CreateHttpNamespace", json!({ "Name": "shop" }))
            .await;
        let namespace = world.operation(&made).await["Targets"]["NAMESPACE"].clone();
        let input = json!({ "Name": "orders", "NamespaceId": namespace });
        let made = world.call("CreateService", input).await;
        world.service = made["Service"]["Id"].as_str().unwrap().to_owned();
        world.register().await;
        world
    }

    async fn call(&self, operation: &str, input: Value) -> Value {
        let mut headers = HeaderMap::new();
        let target = format!("Route53AutoNaming_v20170314.{operation}");
        headers.insert(
            HeaderName::from_static("x-amz-target"),
            HeaderValue::from_str(&target).unwrap(),
        );
        let input = input.to_string();
        let answer = crate::cloudmap::answer(&self.drains, &headers, input.as_bytes()).await;
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await;
        serde_json::from_slice(&body.unwrap()).unwrap()
    }

    async fn operation(&self, answer: &Value) -> Value {
        let input = json!({ "OperationId": answer["OperationId"] });
        self.call("GetOperation", input).await["Operation"].clone()
    }

    async fn register(&self) {
        let attributes = json!({ "AWS_INSTANCE_IPV4": "10.0.0.1", "OUTRIGGER_NODE": "one" });
        let input =
            json!({ "ServiceId": self.service, "InstanceId": "one", "Attributes": attributes });
        self.call("RegisterInstance", input).await;
    }

    async fn deregister(&self) -> Value {
        let input = json!({ "ServiceId": self.service, "InstanceId": "one" });
        self.call("DeregisterInstance", input).await
    }

    /// The first step of a deregistration, whose second the server does not live to see.
    async fn begin(&self) -> Value {
        let service = self.service.clone();
        let begun = self.drains.writer.call(move |registry, context| {
            let begun = registry.begin_deregistration(context, &service, "one");
            begun.map(|(changes, begun)| (changes, begun.operation))
        });
        json!({ "OperationId": begun.await.unwrap() })
    }

    /// `None` when it is not registered.
    async fn state(&self) -> Option<Value> {
        let input = json!({ "ServiceId": self.service, "InstanceId": "one" });
        let answer = self.call("GetInstance", input).await;
        let instance = answer.get("Instance")?;
        Some(instance["Attributes"]["OUTRIGGER_STATE"].clone())
    }

    fn connect(&self, id: &str) -> StreamId {
        let node = NodeInfo {
            id: id.to_owned(),
            namespace: "shop".to_owned(),
            ..NodeInfo::default()
        };
        // A sidecar watches from its first request on.
        drop(self.drains.nodes.namespace("shop"));
        self.drains.nodes.connected(&node).unwrap()
    }

    /// Until the operation is done; the registry's writer is a thread outside of the virtual clock.
    async fn done(&self, answer: &Value) {
        while self.operation(answer).await["Status"] == "PENDING" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_nobody_can_be_calling_is_gone_when_the_call_is_answered() {
    let world = World::start().await;
    let answer = world.deregister().await;
    assert_eq!(world.operation(&answer).await["Status"], "SUCCESS");
    assert_eq!(world.state().await, None);
    let gone = world.deregister().await;
    assert_eq!(gone["__type"], "InstanceNotFound");
    assert_eq!(gone["OperationId"], answer["OperationId"], "{gone}");
}

/// By the real clock: the virtual one runs to the bound while the writer's thread works.
#[tokio::test]
async fn an_instance_drains_until_everybody_has_acknowledged_that_and_the_operation_is_pending() {
    let world = World::start().await;
    let caller = world.connect("caller");
    world.drains.publisher.flushed().await;
    let before = world.drains.publisher.sequence("shop");
    let answer = world.deregister().await;
    assert_eq!(world.operation(&answer).await["Status"], "PENDING");
    assert_eq!(world.state().await, Some(json!("DRAINING")));
    assert_eq!(
        world.deregister().await,
        answer,
        "asked again, it is the same"
    );
    world.drains.publisher.flushed().await;
    let after = world.drains.publisher.sequence("shop");
    assert!(after > before, "DRAINING is published");
    let nodes = &world.drains.nodes;
    nodes.acknowledged(caller, before, &BTreeSet::new());
    assert_eq!(world.state().await, Some(json!("DRAINING")));
    nodes.acknowledged(caller, after, &BTreeSet::new());
    let done = tokio::time::timeout(BOUND / 2, world.done(&answer)).await;
    assert!(done.is_ok(), "it waits for more than the acknowledgement");
    assert_eq!(world.state().await, None);
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_answer_delays_a_deregistration_by_ten_seconds_and_is_named() {
    let world = World::start().await;
    world.connect("mute");
    let prompt = world.connect("prompt");
    world.drains.publisher.flushed().await;
    let nodes = &world.drains.nodes;
    nodes.acknowledged(prompt, u64::MAX, &BTreeSet::new());
    let begun = Instant::now();
    let told = world.drains.drain_node("one".to_owned()).await.unwrap();
    assert_eq!((told.acknowledged, told.connected), (1, 2));
    assert_eq!(told.left_out, ["mute"]);
    assert!(begun.elapsed() >= BOUND && begun.elapsed() < BOUND + Duration::from_secs(1));
    let answer = world.deregister().await;
    assert_eq!(world.operation(&answer).await["Status"], "PENDING");
    world.done(&answer).await;
    assert_eq!(world.state().await, None);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_registered_anew_while_it_leaves_stays() {
    let world = World::start().await;
    let answer = world.begin().await;
    world.register().await;
    world.drains.resume().await;
    assert_eq!(world.operation(&answer).await["Status"], "SUCCESS");
    assert_eq!(world.state().await, Some(Value::Null));
}

#[tokio::test(start_paused = true)]
async fn what_a_server_had_begun_when_it_ended_is_finished_by_the_next() {
    let world = World::start().await;
    let answer = world.begin().await;
    assert_eq!(world.operation(&answer).await["Status"], "PENDING");
    world.drains.resume().await;
    assert_eq!(world.operation(&answer).await["Status"], "SUCCESS");
    assert_eq!(world.state().await, None);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_written_back_as_it_was_shown_keeps_its_tokens() {
    let world = World::start().await;
    let secret = "1 000102030405060708090a0b0c0d0e0f f0e0d0c0b0a090807060504030201000";
    let asked = json!({ "ServiceId": world.service, "InstanceId": "one" });
    let mut input = asked.clone();
    input["Attributes"] = json!({ "AWS_INSTANCE_IPV4": "10.0.0.1", "OUTRIGGER_HOP": secret });
    world.call("RegisterInstance", input.clone()).await;
    let shown = world.call("GetInstance", asked).await["Instance"]["Attributes"].clone();
    assert_eq!(shown["OUTRIGGER_HOP"], "1 c9a66b2b");
    input["Attributes"] = shown;
    let written = world.call("RegisterInstance", input.clone()).await;
    assert!(written["OperationId"].is_string(), "{written}");
    let stored = |instance: &str| {
        let registry = world.drains.writer.read();
        let row = registry.instance(&world.service, instance).unwrap();
        row.hop().map(|tokens| tokens.to_string())
    };
    assert_eq!(stored("one").as_deref(), Some(secret));
    input["InstanceId"] = json!("two");
    world.call("RegisterInstance", input).await;
    assert_eq!(stored("two"), None, "there is nothing to keep");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_not_come_back_to_a_new_server_is_waited_for_and_named() {
    let world = World::start().await;
    let told = world.drains.drain_node("other".to_owned()).await.unwrap();
    assert_eq!(told.connected, 0, "nothing of it is registered");
    let attributes = json!({ "AWS_INSTANCE_IPV4": "10.0.0.2", "OUTRIGGER_NODE": "two" });
    let input =
        json!({ "ServiceId": world.service, "InstanceId": "two", "Attributes": attributes });
    world.call("RegisterInstance", input).await;
    let told = world.drains.drain_node("one".to_owned()).await.unwrap();
    assert_eq!(
        (told.acknowledged, told.left_out),
        (0, vec!["two".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_deregistration_that_is_not_written_is_tried_again() {
    let attempts = std::cell::Cell::new(0);
    until_done(|| {
        attempts.set(attempts.get() + 1);
        let full = Error::Internal("the disk is full".to_owned());
        std::future::ready(if attempts.get() < 4 {
            Err(full)
        } else {
            Ok(())
        })
    })
    .await;
    assert_eq!(attempts.get(), 4);
}
