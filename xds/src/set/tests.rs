use super::*;
use crate::samples::{self, service, set};

#[test]
fn a_listener_without_its_routes_is_not_published() {
    let mut resources = service("orders", &[1]);
    resources.retain(|resource| resource.resource_type() != ResourceType::Routes);
    let problems = ResourceSet::from_model(resources).expect_err("the routes are missing");
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let expected =
        "Listener \"prod/orders:80\": refers to Routes \"prod/orders:80\", which does not exist";
    assert_eq!(shown, [expected]);
}

#[test]
fn two_resources_of_one_name_are_refused() {
    let mut resources = service("orders", &[1]);
    resources.push(Resource::Cluster(samples::cluster("orders")));
    assert_eq!(
        ResourceSet::from_model(resources)
            .expect_err("there are two")
            .len(),
        1
    );
}

#[test]
fn what_is_unchanged_keeps_its_encoding_and_its_version() {
    let old = set(&[("orders", &[1]), ("stock", &[2])]);
    let model = [service("stock", &[2]), service("orders", &[3])].concat();
    let new = old.rebuilt(model).expect("the sample is consistent");
    let same = |kind, name| match (old.get(kind, name), new.get(kind, name)) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        _ => false,
    };
    assert!(same(ResourceType::Endpoints, "prod/stock"));
    assert!(!same(ResourceType::Endpoints, "prod/orders"));
    let changed = vec![(ResourceType::Endpoints, "prod/orders".to_owned())];
    assert_eq!(
        new.diff(&old),
        Diff {
            changed,
            removed: Vec::new()
        }
    );
}

#[test]
fn the_order_of_endpoints_does_not_change_the_version() {
    let version = |hosts: &[u8]| {
        let set = set(&[("orders", hosts)]);
        set.get(ResourceType::Endpoints, "prod/orders")
            .map(|encoded| encoded.version.clone())
    };
    assert_eq!(version(&[1, 2, 3]), version(&[3, 1, 2]));
    assert_ne!(version(&[1, 2, 3]), version(&[1, 2]));
}

#[test]
fn removals_are_listed_in_reverse() {
    let mut resources = service("orders", &[1]);
    resources.extend([samples::inbound("orders", "cart"), samples::trust("one")]);
    let set = ResourceSet::from_model(resources).expect("the sample is consistent");
    let diff = ResourceSet::default().diff(&set);
    let kinds: Vec<ResourceType> = diff.removed.iter().map(|(kind, _)| *kind).collect();
    let mut reverse = ResourceType::ALL;
    reverse.reverse();
    assert_eq!(kinds, reverse);
}
