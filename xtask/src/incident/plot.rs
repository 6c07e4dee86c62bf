//! The pictures: what requests took, as curves over the percentiles and as histograms, before and after.

use anyhow::anyhow;
use plotters::prelude::*;

use crate::incident::{figures::Figures, form::Form};

const WIDTH: u32 = 1000;
const HEIGHT: u32 = 560;
const INK: RGBColor = RGBColor(60, 60, 60);
const GRID: RGBColor = RGBColor(225, 225, 225);

/// What is drawn, in this order, and how.
const FORMS: [(Form, RGBColor, &str); 4] = [
    (Form::InRequest, RGBColor(200, 40, 40), "before: written in the request"),
    (Form::ApplicationQueue, RGBColor(217, 139, 6), "the fix: handed to a queue"),
    (Form::Edge, RGBColor(0, 102, 204), "offpath: taken at the edge"),
    (Form::NoLogging, RGBColor(205, 205, 205), "no logging at all"),
];

fn figures_of(figures: &[Figures], form: Form) -> Option<&Figures> {
    figures.iter().find(|figures| figures.name == form.name())
}

/// Where both pictures begin.
const SHORTEST_S: f64 = 0.01;

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Latency over percentiles, both so that the rare is as wide as the common.
///
/// # Errors
/// When it cannot be drawn.
pub fn percentiles(figures: &[Figures]) -> anyhow::Result<String> {
    let mut text = String::new();
    draw_percentiles(figures, &mut text).map_err(|error| anyhow!("cannot draw: {error}"))?;
    Ok(text)
}

/// Where the nines are: 0 is P0, 1 is P90, 2 is P99, 3 is P99.9.
fn nines(share_above: f64) -> f64 {
    -share_above.log10()
}

fn is_power_of_ten(value: f64) -> bool {
    let exponent = value.log10();
    (exponent - exponent.round()).abs() < 1e-6
}

fn draw_percentiles(figures: &[Figures], text: &mut String) -> Drawn {
    let root = SVGBackend::with_string(text, (WIDTH, HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    let all = || FORMS.iter().filter_map(|(form, ..)| figures_of(figures, *form));
    let longest = all().map(|figures| figures.latency.max_ms).fold(1.0, f64::max) / 1000.0;
    let most_nines = all().map(|figures| nines(1.0 / figures.ends.requests as f64)).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .caption("How long users waited", ("sans-serif", 22).into_font().color(&INK))
        .margin(16)
        .x_label_area_size(52)
        .y_label_area_size(76)
        .build_cartesian_2d(0.0..most_nines, (SHORTEST_S..longest * 1.3).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .set_all_tick_mark_size(0)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(RGBColor(150, 150, 150))
        .label_style(("sans-serif", 15).into_font().color(&INK))
        .x_desc("of all requests took at most so long")
        .y_desc("seconds")
        .x_labels(0)
        .y_labels(8)
        .y_label_formatter(&|seconds| {
            if is_power_of_ten(*seconds) { seconds.to_string() } else { String::new() }
        })
        .draw()?;
    let label = ("sans-serif", 15).into_font().color(&INK);
    for (share_above, name) in
        [(0.5, "50 %"), (0.1, "90 %"), (0.05, "95 %"), (0.01, "99 %"), (0.001, "99.9 %"), (0.0001, "99.99 %")]
    {
        let at = nines(share_above);
        if at <= most_nines {
            chart.draw_series([PathElement::new([(at, SHORTEST_S), (at, longest * 1.3)], GRID)])?;
            let below = EmptyElement::at((at, SHORTEST_S)) + Text::new(name, (-16, 8), label.clone());
            chart.plotting_area().draw(&below)?;
        }
    }
    // The bound lies below, broad and pale, so that what keeps to it is seen on it.
    for (form, color, name) in FORMS.into_iter().rev() {
        let Some(figures) = figures_of(figures, form) else { continue };
        let count = figures.ends.requests as f64;
        let points = figures
            .latencies
            .all_ms()
            .enumerate()
            .map(|(index, ms)| (nines((count - index as f64) / count), (ms / 1000.0).max(SHORTEST_S)));
        let width = if form == Form::NoLogging { 9 } else { 2 };
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(width)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], color.stroke_width(width)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .margin(16)
        .legend_area_size(34)
        .background_style(WHITE.mix(0.9))
        .border_style(GRID)
        .label_font(("sans-serif", 15).into_font().color(&INK))
        .draw()?;
    root.present()?;
    Ok(())
}

/// One histogram below the other, over the same logarithmic axis.
///
/// # Errors
/// When it cannot be drawn.
pub fn histograms(figures: &[Figures]) -> anyhow::Result<String> {
    let mut text = String::new();
    draw_histograms(figures, &mut text).map_err(|error| anyhow!("cannot draw: {error}"))?;
    Ok(text)
}

/// Bars for each tenfold of the latency.
const BARS: f64 = 12.0;
/// What users notice, and call slow.
const SLOW_S: f64 = 2.0;

fn draw_histograms(figures: &[Figures], text: &mut String) -> Drawn {
    const ROW: u32 = 190;
    let shown: Vec<Shown<'_>> = FORMS
        .iter()
        .filter(|(form, ..)| *form != Form::NoLogging)
        .filter_map(|(form, color, name)| Some((figures_of(figures, *form)?, *color, *name)))
        .collect();
    let rows = u32::try_from(shown.len())?;
    let root = SVGBackend::with_string(text, (WIDTH, 60 + rows * ROW)).into_drawing_area();
    root.fill(&WHITE)?;
    let titled = root
        .margin(12, 0, 0, 0)
        .titled("How many requests took how long", ("sans-serif", 22).into_font().color(&INK))?;
    let longest = shown.iter().map(|(figures, ..)| figures.latency.max_ms).fold(1.0, f64::max) / 1000.0;
    let bars = ((longest / SHORTEST_S).log10() * BARS).ceil().max(1.0) as u32 + 1;
    let counts: Vec<Vec<u32>> = shown.iter().map(|(figures, ..)| count(figures, bars)).collect();
    let most = counts.iter().flatten().copied().max().unwrap_or(1);
    for ((area, shown), counts) in titled.split_evenly((shown.len(), 1)).iter().zip(&shown).zip(&counts) {
        draw_histogram(area, shown, counts, most)?;
    }
    root.present()?;
    Ok(())
}

/// Requests by bar.
fn count(figures: &Figures, bars: u32) -> Vec<u32> {
    let mut counts = vec![0; bars as usize];
    for ms in figures.latencies.all_ms() {
        let bar = ((ms / 1000.0 / SHORTEST_S).log10() * BARS).floor().max(0.0) as usize;
        if let Some(count) = counts.get_mut(bar) {
            *count += 1;
        }
    }
    counts
}

/// A form, its colour and what it is called.
type Shown<'a> = (&'a Figures, RGBColor, &'static str);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_histogram(area: &Area<'_>, shown: &Shown<'_>, counts: &[u32], most: u32) -> Drawn {
    let (figures, color, name) = *shown;
    let slow = figures.latencies.all_ms().filter(|ms| *ms > SLOW_S * 1000.0).count() as f64;
    let caption = format!(
        "{name}: {:.1} % took longer than {SLOW_S} s, the longest {:.1} s",
        slow / figures.ends.requests.max(1) as f64 * 100.0,
        figures.latency.max_ms / 1000.0
    );
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 17).into_font().color(&color))
        .margin(8)
        .margin_right(24)
        .x_label_area_size(28)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..counts.len() as f64, 0.0..f64::from(most) * 1.05)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .set_all_tick_mark_size(0)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(RGBColor(150, 150, 150))
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .disable_x_axis()
        .y_labels(5)
        .y_label_formatter(&|count| format!("{count:.0}"))
        .draw()?;
    chart.draw_series(counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bar, count)| {
        let left = bar as f64;
        Rectangle::new([(left + 0.06, 0.0), (left + 0.94, f64::from(*count))], color.mix(0.8).filled())
    }))?;
    let style = ("sans-serif", 13).into_font().color(&INK);
    for (seconds, label) in
        [(0.01, "10 ms"), (0.1, "100 ms"), (1.0, "1 s"), (10.0, "10 s"), (60.0, "60 s"), (100.0, "100 s")]
    {
        let at = (seconds / SHORTEST_S).log10() * BARS;
        if at <= counts.len() as f64 {
            chart.plotting_area().draw(
                &(EmptyElement::at((at, 0.0)) + Text::new(label.to_owned(), (-12, 8), style.clone())),
            )?;
        }
    }
    Ok(())
}
