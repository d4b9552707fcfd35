//! What came of the lab: a table, figures as JSON, and a picture with a panel of each density.

use super::truth::CELLS;
use super::{HALF, Page, Row};
use crate::output::chart::{Words, paper};
use crate::output::viridis;
use anyhow::Result;
use image::{Rgb, RgbImage, imageops};
use serde_json::json;

/// Pixels a side of a panel, between panels, and for the words above one.
const SIDE: u32 = 300;
const GAP: u32 = 18;
const WORDS: u32 = 48;
/// Pixels for the title, and for the scale of colours below.
const TITLE: u32 = 62;
const SCALE: u32 = 64;
/// Half the side of the square that a panel shows: all of the data.
const SHOWN: f64 = 2.6;

/// A number of nats in few letters.
fn nats(v: f64) -> String {
    match v.abs() {
        a if a < 10. => format!("{v:.4}"),
        a if a < 1e4 => format!("{v:.1}"),
        _ => format!("{v:.2e}"),
    }
}

impl Page {
    /// A line a method, the first the heads of the columns.
    pub fn table(&self) -> Vec<Vec<String>> {
        let heads = ["method", "KL, nats", "modes", "worst share", "log Z error", "seconds", "energies", "steps", ""];
        let line = |row: &Row| -> Vec<String> {
            let found = row.figures.as_ref();
            let kl = found.map_or("-".into(), |f| nats(f.kl));
            let modes = found.map_or("-".into(), |f| format!("{} of {}", f.found, f.shares.len()));
            let worst = found.map_or("-".into(), |f| format!("{:.1}%", 100. * f.worst_share));
            let log_z = row.log_z_error().map_or("-".into(), |error| format!("{error:+.4}"));
            let what =
                row.failed.as_ref().map_or(format!("{}: {}", row.title, row.about), |why| format!("failed: {why}"));
            let numbers = [format!("{:.1}", row.seconds), row.evaluations.to_string(), row.steps.to_string()];
            [vec![row.method.into(), kl, modes, worst, log_z], numbers.into(), vec![what]].concat()
        };
        std::iter::once(heads.map(String::from).to_vec()).chain(self.rows.iter().map(line)).collect()
    }

    /// What is to be known of the figures: how good the integrals are.
    pub fn checks(&self) -> String {
        let found = || self.rows.iter().filter_map(|row| row.figures.as_ref());
        let largest = |of: fn(&super::Figures) -> f64| found().map(of).fold(0., f64::max);
        format!(
            "{} points on [-{HALF}, {HALF}]^2; halving the step changed KL by at most {:.1e} and log Z by {:.1e} nats",
            CELLS * CELLS,
            largest(|f| f.kl_change),
            largest(|f| f.log_z_change)
        )
    }

    /// All figures.
    pub fn json(&self) -> serde_json::Value {
        let row = |row: &Row| {
            let mut all = serde_json::to_value(row).unwrap_or_default();
            all["log_z_error"] = json!(row.log_z_error());
            all
        };
        json!({
            "lab": self.lab,
            "lattice": { "half": HALF, "cells": CELLS },
            "truth": { "entropy": self.truth.entropy, "shares": self.truth.shares },
            "methods": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    /// A panel of the data's density and one of each method's, all by one scale of colours.
    pub fn picture(&self) -> Result<RgbImage> {
        let number = self.rows.len() as u32 + 1;
        let columns = if number > 9 { 5 } else { number.min(3) };
        let rows = number.div_ceil(columns);
        let (across, down) = (SIDE + GAP, SIDE + WORDS + GAP);
        let (width, height) = (columns * across + GAP, TITLE + rows * down + SCALE);
        let top = self.truth.log_p().iter().copied().fold(f64::NEG_INFINITY, f64::max).exp();
        let left = GAP as i32;
        let title = format!("{}, {}, seed {}", self.lab.data, self.lab.budget.words(), self.lab.seed);
        let mut words: Vec<Words> = vec![(title, (left, 18), 26)];
        let mut panels = vec![heat(self.truth.log_p(), top)];
        let mut heads = vec![("the data", format!("entropy {} nats", nats(self.truth.entropy)))];
        for row in &self.rows {
            let (panel, below) = match &row.figures {
                Some(found) => {
                    let modes = found.shares.len();
                    (
                        heat(&found.log_q, top),
                        format!("{}: KL {} nats, {} of {modes} modes", row.method, nats(found.kl), found.found),
                    )
                }
                None => {
                    (RgbImage::from_pixel(SIDE, SIDE, Rgb([235; 3])), format!("{}: it came to no density", row.method))
                }
            };
            panels.push(panel);
            heads.push((row.title, below));
        }
        let place = |i: usize| (GAP + i as u32 % columns * across, TITLE + i as u32 / columns * down);
        for (i, (name, below)) in heads.into_iter().enumerate() {
            let (x, y) = place(i);
            words.push((name.into(), (x as i32, y as i32), 20));
            words.push((below, (x as i32, y as i32 + 25), 15));
        }
        let low = (TITLE + rows * down) as i32;
        let most = format!("{top:.2}");
        words.push(("0".into(), (left, low + 24), 14));
        words.push((most.clone(), (left + SIDE as i32 - 8 * most.len() as i32, low + 24), 14));
        let scale = format!("density a unit of area, as its square root; [-{SHOWN}, {SHOWN}] on both axes");
        words.push((scale, (left + across as i32, low + 4), 15));
        let mut out = paper(width, height, &words)?;
        for (i, panel) in panels.iter().enumerate() {
            let (x, y) = place(i);
            imageops::replace(&mut out, panel, x.into(), (y + WORDS).into());
        }
        let bar = RgbImage::from_fn(SIDE, 12, |x, _| viridis(f64::from(x) / f64::from(SIDE - 1)));
        imageops::replace(&mut out, &bar, left.into(), (low + 6).into());
        Ok(out)
    }
}

/// A density on the lattice as colours, `top` being the brightest.
fn heat(log_q: &[f64], top: f64) -> RgbImage {
    let q: Vec<f64> = log_q.iter().map(|log_q| (log_q.exp() / top).min(1e9)).collect();
    let at = |i: usize, j: usize| q[j.min(CELLS - 1) * CELLS + i.min(CELLS - 1)];
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let place = |pixel: u32| {
            let v = (f64::from(pixel) + 0.5) / f64::from(SIDE) * 2. * SHOWN - SHOWN;
            ((v + HALF) / (2. * HALF) * CELLS as f64 - 0.5).max(0.)
        };
        let (x, y) = (place(x), place(SIDE - 1 - y));
        let (i, j, a, b) = (x as usize, y as usize, x.fract(), y.fract());
        let row = |j: usize| at(i, j) * (1. - a) + at(i + 1, j) * a;
        viridis((row(j) * (1. - b) + row(j + 1) * b).sqrt())
    })
}
