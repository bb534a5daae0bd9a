//! The families as they are scraped: names, help texts and labels of what is counted.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::*;

/// Name, help text, and which count it is.
type Counter<T> = (&'static str, &'static str, fn(&T) -> &Count);
pub(super) type Labels = [(&'static str, String)];

/// One family being written.
pub(super) struct Family<'a>(MetricEncoder<'a>);

impl<'a> Family<'a> {
    pub(super) fn begin(
        encoder: &'a mut DescriptorEncoder<'_>,
        name: &'a str,
        help: &'a str,
        kind: MetricType,
    ) -> Result<Self, fmt::Error> {
        encoder.encode_descriptor(name, help, None, kind).map(Self)
    }

    pub(super) fn counter(&mut self, labels: &Labels, value: u64) -> fmt::Result {
        self.0
            .encode_family(&labels)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    pub(super) fn gauge(&mut self, labels: &Labels, value: u64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_gauge(&(value as i64))
    }
}

pub(super) fn with(
    labels: &Labels,
    name: &'static str,
    value: &str,
) -> Vec<(&'static str, String)> {
    let mut labels = labels.to_vec();
    labels.push((name, value.to_owned()));
    labels
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_listeners(&mut encoder)?;
        self.encode_clusters(&mut encoder)?;
        self.encode_identity(&mut encoder)
    }
}

impl Metrics {
    fn encode_listeners(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let listeners: Vec<_> = locked(&self.listeners).values().cloned().collect();
        let counters: [Counter<ListenerShard>; 6] = [
            ("RequestCount", "Requests received", |shard| &shard.requests),
            ("GrpcRequestCount", "gRPC requests received", |shard| {
                &shard.grpc_requests
            }),
            ("NewConnectionCount", "Connections accepted", |shard| {
                &shard.connections
            }),
            ("ProcessedBytes", "Body bytes received and sent", |shard| {
                &shard.bytes
            }),
            (
                "outrigger_refused_connections",
                "Connections over a limit",
                |shard| &shard.refused_connections,
            ),
            (
                "ClientTLSNegotiationErrorCount",
                "TLS handshakes of clients that failed",
                |shard| &shard.tls_errors,
            ),
        ];
        for (name, help, of) in counters {
            let mut family = Family::begin(encoder, name, help, MetricType::Counter)?;
            for listener in &listeners {
                family.counter(&listener.labels, listener.sum(of))?;
            }
        }
        self.encode_security(encoder, &listeners)?;
        let help = "Connections open now";
        let mut family = Family::begin(encoder, "ActiveConnectionCount", help, MetricType::Gauge)?;
        for listener in &listeners {
            let closed = listener.sum(|shard| &shard.closed_connections);
            let opened = listener.sum(|shard| &shard.connections);
            family.gauge(&listener.labels, opened.saturating_sub(closed))?;
        }
        let (name, help) = (
            "outrigger_errors",
            "Requests that the sidecar itself answered, by response flag",
        );
        let mut family = Family::begin(encoder, name, help, MetricType::Counter)?;
        for listener in &listeners {
            for kind in Kind::ALL {
                let errors = listener.sum(|shard| &shard.errors[kind as usize]);
                if errors > 0 {
                    let labels = with(&listener.labels, "flag", kind.flag());
                    family.counter(&with(&labels, "kind", &format!("{kind:?}")), errors)?;
                }
            }
        }
        Ok(())
    }

    fn encode_identity(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let requests = self.identity.requests();
        if requests.iter().all(|(_, count)| *count == 0) {
            return Ok(());
        }
        let (name, help) = (
            "outrigger_certificate_requests",
            "Requests for a certificate of this task, by result",
        );
        let mut family = Family::begin(encoder, name, help, MetricType::Counter)?;
        for (result, count) in requests {
            family.counter(&[("result", result.to_owned())], count)?;
        }
        Ok(())
    }

    fn encode_clusters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let clusters: Vec<_> = locked(&self.clusters).values().cloned().collect();
        let counters: [Counter<ClusterShard>; 10] = [
            (
                "HTTPCode_Target_2XX_Count",
                "Responses 2xx of the target",
                |shard| &shard.status[1],
            ),
            (
                "HTTPCode_Target_3XX_Count",
                "Responses 3xx of the target",
                |shard| &shard.status[2],
            ),
            (
                "HTTPCode_Target_4XX_Count",
                "Responses 4xx of the target",
                |shard| &shard.status[3],
            ),
            (
                "HTTPCode_Target_5XX_Count",
                "Responses 5xx of the target",
                |shard| &shard.status[4],
            ),
            (
                "TargetProcessedBytes",
                "Body bytes sent to and received from the target",
                |shard| &shard.bytes,
            ),
            ("outrigger_retries", "Attempts beyond the first", |shard| {
                &shard.retries
            }),
            (
                "outrigger_cross_zone_requests",
                "Requests answered by a target in another zone",
                |shard| &shard.cross_zone_requests,
            ),
            (
                "outrigger_cross_zone_bytes",
                "Body bytes sent to and received from targets in another zone",
                |shard| &shard.cross_zone_bytes,
            ),
            (
                "outrigger_upstream_connections",
                "Connections made to the target",
                |shard| &shard.connects,
            ),
            (
                "TargetTLSNegotiationErrorCount",
                "TLS handshakes with the target that failed",
                |shard| &shard.tls_errors,
            ),
        ];
        for (name, help, of) in counters {
            let mut family = Family::begin(encoder, name, help, MetricType::Counter)?;
            for (cluster, _) in &clusters {
                family.counter(&cluster.labels, cluster.sum(of))?;
            }
        }
        encode_ejections(encoder, &clusters)?;
        let help = "Requests handed to each target";
        let mut family =
            Family::begin(encoder, "RequestCountPerTarget", help, MetricType::Counter)?;
        for (cluster, gauges) in &clusters {
            for (address, requests) in gauges.iter().flat_map(|gauges| gauges.endpoints()) {
                family.counter(&with(&cluster.labels, "Target", &address), requests)?;
            }
        }
        encode_breakers(encoder, &clusters)?;
        encode_response_times(encoder, &clusters)
    }
}

fn encode_breakers(encoder: &mut DescriptorEncoder<'_>, clusters: &[Exposed]) -> fmt::Result {
    let (name, help) = (
        "outrigger_overflow",
        "Refused because a circuit breaker was open, by breaker",
    );
    let mut family = Family::begin(encoder, name, help, MetricType::Counter)?;
    for (cluster, gauges) in clusters {
        for (breaker, refused) in gauges.iter().flat_map(|gauges| gauges.refused()) {
            family.counter(&with(&cluster.labels, "breaker", breaker), refused)?;
        }
    }
    let found = || {
        let found = |(cluster, gauges): &'_ Exposed| {
            Some((cluster.labels.clone(), gauges.as_ref()?.concurrency()?))
        };
        clusters.iter().filter_map(found)
    };
    let (name, help) = (
        "outrigger_concurrency_limit",
        "Requests that adaptive concurrency lets through at once",
    );
    let mut family = Family::begin(encoder, name, help, MetricType::Gauge)?;
    for (labels, (limit, _)) in found() {
        family.gauge(&labels, u64::from(limit))?;
    }
    let (name, help) = (
        "outrigger_min_rtt",
        "Least latency that adaptive concurrency found",
    );
    let unit = Unit::Seconds;
    let mut family = encoder.encode_descriptor(name, help, Some(&unit), MetricType::Gauge)?;
    for (labels, (_, min_rtt)) in found() {
        if let Some(min_rtt) = min_rtt {
            let labels: &Labels = &labels;
            family
                .encode_family(&labels)?
                .encode_gauge(&min_rtt.as_secs_f64())?;
        }
    }
    Ok(())
}

fn encode_ejections(encoder: &mut DescriptorEncoder<'_>, clusters: &[Exposed]) -> fmt::Result {
    let watched = || {
        let watched = |(cluster, gauges): &Exposed| Some((Arc::clone(cluster), gauges.clone()?));
        clusters.iter().filter_map(watched)
    };
    let (name, help) = (
        "outrigger_ejections",
        "Endpoints ejected by outlier detection, by rule",
    );
    let mut family = Family::begin(encoder, name, help, MetricType::Counter)?;
    for (cluster, gauges) in watched() {
        for (rule, count) in gauges.ejections() {
            family.counter(&with(&cluster.labels, "rule", rule), count)?;
        }
    }
    let (name, help) = (
        "outrigger_ejections_prevented",
        "Ejections not made: as many endpoints were out as may be",
    );
    let mut family = Family::begin(encoder, name, help, MetricType::Counter)?;
    for (cluster, gauges) in watched() {
        family.counter(&cluster.labels, gauges.ejections_prevented())?;
    }
    let (name, help) = ("outrigger_ejected_endpoints", "Endpoints ejected now");
    let mut family = Family::begin(encoder, name, help, MetricType::Gauge)?;
    for (cluster, gauges) in watched() {
        family.gauge(&cluster.labels, gauges.ejected_now())?;
    }
    Ok(())
}

fn encode_response_times(encoder: &mut DescriptorEncoder<'_>, clusters: &[Exposed]) -> fmt::Result {
    let help = "From the request's arrival to the last byte of the response";
    let unit = Unit::Seconds;
    let mut family = encoder.encode_descriptor(
        "TargetResponseTime",
        help,
        Some(&unit),
        MetricType::Histogram,
    )?;
    for (cluster, _) in clusters {
        let bound = |index: usize| {
            BOUNDS_US
                .get(index)
                .map_or(f64::INFINITY, |us| *us as f64 / 1e6)
        };
        let buckets: Vec<(f64, u64)> = (0..=BOUNDS_US.len())
            .map(|index| {
                (
                    bound(index),
                    cluster.sum(|shard| &shard.response_time.buckets[index]),
                )
            })
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = cluster.sum(|shard| &shard.response_time.sum_us) as f64 / 1e6;
        let labels: &Labels = &cluster.labels;
        family
            .encode_family(&labels)?
            .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
    }
    Ok(())
}
