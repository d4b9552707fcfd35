//! Charts: histograms and lines, with letters from a font inside the program.

use anyhow::{Result, anyhow};
use image::RgbImage;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

/// Pixels of a panel.
const WIDTH: u32 = 900;
const HEIGHT: u32 = 300;
/// Of its right side, where the names of the sets are.
const NAMES: u32 = 200;
/// Bars of a histogram.
const BARS: usize = 60;
/// Colours of the sets, the first for the data: from Okabe and Ito, told apart by the colour-blind too.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
];

type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

fn colour(i: usize) -> RGBColor {
    COLOURS[i % COLOURS.len()]
}

/// A picture of `width` x `height` pixels, drawn on white.
fn picture(width: u32, height: u32, draw: impl FnOnce(&Area) -> Result<()>) -> Result<RgbImage> {
    register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| anyhow!("the font inside the program is damaged"))?;
    let mut bytes = vec![255; (width * height * 3) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut bytes, (width, height)).into_drawing_area();
        area.fill(&WHITE)?;
        draw(&area)?;
        area.present()?;
    }
    RgbImage::from_raw(width, height, bytes).ok_or_else(|| anyhow!("a picture with another size than its pixels"))
}

/// Words, where their upper left corner is, and how many pixels their letters have.
pub type Words = (String, (i32, i32), u32);

/// White paper of `width` x `height` pixels with black words.
pub fn paper(width: u32, height: u32, words: &[Words]) -> Result<RgbImage> {
    picture(width, height, |area| {
        let write = |(text, at, size): &Words| area.draw(&Text::new(text.clone(), *at, ("sans-serif", *size)));
        Ok(words.iter().try_for_each(write)?)
    })
}

/// Named sets of numbers.
pub type Sets<'a> = Vec<(&'a str, &'a [f64])>;

/// Histograms of the sets of each panel, one below the other; each set's bars sum to 1.
///
/// The axis is asinh((v - median) / spread) of the first set: plain near its numbers, logarithmic far from them.
pub fn histograms(panels: &[(&str, Sets)]) -> Result<RgbImage> {
    picture(WIDTH, HEIGHT * panels.len().max(1) as u32, |area| {
        for ((title, sets), area) in panels.iter().zip(area.split_evenly((panels.len(), 1))) {
            histogram(&area, title, sets)?;
        }
        Ok(())
    })
}

/// Lines through points (x, y), one a series.
pub fn lines(title: &str, axes: [&str; 2], series: &[(String, Vec<(f64, f64)>)]) -> Result<RgbImage> {
    let all = || series.iter().flat_map(|(_, points)| points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let range = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) = all().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low < high { (low, high) } else { (-1., 1.) }
    };
    let ((left, right), (bottom, top)) = (range(|p| p.0), range(|p| p.1));
    let margin = 0.06 * (top - bottom);
    picture(WIDTH, 2 * HEIGHT, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 20))
            .margin(14)
            .x_label_area_size(44)
            .y_label_area_size(70)
            .build_cartesian_2d(left..right, bottom - margin..top + margin)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(axes[0])
            .y_desc(axes[1])
            .x_label_formatter(&|v| short(*v))
            .y_label_formatter(&|v| short(*v))
            .label_style(("sans-serif", 14))
            .draw()?;
        for (i, (name, points)) in series.iter().enumerate() {
            let style = colour(i).stroke_width(2);
            let points = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite());
            let line = move |(x, y)| PathElement::new(vec![(x, y), (x + 14, y)], style);
            chart.draw_series(LineSeries::new(points, style))?.label(name).legend(line);
        }
        if series.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .background_style(WHITE.mix(0.8))
                .label_font(("sans-serif", 14))
                .draw()?;
        }
        Ok(())
    })
}

fn histogram(area: &Area, title: &str, sets: &Sets) -> Result<()> {
    let mut first: Vec<f64> =
        sets.first().map_or(&[][..], |set| set.1).iter().copied().filter(|v| v.is_finite()).collect();
    first.sort_by(f64::total_cmp);
    let at = |q: f64| first.get((first.len() as f64 * q) as usize).copied().unwrap_or(0.);
    let (middle, spread) = (at(0.5), (at(0.99) - at(0.01)).max(1e-9 * at(0.5).abs()).max(1e-300));
    let there = |v: f64| ((v - middle) / spread * 2.).asinh();
    let back = |u: f64| middle + u.sinh() * spread / 2.;
    let all = || sets.iter().flat_map(|(_, values)| values.iter()).copied().filter(|v| v.is_finite()).map(there);
    let (low, high) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), u| (low.min(u), high.max(u)));
    let (low, high) = if low < high { (low, high) } else { (-1., 1.) };
    let margin = 0.02 * (high - low);
    let (low, high) = (low - margin, high + margin);
    let width = (high - low) / BARS as f64;
    let counts: Vec<Vec<f64>> = sets.iter().map(|(_, values)| shares(values, |v| (there(v) - low) / width)).collect();
    let top = counts.iter().flatten().copied().fold(0., f64::max).max(1e-9) * 1.08;
    let name = sets.first().map_or("", |set| set.0);
    let scale = format!("even near the median of {name}, logarithmic far from it (asinh)");
    let (left, names) = area.split_horizontally(WIDTH - NAMES);
    let mut chart = ChartBuilder::on(&left)
        .caption(title, ("sans-serif", 20))
        .margin(10)
        .x_label_area_size(46)
        .y_label_area_size(48)
        .build_cartesian_2d(low..high, 0f64..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|u| short(back(*u)))
        .x_desc(scale)
        .y_label_formatter(&|v| format!("{:.0}%", v * 100.))
        .x_labels(9)
        .y_labels(5)
        .label_style(("sans-serif", 14))
        .draw()?;
    for (i, ((name, _), shares)) in sets.iter().zip(&counts).enumerate() {
        let bar = |(j, &share): (usize, &f64)| {
            let left = low + j as f64 * width;
            Rectangle::new([(left, 0.), (left + width, share)], colour(i).mix(0.45).filled())
        };
        chart.draw_series(shares.iter().enumerate().filter(|(_, share)| **share > 0.).map(bar))?;
        let top = 40 + 20 * i as i32;
        names.draw(&Rectangle::new([(0, top), (12, top + 10)], colour(i).mix(0.6).filled()))?;
        names.draw(&Text::new(name.to_string(), (18, top - 2), ("sans-serif", 14)))?;
    }
    Ok(())
}

/// The part of `values` in each bar; `place` says in which a value lies.
fn shares(values: &[f64], place: impl Fn(f64) -> f64) -> Vec<f64> {
    let mut shares = vec![0.; BARS];
    for &v in values.iter().filter(|v| v.is_finite()) {
        if let Some(share) = shares.get_mut((place(v).max(0.) as usize).min(BARS - 1)) {
            *share += 1. / values.len() as f64;
        }
    }
    shares
}

/// A number in few letters.
fn short(v: f64) -> String {
    match v.abs() {
        a if a != 0. && !(1e-2..1e5).contains(&a) => format!("{v:.1e}"),
        a if a < 10. => format!("{v:.2}"),
        a if a < 1000. => format!("{v:.1}"),
        _ => format!("{v:.0}"),
    }
}
