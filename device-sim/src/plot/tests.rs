use std::time::Duration;

use quick_xml::Reader;
use quick_xml::events::Event;

use super::*;
use crate::histogram::Histogram;

fn measured(micros: impl IntoIterator<Item = u64>) -> Cumulative {
    let histogram = Histogram::default();
    for micros in micros {
        histogram.record(Duration::from_micros(micros));
    }
    histogram.cumulative()
}

/// The texts and the number of curves; panics where it is not well-formed XML.
fn read(svg: &str) -> (Vec<String>, usize) {
    let mut reader = Reader::from_str(svg);
    reader.config_mut().trim_text(true);
    let (mut texts, mut curves, mut depth) = (Vec::new(), 0, 0_i32);
    loop {
        match reader.read_event().unwrap() {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth -= 1,
            Event::Empty(element) => {
                let is_curve = element.name().as_ref() == "polyline"
                    && element
                        .attributes()
                        .map(|attribute| attribute.unwrap())
                        .any(|attribute| {
                            attribute.key.as_ref() == "points" && attribute.value.matches(',').count() > 2
                        });
                curves += usize::from(is_curve);
            }
            Event::Text(text) => texts.push(text.to_string()),
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0);
    (texts, curves)
}

#[test]
fn a_picture_has_a_curve_and_a_legend_for_everything_that_was_measured() {
    let connect = measured((1..=1000).map(|i| i * 37));
    let method = measured([0, 5, 120_000, 2_500_000]);
    let (texts, curves) = read(
        &svg(
            "Ten devices & more",
            [("connect", &connect), ("lock<Door>", &method)],
        )
        .unwrap(),
    );
    assert_eq!(curves, 2);
    let all = texts.join("\n");
    for expected in [
        "Ten devices",
        "connect: 1000, p50 18.",
        "Door",
        "2.50 s",
        "took at most",
        "100 %",
        "1 µs",
        "100 µs",
        "1 ms",
        "1 s",
    ] {
        assert!(all.contains(expected), "{expected} is missing in {all}");
    }
}

#[test]
fn a_single_measurement_makes_a_picture() {
    for micros in [0, 1, 1000, 999_999, u64::MAX] {
        let (_, curves) = read(&svg("one", [("connect", &measured([micros]))]).unwrap());
        assert_eq!(curves, 1, "{micros}");
    }
}

#[test]
fn a_curve_ends_at_all_operations() {
    let latency = measured([10, 10, 20, 40_000]);
    let points = steps(&latency, 100.0);
    assert_eq!(points.first(), Some(&(0.01, 0.0)));
    assert_eq!(points[1], (0.01, 50.0));
    assert_eq!(points.last(), Some(&(100.0, 100.0)));
}

#[test]
fn without_measurements_there_is_no_picture() {
    assert!(matches!(svg("none", []), Err(PlotError::NothingMeasured)));
}

#[test]
fn times_have_units() {
    assert_eq!(axis_time(10_f64.powf(-3.0)), "1 µs");
    assert_eq!(axis_time(10_f64.powf(3.0)), "1 s");
    assert_eq!(axis_time(100.0), "100 ms");
    assert_eq!(time(13.82), "13.8 ms");
    assert_eq!(time(0.0452), "45.2 µs");
}
