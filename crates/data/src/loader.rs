//! The endless row of batches of a training run: shuffled by epoch, augmented, made ahead on a thread.
//!
//! The n-th batch is a pure function of (seed, n), so a resumed run needs no saved position.

use crate::{Batch, Binarise, Dataset, Kind, check_bits, check_integers};
use candle_core::{DType, Device, Result, Tensor};
use langevin_ops::noise::{Noise, generator};
use langevin_ops::shape::levels;
use rand::RngExt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

// The run's seed also drives the noise of the loss; these keep the loader's streams apart from it.
const SHUFFLE: u64 = 0x5348_5546_464c_4531;
const AUGMENT: u64 = 0x4155_474d_454e_5431;
const BITS: u64 = 0x4249_4e41_5249_5345;

/// How many batches [`Loader::prefetch`] keeps ready.
const AHEAD: usize = 2;

/// What a [`Loader`] does with the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoaderOptions {
    /// Samples a batch.
    pub batch: usize,
    /// Of the order and the augmentation.
    pub seed: u64,
    /// Mirror each image left to right with probability 1/2.
    pub flip: bool,
    /// Uniform dequantisation: x = (v + u) / 256 * 2 - 1 with u uniform on (0, 1), in place of v / 127.5 - 1.
    ///
    /// The density of such x bounds the likelihood of the pixel values v \[Theis16\].
    pub dequantise: bool,
}

/// The batches of a run over a dataset.
pub struct Loader {
    data: Arc<dyn Dataset>,
    options: LoaderOptions,
    binarise: Option<Binarise>,
    levels: Option<usize>,
    /// The latest orders, by epoch: a batch may lie across two.
    orders: Mutex<Vec<(u64, Arc<Vec<u32>>)>>,
}

impl Loader {
    /// A loader of `data`; flip and dequantise are for images only.
    pub fn new(data: Arc<dyn Dataset>, options: LoaderOptions) -> Result<Self> {
        if data.is_empty() {
            bail!("the dataset has no samples; give one that has");
        }
        if u32::try_from(data.len()).is_err() {
            bail!("the dataset has {} samples; at most {} can be shuffled", data.len(), u32::MAX);
        }
        if options.batch == 0 {
            bail!("batch is 0; it must be at least 1");
        }
        for (on, name) in [(options.flip, "flip"), (options.dequantise, "dequantise")] {
            if on && data.kind() != Kind::Image {
                bail!("{name} is for images, and the data are not; set {name} = false");
            }
        }
        Ok(Self { data, options, binarise: None, levels: None, orders: Mutex::new(vec![]) })
    }

    /// The same with batches of bits, 0 and 1: of images by `how`; rows hold them already.
    ///
    /// Errors, naming the first, if a row holds another number.
    pub fn binarised(self, how: Binarise) -> Result<Self> {
        if self.options.dequantise {
            bail!("dequantise adds noise to grey levels, and bits have none; set dequantise = false");
        }
        check_bits(&*self.data)?;
        Ok(Self { binarise: Some(how), ..self })
    }

    /// The same with batches of integers from 0 to `q` - 1: images as the nearest of `q` even grey levels, black being 0; rows hold them
    /// already.
    ///
    /// Errors, naming the first, if a row holds another number.
    pub fn of_integers(self, q: usize) -> Result<Self> {
        if self.options.dequantise {
            bail!("dequantise adds noise to grey levels, and these are integers; set dequantise = false");
        }
        check_integers(&*self.data, q)?;
        Ok(Self { levels: Some(q), ..self })
    }

    /// The dataset.
    pub fn data(&self) -> &dyn Dataset {
        &*self.data
    }

    /// Batch `n` of the run, x `[batch, ...shape]`: a pure function of (seed, n).
    ///
    /// Batches follow each other without gaps through the epochs, each epoch in an order of its own.
    pub fn batch(&self, n: u64) -> Result<Batch> {
        let mut batch = self.data.get(&self.places(n)?)?;
        if self.options.flip || self.options.dequantise {
            batch.x = self.augment(&batch.x, n * self.options.batch as u64)?;
        }
        if let Some(how) = self.binarise.filter(|_| self.data.kind() == Kind::Image) {
            batch.x = how.bits(&batch.x, &mut Noise::of_step(self.options.seed ^ BITS, n, self.options.batch))?;
        }
        if let Some(q) = self.levels.filter(|_| self.data.kind() == Kind::Image) {
            batch.x = levels(&batch.x, q)?;
        }
        Ok(batch)
    }

    /// Where in the data the samples of batch `n` are.
    pub fn places(&self, n: u64) -> Result<Vec<usize>> {
        let (len, size) = (self.data.len() as u64, self.options.batch as u64);
        let Some(first) = n.checked_mul(size).filter(|first| first.checked_add(size).is_some()) else {
            bail!("batch {n} lies beyond the last that can be counted");
        };
        let mut idx = Vec::with_capacity(self.options.batch);
        let mut order = self.order(first / len);
        for p in first..first + size {
            if p % len == 0 {
                order = self.order(p / len);
            }
            idx.push(order[(p % len) as usize] as usize);
        }
        Ok(idx)
    }

    /// The batches from `from` on, made ahead on a thread of their own.
    pub fn prefetch(self: Arc<Self>, from: u64) -> Prefetch {
        let (to, ready) = sync_channel(AHEAD);
        let worker = std::thread::Builder::new().name("loader".into()).spawn(move || self.fill(from, &to));
        match worker {
            Ok(worker) => Prefetch { ready: Some(ready), worker: Some(worker), failed: None },
            Err(e) => Prefetch { ready: None, worker: None, failed: Some(e.to_string()) },
        }
    }

    fn fill(&self, from: u64, to: &SyncSender<Result<Batch>>) {
        for n in from.. {
            let batch = self.batch(n);
            let failed = batch.is_err();
            if to.send(batch).is_err() || failed {
                return;
            }
        }
    }

    /// The order of an epoch: a Fisher-Yates shuffle on a stream of its own.
    fn order(&self, epoch: u64) -> Arc<Vec<u32>> {
        let mut orders = self.orders.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, order)) = orders.iter().find(|(e, _)| *e == epoch) {
            return order.clone();
        }
        let mut rng = generator(self.options.seed ^ SHUFFLE, epoch);
        let mut order: Vec<u32> = (0..self.data.len() as u32).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, rng.random_range(0..=i as u64) as usize);
        }
        let order = Arc::new(order);
        if orders.len() >= 2 {
            orders.remove(0);
        }
        orders.push((epoch, order.clone()));
        order
    }

    /// Flip and dequantisation of the samples at positions `first`.. of the run, x: [B, C, H, W].
    fn augment(&self, x: &Tensor, first: u64) -> Result<Tensor> {
        let shape = x.shape().clone();
        let (_, c, h, w) = shape.dims4()?;
        let mut values: Vec<f32> = x.flatten_all()?.to_vec1()?;
        for (position, image) in (first..).zip(values.chunks_exact_mut(c * h * w)) {
            let mut rng = generator(self.options.seed ^ AUGMENT, position);
            if rng.random::<bool>() && self.options.flip {
                image.chunks_exact_mut(w).for_each(|row| row.reverse());
            }
            if self.options.dequantise {
                image.iter_mut().for_each(|x| *x = dequantised(*x, rng.random::<u16>()));
            }
        }
        Tensor::from_vec(values, shape, &Device::Cpu)
    }
}

/// Images `x` `[B, C, H, W]` of pixel values with uniform noise within each value, as of [`LoaderOptions::dequantise`];
/// `noise` has `B` streams.
pub fn dequantise(x: &Tensor, noise: &mut Noise) -> Result<Tensor> {
    let u: Vec<f64> = noise.uniform_like(&x.to_dtype(DType::F64)?)?.flatten_all()?.to_vec1()?;
    let values: Vec<f32> = x.flatten_all()?.to_vec1()?;
    let values = values.into_iter().zip(u).map(|(x, u)| dequantised(x, (65536. * u) as u16));
    Tensor::from_vec(values.collect::<Vec<_>>(), x.shape(), x.device())
}

/// (v + u) / 256 * 2 - 1 for the pixel value v behind x. With 15 bits of u every x is exact in f32 and below 1.
fn dequantised(x: f32, bits: u16) -> f32 {
    let v = ((x + 1.) * 127.5).round();
    let u = (f32::from(bits >> 1) + 0.5) / 32768.;
    (v + u) / 128. - 1.
}

/// The batches of a [`Loader`], made ahead; it ends after the first error.
pub struct Prefetch {
    ready: Option<Receiver<Result<Batch>>>,
    worker: Option<JoinHandle<()>>,
    failed: Option<String>,
}

impl Prefetch {
    /// The next batch if it is there within `time`; `None` if it is not yet, or if there is none.
    pub fn wait(&mut self, time: Duration) -> Option<Result<Batch>> {
        match self.ready.as_ref()?.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => self.next(),
            Ok(batch) => Some(self.came(batch)),
        }
    }

    fn came(&mut self, batch: Result<Batch>) -> Result<Batch> {
        if batch.is_err() {
            self.ready = None;
        }
        batch
    }
}

impl Iterator for Prefetch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(why) = self.failed.take() {
            return Some(Err(candle_core::Error::Msg(format!("cannot start the loading thread: {why}"))));
        }
        match self.ready.as_ref()?.recv() {
            Ok(batch) => Some(self.came(batch)),
            Err(_) => {
                self.ready = None;
                Some(Err(candle_core::Error::Msg("the loading thread stopped unexpectedly".into())))
            }
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.ready = None; // a worker waiting to send now returns
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}
