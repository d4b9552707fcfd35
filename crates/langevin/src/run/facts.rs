//! The data of a run and the facts that it keeps of them: `data.json` in its folder, the same in its weights files.
//!
//! Facts are what the samples alone do not say to whoever opens the model: which class has which number, how columns are
//! scaled, and a fingerprint by which the same data are known again.

use super::Learns;
use crate::config::{self, idle};
use crate::error::usage;
use crate::keeps::{self, COLUMNS, DATA};
use crate::open::Opened;
use crate::run::folder::Folder;
use crate::scoring;
use crate::watch::Progress;
use anyhow::{Context, Result, bail};
use langevin_data::{Dataset, Facts, Kind, Options, Relabelled, Scaling, places};
use langevin_models::checkpoint;
use std::collections::BTreeMap;
use std::path::Path;

/// Data to train on, with their facts.
pub type Data = (Box<dyn Dataset>, Facts);

/// The data of a new run, whose configuration then has their absolute path; classes and columns are those of the model that
/// it starts from, where they have the same names.
pub fn begin<C: Learns>(run: &mut C, from: Option<&Opened>) -> Result<Data> {
    let columns = from.map(Opened::columns).transpose()?.flatten();
    let open = |scaling: Scaling| read(run.data(), None, scaling);
    let like = columns.clone().and_then(|columns| open(Scaling::Like(columns)).ok());
    let mut data = match like {
        Some(data) => data,
        None => open(run.scaling())?,
    };
    if let (Some(columns), Some(own), Some(from)) = (&columns, data.columns(), from) {
        match own == columns {
            true => crate::note!("columns are scaled as those that {} learnt", from.what),
            false => crate::note!(
                "the columns {} are not those of {}, which are {}: they are scaled by their own moments",
                langevin_data::list(&own.names),
                from.what,
                langevin_data::list(&columns.names)
            ),
        }
    }
    check(run.data(), data.as_ref())?;
    if let (true, Some(from)) = (run.conditional(), from) {
        data = numbered_as(data, from)?;
    }
    let facts = learnt(run, data.as_ref())?;
    run.data_mut().spec = langevin_data::absolute(&run.data().spec)?;
    Ok((data, facts))
}

/// The facts of `data` that a new run keeps. Errors if an option of the data means nothing for them.
pub fn learnt<C: Learns>(run: &mut C, data: &dyn Dataset) -> Result<Facts> {
    idle::of_data(run.data(), data)?;
    if data.kind() != Kind::Image && run.data_mut().binarise.take().is_some() {
        langevin_data::check_bits(data).map_err(|why| anyhow::anyhow!("{}: {why}", run.data().spec))?;
        crate::note!("data.binarise is left out: the rows of {} are bits already", run.data().spec);
    }
    let mut facts = Facts::of(data)?;
    if run.sigma_data().is_some_and(|given| given.is_none()) {
        facts.sigma_data = Some(deviation(&run.data().spec, data)?);
    }
    Ok(facts)
}

/// The standard deviation of all numbers of the data, which takes reading them all.
fn deviation(spec: &str, data: &dyn Dataset) -> candle_core::Result<f64> {
    let _reading = Progress::named(&format!("measuring the deviation of {spec}"));
    langevin_data::std(data)
}

/// The data of a run, in images of `shape` if one is given.
fn read(of: &config::Data, shape: Option<Vec<usize>>, scaling: Scaling) -> candle_core::Result<Box<dyn Dataset>> {
    let _reading = Progress::named(&format!("reading {}", of.spec));
    let options = Options { size: of.size, header: of.header, shape, scaling, ..Options::default() };
    langevin_data::open(&of.spec, &options)
}

/// Tells the notes on the data of a run. Errors if they are not what the configuration takes them for, or cannot be learnt.
fn check(of: &config::Data, data: &dyn Dataset) -> Result<()> {
    if of.header.is_some() && data.kind() != Kind::Table {
        return usage(format!("data.header: {} is no table", of.spec));
    }
    data.notes().iter().for_each(|note| crate::note!("{note}"));
    if data.kind() == Kind::Table {
        for some in (0..data.len()).collect::<Vec<_>>().chunks(10_000) {
            if scoring::outside(&data.get(some)?.x)?.contains(&true) {
                bail!(
                    "{}: a column that was constant in what the model learnt has other values now, which it cannot \
                     learn; leave such rows out",
                    of.spec
                );
            }
        }
    }
    Ok(())
}

/// `data` with the numbers of the classes of the model `from`, by name; classes that it does not know come after its own.
fn numbered_as(data: Box<dyn Dataset>, from: &Opened) -> Result<Box<dyn Dataset>> {
    if from.model.spec.classes.is_none() || data.classes().is_none() {
        return Ok(data);
    }
    let (known, names) = match (from.class_names(), data.class_names()) {
        (Some(known), Some(names)) => (known, names),
        (None, None) => return Ok(data),
        _ => {
            crate::note!("the classes of {} and of the data are matched by number: not both have names", from.what);
            return Ok(data);
        }
    };
    if known == names {
        return Ok(data);
    }
    let new: Vec<String> = names.iter().filter(|name| !known.contains(name)).cloned().collect();
    if !new.is_empty() {
        crate::note!("{} does not know the classes {}: they come after its own", from.what, langevin_data::list(&new));
    }
    let all = [known, &new].concat();
    let numbers: Vec<String> = all.iter().enumerate().map(|(i, name)| format!("{i} = {name}")).collect();
    crate::note!("classes are numbered as in {}: {}", from.what, langevin_data::list(&numbers));
    Ok(Box::new(Relabelled::by_name(data, &all)?))
}

/// The data of the run in the folder `dir`, `named` if its configuration names them anew. They must be those that it began with,
/// unless it takes `new` ones that fit.
pub fn go_on<C: Learns>(run: &mut C, dir: &Path, (named, new): (bool, bool)) -> Result<Data> {
    let (kept, spec) = (of_run(dir)?, run.data().spec.clone());
    let gone = langevin_data::path(&spec).filter(|path| !named && !Path::new(path).exists());
    if gone.is_some() {
        bail!(
            "the data of the run, {spec}, are not there; if they have moved, name them: langevin train --resume {} \
                 --data SPEC",
            dir.display()
        );
    }
    let shape = kept.as_ref().filter(|_| new).map(|kept| kept.shape.clone());
    let columns = match &kept {
        Some(kept) => kept.columns.clone(),
        None => columns_of(dir)?,
    };
    let scaling = columns.map_or(run.scaling(), Scaling::Like);
    let mut data = read(run.data(), shape, scaling)?;
    check(run.data(), data.as_ref())?;
    if let Some(kept) = &kept {
        data = renumbered(run, data, kept, new)?;
    }
    let mut facts = Facts::of(data.as_ref())?;
    let difference = match &kept {
        Some(kept) => kept.difference(&facts),
        None => {
            let before = run.data().samples.filter(|&before| before != facts.samples);
            before.map(|before| format!("{} samples, not {before}", facts.samples))
        }
    };
    match (difference, new) {
        (Some(what), false) => bail!(
            "{spec} has {what}: these are not the data that the run began with; name those with --data SPEC, or go \
             on with these by --new-data"
        ),
        (Some(what), true) => crate::note!("new data: {spec} has {what}"),
        (None, _) => {}
    }
    facts.sigma_data = match kept {
        Some(kept) => kept.sigma_data,
        None => run.sigma_data().and_then(Option::take), // earlier versions wrote what they measured into the configuration
    };
    if facts.sigma_data.is_none() && run.sigma_data().is_some_and(|given| given.is_none()) {
        facts.sigma_data = Some(deviation(&run.data().spec, data.as_ref())?);
    }
    run.data_mut().spec = langevin_data::absolute(&spec)?;
    Ok((data, facts))
}

/// `data` with the numbers that its classes have in the run: by name, or for `new` data without names by number.
fn renumbered<C: Learns>(run: &C, data: Box<dyn Dataset>, kept: &Facts, new: bool) -> Result<Box<dyn Dataset>> {
    let must_fit = new && run.conditional();
    let wrong = || format!("{} cannot be learnt by this run", run.data().spec);
    match (&kept.class_names, data.class_names(), kept.classes) {
        (Some(names), Some(theirs), _) => {
            if names == theirs || !must_fit && places(names, theirs).is_err() {
                return Ok(data);
            }
            Ok(Box::new(Relabelled::by_name(data, names).with_context(wrong)?))
        }
        (names, _, Some(n)) if must_fit && (names.is_some() || data.classes() != Some(n)) => {
            Ok(Box::new(Relabelled::by_number(data, n, names.as_deref()).with_context(wrong)?))
        }
        _ => Ok(data),
    }
}

/// What the run in the folder `dir` keeps of its data; `None` for one that an earlier version began.
pub fn of_run(dir: &Path) -> Result<Option<Facts>> {
    let file = Folder::data_of(dir);
    if file.is_file() {
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        return Ok(Some(keeps::facts(&text, &file.display().to_string())?));
    }
    let weights = weights_of(dir);
    weights.get(DATA).map(|text| keeps::facts(text, &dir.display().to_string())).transpose()
}

/// How the columns of a table were scaled, as weights of an earlier version say it.
fn columns_of(dir: &Path) -> Result<Option<langevin_data::Columns>> {
    let read = |text: &String| serde_json::from_str(text).with_context(|| format!("{}: {COLUMNS}", dir.display()));
    weights_of(dir).get(COLUMNS).map(read).transpose()
}

/// What the weights file of a run says beside its weights.
fn weights_of(dir: &Path) -> BTreeMap<String, String> {
    checkpoint::texts(&dir.join("model.safetensors")).unwrap_or_default()
}
