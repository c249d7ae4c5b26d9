//! The report as a page: tables with the goals beside the figures, and a picture
//! of the cost of an operation against the size of the fleet.

use std::fmt::Write as _;

use plotters::prelude::*;

use super::measure::{
    BROKER_CALL, CONNECT, Column, FLOOR, INGEST_1, INGEST_20, METHOD_JOB, METHODS, Report, TWIN_JOB,
    TWIN_PATCH, TWIN_READ, machine,
};

/// What is compared between the smallest fleet and the largest.
const GROWING: [&str; 7] = [
    METHOD_JOB, TWIN_JOB, METHODS, TWIN_READ, TWIN_PATCH, INGEST_1, INGEST_20,
];

/// Width and height of the picture, in pixels.
const SIZE: (u32, u32) = (960, 640);
/// Colours that people with any colour vision can tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// What the picture shows of TCP.
const DRAWN: [&str; 7] = [
    METHOD_JOB,
    TWIN_JOB,
    METHODS,
    INGEST_1,
    INGEST_20,
    FLOOR,
    BROKER_CALL,
];

/// The page.
pub(crate) fn markdown(report: &Report) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = write_page(&mut page, report);
    page
}

fn write_page(page: &mut String, report: &Report) -> std::fmt::Result {
    let machine = machine();
    writeln!(page, "# Scale report\n")?;
    writeln!(
        page,
        "{} cores ({}), Linux {}. Processor time is that of the server's process alone, over TCP on loopback; the median of five \
         rounds after a first one. `cargo bench -p benches --bench report` makes this page.\n",
        machine["cores"],
        machine["model"].as_str().unwrap_or_default(),
        machine["kernel"].as_str().unwrap_or_default(),
    )?;
    for column in &report.over_tcp {
        writeln!(page, "## {} devices over TCP\n", column.devices)?;
        write_costs(page, column, "µs CPU each")?;
        writeln!(
            page,
            "\nThe hub's memory: {:.2} KiB for each idle device, {:.1} MiB with every device registered, with its twin, and \
             connected. All connected at once; the longest time in which none got through: {:.0} ms.\n",
            column.idle_kib,
            column.connected_mib,
            column.stall * 1e3
        )?;
    }
    for column in &report.in_memory {
        writeln!(
            page,
            "## {} devices over memory, in the hub's process\n",
            column.devices
        )?;
        write_costs(page, column, "µs CPU each, both ends")?;
        writeln!(page)?;
    }
    write_program(page, report)?;
    write_goals(page, report)
}

fn write_costs(page: &mut String, column: &Column, cpu: &str) -> std::fmt::Result {
    let floor = column.cost(FLOOR).map(|cost| cost.cpu);
    let (head, rule) = match floor {
        Some(_) => (" × floor |", "---:|"),
        None => ("", ""),
    };
    writeln!(page, "| operation | a round, s | a second | {cpu} |{head}")?;
    writeln!(page, "|---|---:|---:|---:|{rule}")?;
    for (name, cost) in &column.costs {
        write!(
            page,
            "| {name} | {:.3} | {:.0} | {:.2} |",
            cost.seconds, cost.rate, cost.cpu
        )?;
        match floor {
            Some(floor) => writeln!(page, " {:.2} |", cost.cpu / floor)?,
            None => writeln!(page)?,
        }
    }
    Ok(())
}

fn write_program(page: &mut String, report: &Report) -> std::fmt::Result {
    let tls = &report.tls;
    let connect = tls.cost(CONNECT).unwrap_or_default();
    writeln!(
        page,
        "## TLS 1.3 with P-256\n\n{} devices connect at once: {:.0} a second, {:.0} µs of the hub's processor time each; the \
         longest time in which none got through: {:.0} ms; {:.2} KiB for each idle device.\n",
        tls.devices,
        connect.rate,
        connect.cpu,
        tls.stall * 1e3,
        tls.idle_kib
    )?;
    writeln!(page, "The program is ready after {:.1} ms.\n", report.start * 1e3)
}

/// A goal: what, how much of it is asked for, what was found.
struct Goal {
    what: String,
    goal: String,
    found: String,
    is_met: bool,
}

fn at_most(what: &str, most: f64, found: f64, unit: &str) -> Goal {
    Goal {
        what: what.into(),
        goal: format!("≤ {most}{unit}"),
        found: format!("{found:.2}{unit}"),
        is_met: found <= most,
    }
}

fn at_least(what: &str, least: f64, found: f64) -> Goal {
    Goal {
        what: what.into(),
        goal: format!("≥ {least}/s"),
        found: format!("{found:.0}/s"),
        is_met: found >= least,
    }
}

fn goals(report: &Report) -> Vec<Goal> {
    let Some(largest) = report.over_tcp.last() else {
        return Vec::new();
    };
    let cost = |name| largest.cost(name).unwrap_or_default();
    let floor = cost(FLOOR).cpu;
    let over_floor = |name| cost(name).cpu / floor;
    let tls = report.tls.cost(CONNECT).unwrap_or_default();
    let mut goals = vec![
        at_most("method job, wall", 0.2, cost(METHOD_JOB).seconds, " s"),
        at_most(
            "method job, processor time",
            1.2,
            over_floor(METHOD_JOB),
            " × floor",
        ),
        at_most("twin job, wall", 0.15, cost(TWIN_JOB).seconds, " s"),
        at_most("twin job, processor time", 1.1, over_floor(TWIN_JOB), " × floor"),
        at_most(
            "REST method call, processor time",
            1.8,
            over_floor(METHODS),
            " × floor",
        ),
        at_least("REST method call", 40_000.0, cost(METHODS).rate),
        at_least("REST twin read", 60_000.0, cost(TWIN_READ).rate),
        at_least("REST twin patch", 40_000.0, cost(TWIN_PATCH).rate),
        at_most("telemetry, 1 in flight", 11.0, cost(INGEST_1).cpu, " µs"),
        at_most("telemetry, 20 in flight", 3.0, cost(INGEST_20).cpu, " µs"),
        at_least("connect, plain", 15_000.0, cost(CONNECT).rate),
        at_most("stall while all connect, plain", 0.2, largest.stall, " s"),
        at_least("connect, TLS", 2_500.0, tls.rate),
        at_most("stall while all connect, TLS", 0.2, report.tls.stall, " s"),
        at_most("idle device, plain", 3.5, largest.idle_kib, " KiB"),
        at_most("idle device, TLS", 12.0, report.tls.idle_kib, " KiB"),
        at_most(
            "connected devices with twins",
            60.0,
            largest.connected_mib,
            " MiB",
        ),
    ];
    let rates = report
        .in_memory
        .iter()
        .filter_map(|column| column.cost(METHOD_JOB));
    goals.push(at_least(
        "method round trips over memory, of a job",
        300_000.0,
        rates.map(|cost| cost.rate).fold(0.0, f64::max),
    ));
    if let [first, .., last] = report.in_memory.as_slice() {
        let times = last.devices / first.devices;
        goals.extend(GROWING.iter().filter_map(|name| {
            let ratio = last.cost(name)?.cpu / first.cost(name)?.cpu;
            Some(Goal {
                what: format!("over memory, {times} times the devices: {name}"),
                ..at_most("", 1.25, ratio, " × the processor time")
            })
        }));
    }
    goals.push(at_most("start to ready", 50.0, report.start * 1e3, " ms"));
    goals.extend(
        report
            .program_mib
            .map(|mib| at_most("program, stripped", 20.0, mib, " MiB")),
    );
    goals
}

fn write_goals(page: &mut String, report: &Report) -> std::fmt::Result {
    let devices = report.over_tcp.last().map_or(0, |column| column.devices);
    writeln!(page, "## Goals, at {devices} devices\n")?;
    writeln!(page, "| figure | goal | found | |")?;
    writeln!(page, "|---|---:|---:|---|")?;
    for goal in goals(report) {
        let met = if goal.is_met { "met" } else { "**missed**" };
        writeln!(page, "| {} | {} | {} | {met} |", goal.what, goal.goal, goal.found)?;
    }
    if !report.has_broker {
        writeln!(
            page,
            "\nmosquitto is not installed, so there is nothing of it here."
        )?;
    }
    Ok(())
}

/// A line of the picture: name, and devices with the cost at each.
type Curve = (String, Vec<(f64, f64)>);

fn curves(report: &Report) -> Vec<Curve> {
    let curve = |columns: &[Column], name: &str, label: String| {
        let points = columns
            .iter()
            .filter_map(|column| Some((column.devices as f64, column.cost(name)?.cpu)));
        (label, points.collect())
    };
    let over_tcp = DRAWN
        .iter()
        .map(|name| curve(&report.over_tcp, name, (*name).to_owned()));
    let in_memory = [METHOD_JOB, TWIN_JOB].map(|name| {
        let label = format!("{name} over memory, both ends");
        curve(&report.in_memory, name, label)
    });
    over_tcp
        .chain(in_memory)
        .filter(|(_, points): &Curve| !points.is_empty())
        .collect()
}

/// The picture, as the text of an SVG file.
pub(crate) fn svg(report: &Report) -> String {
    let mut picture = String::new();
    draw(&mut picture, &curves(report)).expect("drawing into memory");
    picture
}

fn draw(picture: &mut String, curves: &[Curve]) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let points = || curves.iter().flat_map(|(_, points)| points);
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
    let least = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
    let area = SVGBackend::with_string(picture, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "Processor time of an operation, as the fleet grows",
            ("sans-serif", 22),
        )
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (least * 0.9..most(|point| point.0) * 1.1).log_scale(),
            0.0..most(|point| point.1) * 1.5,
        )?;
    chart
        .configure_mesh()
        .x_desc("devices (logarithmic)")
        .y_desc("µs an operation")
        .x_label_formatter(&|devices| format!("{devices:.0}"))
        .light_line_style(BLACK.mix(0.08))
        .bold_line_style(BLACK.mix(0.2))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 16))
        .draw()?;
    for ((name, points), colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let is_memory = name.contains("memory");
        let style = colour.stroke_width(if is_memory { 4 } else { 2 });
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style).point_size(4))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()?;
    area.present()
}
