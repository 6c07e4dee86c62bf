//! The pictures: what requests took, as curves over the percentiles and as histograms, before and after.

use anyhow::anyhow;
use plotters::{chart::MeshStyle, prelude::*};

use crate::incident::{
    figures::{Figures, Latencies},
    form::Form,
};

const WIDTH: u32 = 1000;
const HEIGHT: u32 = 560;
const INK: RGBColor = RGBColor(60, 60, 60);
const GRID: RGBColor = RGBColor(225, 225, 225);

/// What is drawn, in this order, and how: the bound at the bottom, broad and pale, so that what keeps to it is seen on it;
/// offpath on top of all.
const FORMS: [(Form, RGBColor, &str); 4] = [
    (Form::NoLogging, RGBColor(205, 205, 205), "no logging at all"),
    (Form::InRequest, RGBColor(200, 40, 40), "before: written in the request"),
    (Form::ApplicationQueue, RGBColor(217, 139, 6), "the fix: handed to a queue"),
    (Form::Edge, RGBColor(0, 102, 204), "offpath: taken at the edge"),
];

/// What stands on a picture.
#[derive(Clone, Debug)]
pub struct Caption {
    /// What the load is, for people.
    pub load: String,
    /// When a client left: longer than that no wait could be seen.
    pub patience_s: Option<f64>,
}

fn figures_of(figures: &[Figures], form: Form) -> Option<&Figures> {
    figures.iter().find(|figures| figures.name == form.name())
}

/// Where both pictures begin.
const SHORTEST_S: f64 = 0.01;
/// The longest is so much below the top of the curves.
const HEADROOM: f64 = 1.5;

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Latency over percentiles, both so that the rare is as wide as the common.
///
/// # Errors
/// When it cannot be drawn.
pub fn percentiles(figures: &[Figures], caption: &Caption) -> anyhow::Result<String> {
    let mut text = String::new();
    draw_percentiles(figures, caption, &mut text).map_err(|error| anyhow!("cannot draw: {error}"))?;
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

type Chart<'a> = ChartContext<
    'a,
    SVGBackend<'a>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::combinators::LogCoord<f64>>,
>;

fn draw_percentiles(figures: &[Figures], caption: &Caption, text: &mut String) -> Drawn {
    let root = SVGBackend::with_string(text, (WIDTH, HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    let all = || FORMS.iter().filter_map(|(form, ..)| figures_of(figures, *form));
    let longest = all().map(|figures| figures.latency.max_ms).fold(1.0, f64::max) / 1000.0 * HEADROOM;
    let most_nines = all().map(|figures| nines(1.0 / figures.ends.requests as f64)).fold(1.0, f64::max);
    let title = format!("How long users waited for an answer: {}", caption.load);
    let mut chart = ChartBuilder::on(&root)
        .caption(title, style(22))
        .margin(16)
        .x_label_area_size(52)
        .y_label_area_size(76)
        .build_cartesian_2d(0.0..most_nines, (SHORTEST_S..longest).log_scale())?;
    let mut mesh = chart.configure_mesh();
    plain(&mut mesh, 15)
        .x_desc("so many of all requests (the slowest to the right) ...")
        .y_desc("... took at most so many seconds")
        .x_labels(0)
        .y_labels(8)
        .y_label_formatter(&|seconds| {
            if is_power_of_ten(*seconds) { seconds.to_string() } else { String::new() }
        })
        .draw()?;
    draw_shares(&mut chart, most_nines, longest)?;
    for (form, color, name) in FORMS {
        let Some(figures) = figures_of(figures, form) else { continue };
        let width = if form == Form::NoLogging { 9 } else { 2 };
        chart
            .draw_series(LineSeries::new(curve(&figures.latencies, most_nines), color.stroke_width(width)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], color.stroke_width(width)));
    }
    if let Some(patience_s) = caption.patience_s.filter(|patience| *patience < longest) {
        draw_patience(&mut chart, patience_s, most_nines)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .margin(16)
        .legend_area_size(34)
        .background_style(WHITE.mix(0.9))
        .border_style(GRID)
        .label_font(style(15))
        .draw()?;
    root.present()?;
    Ok(())
}

/// One point for each hundredth of a nine, which is finer than the eye.
fn curve(latencies: &Latencies, most_nines: f64) -> impl Iterator<Item = (f64, f64)> {
    let points = (most_nines * 100.0).floor() as u32;
    let places = (0..=points).map(|point| f64::from(point) / 100.0);
    let rest = places.map(|at| (at, 1.0 - 10_f64.powf(-at)));
    rest.chain([(most_nines, 1.0)])
        .map(|(at, quantile)| (at, (latencies.quantile_ms(quantile) / 1000.0).max(SHORTEST_S)))
}

fn draw_shares(chart: &mut Chart<'_>, most_nines: f64, longest: f64) -> Drawn {
    for (share_above, name) in
        [(0.5, "50 %"), (0.1, "90 %"), (0.05, "95 %"), (0.01, "99 %"), (0.001, "99.9 %"), (0.0001, "99.99 %")]
    {
        let at = nines(share_above);
        if at <= most_nines {
            chart.draw_series([PathElement::new([(at, SHORTEST_S), (at, longest)], GRID)])?;
            let below = EmptyElement::at((at, SHORTEST_S)) + Text::new(name, (-16, 8), style(15));
            chart.plotting_area().draw(&below)?;
        }
    }
    Ok(())
}

fn draw_patience(chart: &mut Chart<'_>, patience_s: f64, most_nines: f64) -> Drawn {
    let line = [(0.0, patience_s), (most_nines, patience_s)];
    chart.draw_series(DashedLineSeries::new(line, 6, 4, INK.stroke_width(1)))?;
    let text = format!("here users gave up, after {patience_s} s without an answer");
    let below = EmptyElement::at((nines(0.5), patience_s)) + Text::new(text, (8, 8), style(15));
    chart.plotting_area().draw(&below)?;
    Ok(())
}

fn style(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// Axes and labels of all pictures: thin lines for the values, none for the rest.
fn plain<'a, 'b, 'mesh, X: Ranged, Y: Ranged>(
    mesh: &'mesh mut MeshStyle<'a, 'b, X, Y, SVGBackend<'a>>,
    label_size: u32,
) -> &'mesh mut MeshStyle<'a, 'b, X, Y, SVGBackend<'a>> {
    mesh.disable_x_mesh()
        .set_all_tick_mark_size(0)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(RGBColor(150, 150, 150))
        .label_style(style(label_size))
}

/// One histogram below the other, over the same logarithmic axis.
///
/// # Errors
/// When it cannot be drawn.
pub fn histograms(figures: &[Figures], caption: &Caption) -> anyhow::Result<String> {
    let mut text = String::new();
    draw_histograms(figures, caption, &mut text).map_err(|error| anyhow!("cannot draw: {error}"))?;
    Ok(text)
}

/// Bars for each tenfold of the latency.
const BARS: f64 = 12.0;
/// What users notice, and call slow.
const SLOW_S: f64 = 2.0;

fn draw_histograms(figures: &[Figures], caption: &Caption, text: &mut String) -> Drawn {
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
        .titled(&format!("How many requests took how long: {}", caption.load), style(22))?;
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
    let percent = |count: f64| count / figures.ends.requests.max(1) as f64 * 100.0;
    let slow = figures.latencies.all_ms().filter(|ms| *ms > SLOW_S * 1000.0).count() as f64;
    let mut caption = format!(
        "{name}: {:.1} % took longer than {SLOW_S} s, the longest {:.1} s",
        percent(slow),
        figures.latency.max_ms / 1000.0
    );
    if figures.ends.gave_up > 0 {
        caption += &format!("; {:.1} % gave up then", percent(figures.ends.gave_up as f64));
    }
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 17).into_font().color(&color))
        .margin(8)
        .margin_right(24)
        .x_label_area_size(28)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..counts.len() as f64, 0.0..f64::from(most) * 1.05)?;
    let mut mesh = chart.configure_mesh();
    plain(&mut mesh, 13)
        .disable_x_axis()
        .y_labels(5)
        .y_label_formatter(&|count| format!("{count:.0}"))
        .draw()?;
    chart.draw_series(counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bar, count)| {
        let left = bar as f64;
        Rectangle::new([(left + 0.06, 0.0), (left + 0.94, f64::from(*count))], color.mix(0.8).filled())
    }))?;
    for (seconds, label) in
        [(0.01, "10 ms"), (0.1, "100 ms"), (1.0, "1 s"), (10.0, "10 s"), (60.0, "60 s"), (100.0, "100 s")]
    {
        let at = (seconds / SHORTEST_S).log10() * BARS;
        if at <= counts.len() as f64 {
            chart
                .plotting_area()
                .draw(&(EmptyElement::at((at, 0.0)) + Text::new(label.to_owned(), (-12, 8), style(13))))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::{
        form::{ServiceTimes, Setup},
        load::{End, Sample},
    };

    /// A hundred requests that took 1 to 100 s.
    fn figures(form: Form) -> Figures {
        let service_times = ServiceTimes { median_ms: 120.0, mean_ms: 166.0, seed: 1 };
        let sample = |number: u64| Sample {
            number,
            due_us: 0,
            sent_us: 0,
            took_us: (number + 1) * 1_000_000,
            end: End::Answered(200),
        };
        Figures::of_samples(&Setup::of(form, service_times), (0..100).map(sample).collect())
    }

    #[test]
    fn a_curve_goes_from_the_fastest_to_the_slowest_request() {
        let points: Vec<(f64, f64)> = curve(&figures(Form::Edge).latencies, 2.0).collect();
        assert_eq!((points.first(), points.last()), (Some(&(0.0, 1.0)), Some(&(2.0, 100.0))));
        let (_, at_99_percent) = points[points.len() - 2];
        assert_eq!(at_99_percent, 99.0);
        assert!(points.is_sorted_by(|(_, left), (_, right)| left <= right));
    }

    #[test]
    fn where_users_gave_up_is_drawn_if_any_waited_so_long() {
        let figures = [figures(Form::InRequest), figures(Form::Edge)];
        for (patience_s, drawn) in [(Some(30.0), true), (Some(500.0), false), (None, false)] {
            let caption = Caption { load: "40 new requests a second".to_owned(), patience_s };
            let picture = percentiles(&figures, &caption).unwrap();
            assert!(picture.contains("40 new requests a second"));
            assert_eq!(picture.contains("here users gave up, after"), drawn, "{patience_s:?}");
        }
    }

    #[test]
    fn offpath_lies_on_top() {
        let position = |form| FORMS.iter().position(|(drawn, ..)| *drawn == form);
        assert_eq!((position(Form::NoLogging), position(Form::Edge)), (Some(0), Some(FORMS.len() - 1)));
    }

    #[test]
    fn a_histogram_counts_every_request_once() {
        let figures = figures(Form::Edge);
        assert_eq!(count(&figures, 60).iter().sum::<u32>(), 100);
        // 1 s begins the third decade from 10 ms.
        assert_eq!(count(&figures, 60).iter().position(|count| *count > 0), Some(24));
    }
}
