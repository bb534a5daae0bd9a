//! `outrigger-bench load`: one run from the command line, with progress, a table for people and JSON for programs.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{Arrivals, Load, Plan, Record, Wire};
use crate::compare::seconds;

const PERCENTILES: [f64; 9] = [0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0];

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where connections go
    address: SocketAddr,
    /// Host header; the address when absent
    #[arg(long)]
    host: Option<String>,
    /// Path and query
    #[arg(long, default_value = "/")]
    path: String,
    /// Method
    #[arg(long, default_value = "GET")]
    method: http::Method,
    /// Bytes of body with every request
    #[arg(long, default_value_t = 0)]
    body: usize,
    /// What is spoken
    #[arg(long, value_enum, default_value_t = Wire::Http1)]
    wire: Wire,
    /// Requests per second, sent when they are due (open loop); absent: as fast as answers come (closed loop)
    #[arg(long)]
    rate: Option<u32>,
    /// How the requests of a rate are spread over time
    #[arg(long, value_enum, default_value_t = Arrivals::Uniform)]
    arrivals: Arrivals,
    /// Seeds random arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Connections held open
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Streams per HTTP/2 connection
    #[arg(long, default_value_t = 16)]
    streams: usize,
    /// Messages on a stream of the wire bidi
    #[arg(long, default_value_t = 8)]
    messages: u32,
    /// Seconds between two of them
    #[arg(long, default_value = "0.05", value_parser = seconds)]
    gap: Duration,
    /// Send `x-request-id: PREFIX-NUMBER`, as origins with a ledger write down
    #[arg(long, value_name = "PREFIX")]
    ids: Option<String>,
    /// Seconds of load before that are not counted
    #[arg(long, default_value = "0", value_parser = seconds)]
    warm_up: Duration,
    /// Stop after so many requests, the warm-up's too
    #[arg(long)]
    requests: Option<u64>,
    /// Stop after so many seconds
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs, prints, and fails when a request did.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let plan = Plan {
        path: options.path.clone(),
        method: match options.wire {
            Wire::Grpc | Wire::Bidi => http::Method::POST,
            _ => options.method.clone(),
        },
        body: Bytes::from(vec![b'0'; options.body]),
        wire: options.wire,
        rate: options.rate,
        arrivals: options.arrivals,
        seed: options.seed,
        connections: options.connections,
        streams: options.streams,
        messages: options.messages,
        gap: options.gap,
        ids: options.ids.clone(),
        requests: options.requests,
        duration: options
            .requests
            .is_none()
            .then(|| options.warm_up + options.seconds),
        ..Plan::new(
            options.address,
            options
                .host
                .clone()
                .unwrap_or_else(|| options.address.to_string()),
        )
    };
    let progress = progress(&options);
    let load = Load::start(plan);
    if !options.warm_up.is_zero() {
        progress.set_message("warm-up");
        tokio::time::sleep(options.warm_up).await;
        load.take();
    }
    let began = Instant::now();
    let tell = |sent| {
        progress.set_message(format!("{sent} requests"));
        progress.set_position(options.requests.map_or(began.elapsed().as_secs(), |_| sent));
    };
    let record = load.watched(tell).await;
    let elapsed = began.elapsed();
    progress.finish_and_clear();
    if options.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&report(&record, elapsed))?
        );
    } else {
        print(&record, elapsed);
    }
    Ok(match record.failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn progress(options: &Options) -> ProgressBar {
    let length = options.requests.unwrap_or(options.seconds.as_secs());
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}");
    let bar = ProgressBar::new(length);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn report(record: &Record, elapsed: Duration) -> serde_json::Value {
    let percentiles = |histogram: &hdrhistogram::Histogram<u64>| {
        let all = PERCENTILES
            .map(|percentile| json!([percentile, histogram.value_at_quantile(percentile / 100.0)]));
        json!(all)
    };
    let tasks = record.by_task.iter();
    json!({
        "seconds": elapsed.as_secs_f64(),
        "requests": record.sent,
        "failed": record.failed,
        "requests_per_second": record.sent as f64 / elapsed.as_secs_f64(),
        "body_bytes": record.bytes,
        "latency_us": percentiles(&record.latency),
        "mean_us": record.latency.mean(),
        "generator_late_us": percentiles(&record.late),
        "tasks": tasks.map(|(name, seen)| (name.clone(), json!(seen.answers))).collect::<serde_json::Map<_, _>>(),
        "reasons": record.reasons,
    })
}

fn print(record: &Record, elapsed: Duration) {
    let rate = record.sent as f64 / elapsed.as_secs_f64();
    println!(
        "requests {}  failed {}  per second {rate:.0}  bytes {}",
        record.sent, record.failed, record.bytes
    );
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    let mut header = vec!["µs".to_owned()];
    header.extend(PERCENTILES.map(|percentile| match percentile {
        0.0 => "min".to_owned(),
        100.0 => "max".to_owned(),
        _ => format!("p{percentile}"),
    }));
    table.set_header(header);
    let histograms = [
        ("from the intended send time", &record.latency),
        ("of it, the generator's own lateness", &record.late),
    ];
    for (name, histogram) in histograms {
        if !histogram.is_empty() {
            let mut row = vec![name.to_owned()];
            row.extend(
                PERCENTILES
                    .map(|percentile| histogram.value_at_quantile(percentile / 100.0).to_string()),
            );
            table.add_row(row);
        }
    }
    println!("{table}");
    for (task, seen) in &record.by_task {
        println!("task {task}: {}", seen.answers);
    }
    for (reason, count) in &record.reasons {
        println!("failed: {reason}: {count}");
    }
}
