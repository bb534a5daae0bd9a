//! Who is let through, by tables, and that no spelling of a path gets out of a prefix.

use outrigger_xds::identity;
use proptest::prelude::*;

use super::*;

fn id(text: &str) -> SpiffeId {
    let (namespace, service) = text.split_once('/').expect("namespace/service");
    SpiffeId::service("td", namespace, service).expect("it is an id")
}

fn rule(from: &[&str], methods: &[&str], paths: &[&str]) -> identity::Rule {
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    identity::Rule {
        from: from.iter().map(|one| one.parse().unwrap()).collect(),
        methods: texts(methods),
        paths: texts(paths),
    }
}

fn allowed(allow: &[identity::Rule]) -> Allowed {
    Allowed::new(&Authorization {
        allow: allow.to_vec(),
        ..Authorization::default()
    })
}

/// `GET path` by `caller` to `shop/orders`.
fn get(allowed: &Allowed, caller: &str, path: &str) -> Verdict {
    let (caller, own) = (id(caller), id("shop/orders"));
    let met = Met {
        caller: &caller,
        own: Some(&own),
    };
    allowed.request(Some(met), &Method::GET, path.as_bytes())
}

const NO_RULE: Verdict = Verdict::Refused(Reason::NoRule);

#[test]
fn the_first_rule_with_the_caller_the_method_and_the_path_allows() {
    let rules = allowed(&[
        rule(&["cart"], &["GET", "PURGE"], &["/v1", "/shop.Orders/"]),
        rule(&["cart", "ops/*"], &[], &["/health"]),
        rule(&["spiffe://else/a"], &[], &[]),
        rule(&["*"], &["HEAD"], &[]),
    ]);
    let own = id("shop/orders");
    let (cart, ops, else_a) = (
        id("shop/cart"),
        id("ops/probe"),
        "spiffe://else/a".parse().unwrap(),
    );
    for (caller, method, path, place) in [
        (&cart, "GET", "/v1", Some(0)),
        (&cart, "GET", "/v1/orders", Some(0)),
        (&cart, "PURGE", "/shop.Orders/Get", Some(0)),
        (&cart, "GET", "/v10", None),
        (&cart, "GET", "/shop.Orders", None),
        (&cart, "GET", "/V1", None),
        (&cart, "get", "/v1", None),
        (&cart, "POST", "/v1", None),
        (&cart, "POST", "/health", Some(1)),
        (&ops, "GET", "/health/live", Some(1)),
        (&ops, "GET", "/v1", None),
        (&ops, "HEAD", "/v1", Some(3)),
        (&else_a, "DELETE", "/../x", Some(2)),
        (&id("shop/else"), "GET", "/v1", None),
        (&id("shop/else"), "HEAD", "*", Some(3)),
    ] {
        let met = Met {
            caller,
            own: Some(&own),
        };
        let method: Method = method.parse().unwrap();
        let expected = place.map_or(NO_RULE, |place| Verdict::Allowed(Some(place)));
        let verdict = rules.request(Some(met), &method, path.as_bytes());
        assert_eq!(verdict, expected, "{caller} {method} {path}");
    }
}

#[test]
fn nobody_is_somebody_only_where_everybody_is_let_in() {
    let rules = [rule(&["*"], &[], &[])];
    let of = |default, dry_run| {
        let allow = rules.to_vec();
        Allowed::new(&Authorization {
            default,
            dry_run,
            allow,
        })
    };
    for (default, dry_run, verdict) in [
        (Access::Deny, false, Verdict::Refused(Reason::NoIdentity)),
        (
            Access::Deny,
            true,
            Verdict::WouldBeRefused(Reason::NoIdentity),
        ),
        (Access::Allow, false, Verdict::Allowed(None)),
    ] {
        let rules = of(default, dry_run);
        assert_eq!(rules.request(None, &Method::GET, b"/"), verdict);
        assert_eq!(rules.connection(None), verdict);
    }
}

#[test]
fn a_dry_run_refuses_nothing_and_says_what_it_would() {
    let rules = Allowed::new(&Authorization {
        dry_run: true,
        allow: vec![rule(&["cart"], &[], &[])],
        ..Authorization::default()
    });
    assert_eq!(get(&rules, "shop/cart", "/"), Verdict::Allowed(Some(0)));
    let would = Verdict::WouldBeRefused(Reason::NoRule);
    assert_eq!(get(&rules, "shop/stock", "/"), would);
}

#[test]
fn an_empty_list_lets_nobody_in() {
    assert_eq!(get(&allowed(&[]), "shop/cart", "/"), NO_RULE);
}

#[test]
fn who_does_not_know_himself_knows_others_by_their_whole_ids_alone() {
    let cart = id("shop/cart");
    let met = Met {
        caller: &cart,
        own: None,
    };
    for (from, verdict) in [
        ("*", NO_RULE),
        ("shop/cart", NO_RULE),
        ("spiffe://td/ns/shop/svc/cart", Verdict::Allowed(Some(0))),
    ] {
        let rules = allowed(&[rule(&[from], &[], &[])]);
        let verdicts = [
            rules.request(Some(met), &Method::GET, b"/"),
            rules.connection(Some(met)),
        ];
        assert_eq!(verdicts, [verdict; 2], "{from}");
    }
}

#[test]
fn who_may_ask_for_nothing_is_no_sidecar_of_ours() {
    let rules = allowed(&[rule(&["cart"], &["GET"], &["/public"])]);
    let own = id("shop/orders");
    let met = |caller| Met {
        caller,
        own: Some(&own),
    };
    let (cart, evil) = (id("shop/cart"), id("shop/evil"));
    assert!(rules.lists(Some(met(&cart))));
    assert!(!rules.lists(Some(met(&evil))));
    assert!(!rules.lists(None));
}

#[test]
fn opaque_bytes_have_neither_method_nor_path() {
    let (cart, own) = (id("shop/cart"), id("shop/orders"));
    let met = Met {
        caller: &cart,
        own: Some(&own),
    };
    for (rule, verdict) in [
        (rule(&["cart"], &[], &[]), Verdict::Allowed(Some(0))),
        (rule(&["stock"], &[], &[]), NO_RULE),
        (rule(&["cart"], &["GET"], &[]), NO_RULE),
        (rule(&["cart"], &["no method"], &[]), NO_RULE),
        (rule(&["cart"], &[], &["/"]), NO_RULE),
    ] {
        let rules = allowed(std::slice::from_ref(&rule));
        assert_eq!(rules.connection(Some(met)), verdict, "{rule:?}");
    }
}

#[test]
fn what_is_not_a_path_is_under_none() {
    let rules = allowed(&[rule(&["cart"], &[], &["/"])]);
    for path in ["*", "", "a", "http://orders/a"] {
        assert_eq!(get(&rules, "shop/cart", path), NO_RULE, "{path}");
    }
}

#[test]
fn a_path_that_may_be_read_in_two_ways_is_under_none() {
    let rules = allowed(&[rule(&["cart"], &[], &["/public"])]);
    for path in [
        "/public/../admin",
        "/public/..",
        "/public/.",
        "/public/./a",
        "/public/%2e%2e/admin",
        "/public/.%2E/admin",
        "/public/%2e/a",
        "/public/a%2ehtml",
        "/public//admin",
        "/public/%2fadmin",
        "/public/..%2Fadmin",
        "/public\\..\\admin",
        "/public/\\admin",
        "/public/..%5cadmin",
        "/public/..;/admin",
        "/public/..;x=1/admin",
        "/public/..%3B/admin",
        "/public/%252e%252e/admin",
        "/public/..%25252fadmin",
        "/public/%%32e/admin",
        "/public/100%25",
        "/public/%",
        "/public/%2",
        "/public/%+1",
        "/public;/../admin",
        "/publicity",
        "/public%2f",
        "/public/%c0%ae%c0%ae/admin",
        "/public/%e0%80%ae/admin",
        "/public/%f0%80%80%ae/admin",
        "/public/.%00./admin",
        "/public/\u{e9}",
        "/public/\t",
        "//public",
        "/./public",
    ] {
        assert_eq!(get(&rules, "shop/cart", path), NO_RULE, "{path}");
    }
    for path in [
        "/public",
        "/public/",
        "/public/a.html",
        "/public/...",
        "/public/.well-known/a",
        "/public/a..b;c=d",
        "/public/%61%20%C3%A9",
        "/public/%e0%a4%85%f0%9f%98%80",
    ] {
        let place = Verdict::Allowed(Some(0));
        assert_eq!(get(&rules, "shop/cart", path), place, "{path}");
    }
}

/// The path that the most obliging application would see: decoded until nothing is left to decode, backslashes as slashes, without
/// what follows a semicolon, without empty segments, and with its dots resolved.
fn seen(path: &str) -> String {
    let mut path = path.to_owned();
    loop {
        let decoded = decode(&path);
        if decoded == path {
            break;
        }
        path = decoded;
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    format!("/{}", segments.join("/"))
}

fn decode(text: &str) -> String {
    let mut decoded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let code = rest.get(at + 1..at + 3);
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        decoded.push_str(&rest[..at]);
        match byte {
            Some(byte) => {
                decoded.push(byte.into());
                rest = &rest[at + 3..];
            }
            None => {
                decoded.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    decoded + rest
}

#[test]
fn the_obliging_application_sees_through_everything() {
    for path in ["/a/..%252f;x\\b", "/a;/%2E%2e//./b", "/a/%2e%2e%5Cb"] {
        assert_eq!(seen(path), "/b", "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn no_spelling_gets_out_of_a_prefix(
        start in prop::sample::select(vec!["/public", "/public/", "/public/a"]),
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "/", "//", "\\", ".", "..", "%", "25", "%25", "2e", "%2e", "%2E", "2f", "%2f", "%2F", "5c", "%5c", "%5C",
                ";", "%3b", "3B", "x=1", "a", "admin", "%61", "%32", "/..", "/..;", "/%252e.", "/%%32e.", "?", "%00", "é",
            ]),
            0..12,
        ),
    ) {
        let path = format!("{start}{}", pieces.concat());
        let path = path.split('?').next().unwrap_or_default();
        for prefix in ["/public", "/public/"] {
            let rules = allowed(&[rule(&["cart"], &[], &[prefix])]);
            if get(&rules, "shop/cart", path) != NO_RULE {
                let seen = seen(path);
                prop_assert!(seen == "/public" || seen.starts_with("/public/"), "{path} is {seen}");
            }
        }
    }
}
