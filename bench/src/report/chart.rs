//! The plots, as SVG text that stands inside the page.

use plotters::coord::combinators::{BindKeyPoints, IntoLogRange};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

type Drawing = Result<(), Box<dyn std::error::Error>>;

const FONT: &str = "system-ui, sans-serif";
const INK: RGBColor = RGBColor(0x24, 0x29, 0x2f);
const FAINT: RGBColor = RGBColor(0xd8, 0xde, 0xe4);
/// Told apart by people who do not see all colours (Okabe and Ito).
const PALETTE: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x6b, 0x4c, 0x9a),
];
const DIRECT: RGBColor = RGBColor(0x8a, 0x8f, 0x98);
/// The parts of a bar: user and system.
pub(super) const PARTS: [RGBColor; 2] = [RGBColor(0x00, 0x72, 0xb2), RGBColor(0xa6, 0xcb, 0xe3)];

const WIDTH: u32 = 860;
const BAR: u32 = 34;
/// Percentiles with a line of their own.
const TICKS: [f64; 7] = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999];

/// A colour for each line; the same peer has the same in every plot, as long as it is alone.
pub(super) fn colours(peers: &[&str]) -> Vec<RGBColor> {
    const KNOWN: [&str; 4] = ["outrigger", "envoy", "haproxy", "nginx"];
    let mut taken = Vec::new();
    let mut colours = Vec::new();
    for peer in peers {
        let own = KNOWN.iter().position(|known| peer.starts_with(known));
        let free = || {
            (KNOWN.len()..PALETTE.len())
                .chain(0..PALETTE.len())
                .find(|index| !taken.contains(index))
        };
        let index = own.filter(|index| !taken.contains(index)).or_else(free);
        if *peer == "direct" {
            colours.push(DIRECT);
            continue;
        }
        taken.extend(index);
        colours.push(PALETTE[index.unwrap_or(peers.len() % PALETTE.len())]);
    }
    colours
}

/// As CSS writes it.
pub(super) fn css(colour: RGBColor) -> String {
    format!("#{:02x}{:02x}{:02x}", colour.0, colour.1, colour.2)
}

/// One bar: its name, its parts from left to right, and what is written at its end.
#[derive(Debug)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) parts: Vec<f64>,
    pub(super) text: String,
    /// Drawn in bold.
    pub(super) ours: bool,
}

/// Horizontal bars, one below the other; nothing for no bars.
pub(super) fn bars(alt: &str, unit: &str, bars: &[Bar]) -> Option<String> {
    let longest = bars
        .iter()
        .map(|bar| bar.parts.iter().sum())
        .fold(0.0, f64::max);
    if !longest.is_finite() || longest <= 0.0 {
        return None;
    }
    let height = BAR * bars.len() as u32 + 62;
    draw(alt, height, |area| {
        // Room for the text at the end of the longest bar.
        let mut chart = ChartBuilder::on(area)
            .margin_right(16)
            .margin_top(6)
            .x_label_area_size(48)
            .y_label_area_size(150)
            .build_cartesian_2d(0.0..longest * 1.35, bars.len() as f64..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(FAINT)
            .x_labels(7)
            .x_label_formatter(&|value| short(*value))
            .x_desc(unit)
            .label_style((FONT, 15, &INK))
            .axis_desc_style((FONT, 15, &INK))
            .draw()?;
        for (index, bar) in bars.iter().enumerate() {
            let (top, bottom, middle) =
                (index as f64 + 0.18, index as f64 + 0.82, index as f64 + 0.5);
            let mut from = 0.0;
            for (part, colour) in bar.parts.iter().zip(PARTS) {
                let to = from + part.max(0.0);
                chart
                    .draw_series([Rectangle::new([(from, top), (to, bottom)], colour.filled())])?;
                from = to;
            }
            let style = if bar.ours {
                FontStyle::Bold
            } else {
                FontStyle::Normal
            };
            let font = (FONT, 16, style).into_font().color(&INK);
            let right = font.clone().pos(Pos::new(HPos::Right, VPos::Center));
            let left = font.pos(Pos::new(HPos::Left, VPos::Center));
            chart.draw_series([
                EmptyElement::at((0.0, middle)) + Text::new(bar.label.clone(), (-10, 0), right)
            ])?;
            chart.draw_series([
                EmptyElement::at((from, middle)) + Text::new(bar.text.clone(), (8, 0), left)
            ])?;
        }
        area.present()?;
        Ok(())
    })
}

/// One line: its colour, and (percentile, µs).
pub(super) type Line<'a> = (RGBColor, &'a [(f64, f64)]);

/// Latency over percentiles, both axes logarithmic: each step to the right has ten times fewer requests beyond it.
pub(super) fn percentiles(alt: &str, lines: &[Line<'_>]) -> Option<String> {
    let lines: Vec<(RGBColor, Vec<(f64, f64)>)> = lines
        .iter()
        .map(|(colour, points)| (*colour, points.iter().filter_map(place).collect()))
        .collect();
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    if points().count() < 2 {
        return None;
    }
    let right = points().map(|point| point.0).fold(10.0, f64::max);
    let lowest = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let highest = points().map(|point| point.1).fold(0.0, f64::max);
    let (bottom, top) = (lowest * 0.85, highest * 1.15);
    let ticks: Vec<_> = TICKS
        .into_iter()
        .map(one_in)
        .filter(|at| *at <= right * 1.01)
        .collect();
    draw(alt, 360, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin_right(24)
            .margin_top(10)
            .x_label_area_size(48)
            .y_label_area_size(82)
            .build_cartesian_2d(
                (1.0..right).log_scale().with_key_points(ticks),
                (bottom..top)
                    .log_scale()
                    .with_key_points(decades(bottom, top)),
            )?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(FAINT)
            .x_label_formatter(&|at| percentile(*at))
            .y_label_formatter(&|us| short(*us))
            .x_desc("percentile of requests")
            .y_desc("latency, µs")
            .label_style((FONT, 15, &INK))
            .axis_desc_style((FONT, 15, &INK))
            .draw()?;
        for (colour, points) in &lines {
            chart.draw_series(LineSeries::new(
                points.iter().copied(),
                colour.stroke_width(2),
            ))?;
        }
        area.present()?;
        Ok(())
    })
}

fn draw(
    alt: &str,
    height: u32,
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Drawing,
) -> Option<String> {
    let mut svg = String::new();
    let drawn = draw(&SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area());
    if let Err(error) = drawn {
        tracing::warn!(%error, plot = alt, "a plot is left out");
        return None;
    }
    let described = maud::html! { svg role="img" aria-label=(alt) {} }.into_string();
    let opening = described.trim_end_matches("></svg>");
    Some(svg.replacen("<svg", opening, 1))
}

/// Where a percentile stands: one request in so many is slower, 10 for the 90th. The maximum has no place.
fn one_in(percentile: f64) -> f64 {
    1.0 / (1.0 - percentile / 100.0)
}

fn place((percentile, us): &(f64, f64)) -> Option<(f64, f64)> {
    let at = one_in(*percentile);
    let drawable = (1.0..=1e5).contains(&at) && us.is_finite() && *us > 0.0;
    drawable.then_some((at, *us))
}

fn percentile(at: f64) -> String {
    let distance = |tick: &f64| (one_in(*tick) / at).ln().abs();
    let nearest = TICKS
        .into_iter()
        .min_by(|a, b| distance(a).total_cmp(&distance(b)));
    nearest.map_or(String::new(), |tick| format!("p{tick}"))
}

/// 1, 2 and 5 of every decade in the range.
fn decades(low: f64, high: f64) -> Vec<f64> {
    let exponents = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let all =
        exponents.flat_map(|exponent| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(exponent)));
    all.filter(|tick| (low..=high).contains(tick)).collect()
}

fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1e6 => format!("{} M", trimmed(value / 1e6)),
        size if size >= 1e3 => format!("{} k", trimmed(value / 1e3)),
        _ => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
