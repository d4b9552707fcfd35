//! `langevin eval ood`: how well the scores of a model tell its data from others.

use crate::machine::Machine;
use crate::scores::Scores;
use anyhow::Result;
use clap::Parser;
use langevin::config::idle;
use langevin::error::usage;
use langevin::ood::{Line, Set};
use langevin::output::{self, chart};
use langevin::scoring::{self, Scorer};
use langevin::watch::Progress;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Tell data from what does not belong to them: AUROC, AUPR and FPR95 of every score
#[derive(Parser)]
#[command(after_long_help = "\
Each score is higher the less a sample belongs; it is fitted to training data. What does not belong counts as \
positive: AUPR is the average precision of finding it, and FPR95 the part of the data that is taken for it where 95% \
of it is found. Intervals hold with 95% confidence, AUROC's by DeLong, the others by 1000 resamples. Images of another \
shape are made grey, scaled and cropped to the model's, and a note says so.

SPEC is NAME[:SPLIT], NAME=DIR, a folder of images, FILE.npz, FILE.csv, noise:uniform, noise:gaussian, or \
rotate:90=SPEC.

Examples:
  langevin eval ood runs/digits --data digits:test --ood fashion-mnist:test=DIR \\
      --ood noise:uniform --ood cifar10:test
  langevin eval ood runs/digits --data digits:test --ood rotate:90=digits:test --by-class
  # threes against every digit
  langevin eval ood runs/classes --class 3 --data digits:test --ood digits:test --by-class
  langevin eval ood runs/digits --data digits:test --ood noise:gaussian \\
      --scores energy,typicality energy.levels=[0.1,1]
  langevin eval ood google/ddpm-cifar10-32 --fit cifar10 --data cifar10:test \\
      --ood noise:uniform --plot scores.png")]
pub struct Ood {
    /// A run folder, RUN@STEP, a weights file, a folder of diffusers, OWNER/NAME of the Hub, or exact:NAME
    pub model: String,
    /// Changes of the scores, such as reconstruction.draws=4
    #[arg(value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
    /// Data that belong: held-out ones of what the model was trained on
    #[arg(long, value_name = "SPEC")]
    pub data: String,
    /// Data that do not; may be given more than once
    #[arg(long, value_name = "SPEC", required = true)]
    pub ood: Vec<String>,
    /// Samples of each set
    #[arg(short = 'n', value_name = "N", default_value_t = 1000)]
    pub number: usize,
    /// A line for each class of --ood too, where it has classes, each against all of --data
    #[arg(long)]
    pub by_class: bool,
    /// Write the table, with the score of each sample and its place in its data (from 0), as JSON; null for a score
    /// that is not finite
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write histograms of the scores as a picture
    #[arg(long, value_name = "FILE.png")]
    pub plot: Option<PathBuf>,
    /// Seed of the resamples
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub scoring: Scores,
    #[command(flatten)]
    pub machine: Machine,
}

/// Carries out `langevin eval ood`.
pub fn run(args: &Ood) -> Result<()> {
    let device = args.machine.open()?;
    if args.number < 2 {
        return usage(format!("-n {}: give at least 2", args.number));
    }
    idle::ambiguous("data", &args.data)?;
    args.ood.iter().try_for_each(|spec| idle::ambiguous("ood", spec))?;
    args.plot.iter().try_for_each(|path| output::writable_as(path, &["png"]))?;
    args.json.as_deref().map_or(Ok(()), output::writable)?;
    let opened = langevin::open::open_any(&args.model, &device)?;
    let model = opened.scored();
    let plan = model.plan(&args.scoring.asked(), &args.changes)?;
    let data = Set::open(model, &args.data, "data", (args.number, plan.label))?;
    if let Some(has) = scoring::learnt(model, &args.data, true) {
        crate::talk!(
            "warning: the model {has} {}: it finds them more usual than new ones, and the figures are too good; give \
             held-out samples with --data",
            args.data
        );
    }
    let others =
        args.ood.iter().map(|spec| Set::open(model, spec, "ood", (args.number, None))).collect::<Result<Vec<_>>>()?;
    if args.by_class && others.iter().all(|set| set.data.classes().is_none()) {
        crate::talk!("--by-class: none of the data of --ood has classes, so that there is no line of a class");
    }
    let fit = model.data(&plan.spec, "fit")?;
    let members = model.members(plan.label, fit.as_ref())?;
    let fitted = scoring::choose(&members, args.scoring.fit_samples.unwrap_or(scoring::USUAL), scoring::FITTED);
    let against = others.iter().map(|set| set.against(args.by_class)).collect::<Result<Vec<_>>>()?;
    let frame = frame(&plan.names(), &against, data.idx.len());
    let samples = others.iter().map(|set| set.idx.len()).sum::<usize>() + data.idx.len() + fitted.len();
    let mut progress = Progress::new(plan.evaluations(model, samples), "evaluations");
    let mut scorer = Scorer::new(model, &args.scoring.asked(), plan, (fit.as_ref(), &fitted))?;
    let (mut lines, mut belonging, mut odd) = (vec![], vec![], vec![vec![]; others.len()]);
    while let Some(name) = scorer.fit_next(&mut progress)? {
        let mut of = |set: &Set| scorer.scores(set.data.as_ref(), &set.idx, &mut progress);
        let usual = of(&data)?;
        for ((set, against), all) in others.iter().zip(&against).zip(&mut odd) {
            let scores = of(set)?;
            for (set, places) in against {
                let some: Vec<f64> = places.iter().map(|&i| scores[i]).collect();
                lines.push(Line::of(name, set, &some, &usual, args.seed)?);
            }
            all.push(scores);
        }
        belonging.push(usual);
        let new = lines.len() - against.iter().map(Vec::len).sum::<usize>();
        let rows: Vec<_> = lines[new..].iter().map(Line::words).collect();
        let rows = if new == 0 { [vec![head()], rows].concat() } else { rows };
        let shown = output::aligned(&[frame.clone(), rows].concat());
        progress.aside(|| shown[frame.len()..].iter().try_for_each(|line| crate::say!("{line}")))?;
    }
    progress.done();
    crate::talk!("\n{}", scorer.settings());
    if let Some(path) = &args.json {
        let of = |set: &Set, scores: &[Vec<f64>]| -> Value {
            let scores: Map<String, Value> =
                scorer.names().into_iter().zip(scores).map(|(name, scores)| (name.into(), json!(scores))).collect();
            json!({ "name": set.name, "places": set.idx, "scores": scores })
        };
        let all = json!({
            "model": args.model, "table": lines, "data": of(&data, &belonging),
            "ood": others.iter().zip(&odd).map(|(set, scores)| of(set, scores)).collect::<Vec<_>>(),
        });
        output::save(path, &serde_json::to_vec_pretty(&all)?)?;
    }
    let Some(path) = &args.plot else { return Ok(()) };
    let sets = std::iter::once(&data).chain(&others).map(|set| set.name.as_str());
    let of = |s: usize| -> Vec<(&str, &[f64])> {
        sets.clone().zip(std::iter::once(&belonging).chain(&odd).map(|scores| scores[s].as_slice())).collect()
    };
    let panels = scorer.names().into_iter().enumerate().map(|(s, name)| (name, of(s))).collect::<Vec<_>>();
    output::save_png(path, &chart::histograms(&panels)?, &[("langevin.model", model.what().to_string())])?;
    crate::say!("{}", path.display())
}

fn head() -> Vec<String> {
    ["score", "against", "AUROC", "", "AUPR", "", "FPR95", "", "n"].map(String::from).to_vec()
}

/// Lines as wide as those of the table will be, so that each of these can be printed when it is known.
fn frame(scores: &[&str], against: &[Vec<(String, Vec<usize>)>], belonging: usize) -> Vec<Vec<String>> {
    let (value, interval) = (format!("{:.4}", 0.), format!("[{0:.4}, {0:.4}]", 0.));
    let of = |score: &str, (set, places): &(String, Vec<usize>)| {
        let figures = [&value, &interval, &value, &interval, &value, &interval].map(String::clone);
        let n = format!("{} + {belonging}", places.len());
        [score.to_string(), set.clone()].into_iter().chain(figures).chain([n]).collect()
    };
    let all = scores.iter().flat_map(|score| against.iter().flatten().map(move |set| of(score, set)));
    std::iter::once(head()).chain(all).collect()
}
