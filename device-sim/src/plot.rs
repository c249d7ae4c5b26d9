//! Distributions of latencies as a picture: for each kind of operation, which
//! share of them took at most how long.
//!
//! Drawn at the end of a run, from what a [`Histogram`](crate::histogram::Histogram)
//! has counted. The picture is SVG with text as text, so no fonts are needed to
//! make it.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use plotters::prelude::*;

use crate::histogram::Cumulative;

/// Width and height of a picture, in pixels.
const SIZE: (u32, u32) = (960, 540);
/// Space around the chart, where the chart begins, and the height of a row of the
/// legend, in pixels.
const MARGIN: i32 = 16;
const LEFT: i32 = 80;
const LEGEND_ROW: i32 = 22;
/// The shortest latency that a logarithmic axis shows, in milliseconds: what a
/// histogram can tell from nothing.
const SHORTEST_MS: f64 = 0.001;
/// Colours that people with any colour vision can tell apart (Okabe and Ito);
/// used again from the first on when there are more curves.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// There is nothing to draw.
    #[error("no latency was measured, so there is nothing to plot")]
    NothingMeasured,
    /// The plotting library gave up.
    #[error("the plot cannot be drawn: {0}")]
    Draw(String),
    /// The file cannot be written.
    #[error("the plot cannot be written to {}", path.display())]
    Write {
        /// Where it was to be written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Writes `latencies`, each with its name, to an SVG file;
/// an existing one is replaced.
///
/// # Errors
/// When nothing was measured, or the file cannot be written.
pub fn write<'a>(
    path: &Path,
    title: &str,
    latencies: impl IntoIterator<Item = (&'a str, &'a Cumulative)>,
) -> Result<(), PlotError> {
    let picture = svg(title, latencies)?;
    std::fs::write(path, picture).map_err(|source| PlotError::Write {
        path: path.to_owned(),
        source,
    })
}

/// The picture as the text of an SVG file.
///
/// # Errors
/// When nothing was measured.
pub fn svg<'a>(
    title: &str,
    latencies: impl IntoIterator<Item = (&'a str, &'a Cumulative)>,
) -> Result<String, PlotError> {
    let curves: Vec<_> = latencies
        .into_iter()
        .filter(|(_, latency)| latency.count() > 0)
        .collect();
    let range = milliseconds(&curves).ok_or(PlotError::NothingMeasured)?;
    let mut picture = String::new();
    draw(&mut picture, title, &curves, range).map_err(|error| PlotError::Draw(error.to_string()))?;
    Ok(picture)
}

/// What the horizontal axis shows: whole powers of ten around all latencies.
fn milliseconds(curves: &[(&str, &Cumulative)]) -> Option<Range<f64>> {
    let points = || curves.iter().flat_map(|(_, latency)| latency.steps());
    let shortest = points().map(|(ms, _)| ms.max(SHORTEST_MS)).reduce(f64::min)?;
    let longest = points().map(|(ms, _)| ms.max(SHORTEST_MS)).reduce(f64::max)?;
    let start = 10_f64.powf(shortest.log10().floor());
    let end = 10_f64.powf(longest.log10().ceil()).max(start * 10.0);
    // A hair wider: the ends are labelled although they are not quite round.
    Some(start * (1.0 - 1e-9)..end * (1.0 + 1e-9))
}

fn draw(
    picture: &mut String,
    title: &str,
    curves: &[(&str, &Cumulative)],
    range: Range<f64>,
) -> Result<(), DrawingAreaErrorKind<io::Error>> {
    let area = SVGBackend::with_string(picture, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    // Below the chart, where it hides no curve.
    let legend_height = LEGEND_ROW * curves.len() as i32 + MARGIN;
    let (area, legend) = area.split_vertically(SIZE.1 as i32 - legend_height);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 22))
        .margin(MARGIN)
        .margin_right(2 * MARGIN)
        .x_label_area_size(48)
        .y_label_area_size(LEFT - MARGIN)
        .build_cartesian_2d(range.clone().log_scale(), 0.0..100.0)?;
    chart
        .configure_mesh()
        .x_desc("took at most (logarithmic)")
        .y_desc("share of the operations")
        .x_label_formatter(&|ms| axis_time(*ms))
        .y_label_formatter(&|percent| format!("{percent:.0} %"))
        .y_labels(11)
        .y_max_light_lines(2)
        .light_line_style(BLACK.mix(0.08))
        .bold_line_style(BLACK.mix(0.2))
        .axis_desc_style(("sans-serif", 16))
        .label_style(("sans-serif", 14))
        .draw()?;
    let colours = COLOURS.iter().cycle();
    for (row, ((name, latency), colour)) in (0..).zip(curves.iter().zip(colours)) {
        let colour = colour.stroke_width(2);
        chart.draw_series(LineSeries::new(steps(latency, range.end), colour))?;
        let label = format!(
            "{name}: {}, p50 {}, p99 {}",
            latency.count(),
            time(latency.quantile_ms(0.5)),
            time(latency.quantile_ms(0.99))
        );
        let top = row * LEGEND_ROW;
        let middle = top + LEGEND_ROW / 2;
        legend.draw(&PathElement::new([(LEFT, middle), (LEFT + 24, middle)], colour))?;
        legend.draw(&Text::new(label, (LEFT + 32, top + 4), ("sans-serif", 14)))?;
    }
    legend.present()?;
    area.present()
}

/// The curve of a distribution: it rises by one step at each latency that was
/// measured and stays at 100 % up to `end`.
fn steps(latency: &Cumulative, end: f64) -> Vec<(f64, f64)> {
    let mut points = Vec::with_capacity(2 * latency.steps().len() + 1);
    let mut before = 0.0;
    for &(ms, up_to) in latency.steps() {
        let ms = ms.max(SHORTEST_MS);
        let percent = 100.0 * up_to as f64 / latency.count() as f64;
        points.extend([(ms, before), (ms, percent)]);
        before = percent;
    }
    points.push((end, before));
    points
}

/// A time with the unit that suits it.
fn time(ms: f64) -> String {
    let (value, unit) = scaled(ms);
    match value {
        value if value >= 100.0 => format!("{value:.0} {unit}"),
        value if value >= 10.0 => format!("{value:.1} {unit}"),
        value => format!("{value:.2} {unit}"),
    }
}

/// The same for the round numbers of an axis.
fn axis_time(ms: f64) -> String {
    let (value, unit) = scaled(ms);
    // Powers of ten in binary are not quite round.
    format!("{} {unit}", (value * 1000.0).round() / 1000.0)
}

fn scaled(ms: f64) -> (f64, &'static str) {
    // A hair below the unit is the unit.
    if ms >= 999.999 {
        (ms / 1000.0, "s")
    } else if ms >= 0.999_999 {
        (ms, "ms")
    } else {
        (ms * 1000.0, "µs")
    }
}

#[cfg(test)]
mod tests;
