//! The costs as a picture: a bar for each variant, its middle half across the bar's end.

use anyhow::anyhow;
use plotters::prelude::*;

use super::{report::Report, variant::REFERENCE};

const WIDTH: u32 = 900;
const ROW_HEIGHT: u32 = 26;
const FRAME_HEIGHT: u32 = 110;
const LABEL_WIDTH: u32 = 230;

const OFFPATH: RGBColor = RGBColor(0, 102, 204);
const NATIVE: RGBColor = RGBColor(217, 119, 6);
const PROBE: RGBColor = RGBColor(160, 160, 160);
const INK: RGBColor = RGBColor(60, 60, 60);

/// A whole SVG file.
///
/// # Errors
/// When it cannot be drawn.
pub(super) fn svg(report: &Report) -> anyhow::Result<String> {
    let mut text = String::new();
    draw(report, &mut text).map_err(|error| anyhow!("cannot draw: {error}"))?;
    Ok(text)
}

fn draw(report: &Report, text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let rows = u32::try_from(report.rows.len())?;
    let root = SVGBackend::with_string(text, (WIDTH, rows * ROW_HEIGHT + FRAME_HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    let longest = report.rows.iter().map(|row| row.delta_us.third_quartile).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .caption(
            "Processor time per request, over Envoy without a logger",
            ("sans-serif", 18).into_font().color(&INK),
        )
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(LABEL_WIDTH)
        .build_cartesian_2d(0.0..longest * 1.12, (0..rows).into_segmented())?;
    let name = |place: &SegmentValue<u32>| match place {
        SegmentValue::CenterOf(place) => {
            let row = rows.checked_sub(place + 1).and_then(|index| report.rows.get(index as usize));
            // Without a mark between them, the text would touch the axis.
            row.map(|row| format!("{}\u{a0}\u{a0}", row.variant)).unwrap_or_default()
        }
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .set_all_tick_mark_size(0)
        .bold_line_style(RGBColor(225, 225, 225))
        .light_line_style(TRANSPARENT)
        .axis_style(RGBColor(150, 150, 150))
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .x_desc("µs; the line across a bar's end is the middle half of the rounds")
        .y_labels(report.rows.len())
        .y_label_formatter(&name)
        .draw()?;
    for (row, place) in report.rows.iter().zip((0..rows).rev()) {
        let color = color_of(&row.variant);
        let bar = [
            (0.0, SegmentValue::Exact(place)),
            (row.delta_us.median.max(0.0), SegmentValue::Exact(place + 1)),
        ];
        let mut bar = Rectangle::new(bar, color.mix(0.8).filled());
        bar.set_margin(4, 4, 0, 0);
        chart.draw_series([bar])?;
        let middle = || SegmentValue::CenterOf(place);
        let ends = [row.delta_us.first_quartile.max(0.0), row.delta_us.third_quartile.max(0.0)];
        chart
            .draw_series([PathElement::new(ends.map(|end| (end, middle())).to_vec(), INK.stroke_width(2))])?;
        let figure = format!("{:.1}", row.delta_us.median);
        let style = ("sans-serif", 12).into_font().color(&INK);
        let end = row.delta_us.third_quartile.max(row.delta_us.median).max(0.0);
        chart.draw_series([EmptyElement::at((end, middle())) + Text::new(figure, (6, -6), style)])?;
    }
    root.present()?;
    Ok(())
}

fn color_of(variant: &str) -> RGBColor {
    if variant.contains("offpath") {
        OFFPATH
    } else if variant.starts_with("native") || variant == REFERENCE {
        NATIVE
    } else {
        PROBE
    }
}
