//! What work says while it goes on: notes, how far it is, and whether it shall stop. Whoever wants to know gives a [`Watch`].
//!
//! A watch is there for all that is called inside [`with`], on this thread, as a subscriber of `tracing` is; without one work is
//! silent. [`noted`] gives the notes back beside the result.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

/// Someone who is told how work goes on. Everything has a default that does nothing.
pub trait Watch {
    /// A sentence that the user should know: what was chosen, what is approximate, what may be a slip.
    fn note(&self, _text: &str) {}

    /// A line of what a training has to say of itself: where its files are, how it stands.
    fn line(&self, _text: &str) -> anyhow::Result<()> {
        Ok(())
    }

    /// Long work begins. What is returned is told how far it is, and dropped when it is over.
    fn begin(&self, _work: &Work) -> Box<dyn Advance> {
        Box::new(Silent)
    }

    /// Whether work shall stop as soon as it has saved what it has.
    fn stops(&self) -> bool {
        false
    }

    /// As long as what is returned lives there is something to save: the work asks [`Watch::stops`] by itself.
    fn hold(&self) -> Box<dyn Any> {
        Box::new(())
    }

    /// Does `work`, which takes long and can be done again. If it shall stop meanwhile, `save` may be called from another thread
    /// and the program ended, wherever the work is.
    fn interruptible(&self, _save: &(dyn Fn() -> anyhow::Error + Sync), work: &mut dyn FnMut()) {
        work();
    }
}

/// Long work.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// What it is, if it does not follow from what was asked.
    pub name: &'a str,
    /// How much there is to do, 0 where that is not known.
    pub all: u64,
    /// Of what: "steps", "bytes".
    pub unit: &'static str,
}

/// Is told how far work is.
pub trait Advance: Send {
    /// So much is done.
    fn at(&mut self, _done: u64) {}

    /// Does what prints, with this out of its way.
    fn aside(&self, work: &mut dyn FnMut()) {
        work();
    }
}

/// Tells nobody anything.
pub struct Silent;

impl Watch for Silent {}

impl Advance for Silent {}

thread_local! {
    static WATCHES: RefCell<Vec<Rc<dyn Watch>>> = const { RefCell::new(vec![]) };
}

/// `f`, with all work inside it watched by `watch`.
pub fn with<R>(watch: Rc<dyn Watch>, f: impl FnOnce() -> R) -> R {
    struct Last;
    impl Drop for Last {
        fn drop(&mut self) {
            drop(WATCHES.with_borrow_mut(Vec::pop)); // which may make a note itself
        }
    }
    WATCHES.with_borrow_mut(|all| all.push(watch));
    let _last = Last;
    f()
}

/// Who watches now.
pub fn current() -> Rc<dyn Watch> {
    WATCHES.with_borrow(|all| all.last().cloned()).unwrap_or_else(|| Rc::new(Silent))
}

/// What `f` gives, and the notes that were made on the way; whoever watches is told them too.
pub fn noted<R>(f: impl FnOnce() -> R) -> (R, Vec<String>) {
    let notes = Rc::new(Noting { outer: current(), notes: RefCell::default() });
    let result = with(notes.clone(), f);
    let notes = notes.notes.take();
    (result, notes)
}

struct Noting {
    outer: Rc<dyn Watch>,
    notes: RefCell<Vec<String>>,
}

impl Watch for Noting {
    fn note(&self, text: &str) {
        self.notes.borrow_mut().push(text.into());
        self.outer.note(text);
    }

    fn line(&self, text: &str) -> anyhow::Result<()> {
        self.outer.line(text)
    }

    fn begin(&self, work: &Work) -> Box<dyn Advance> {
        self.outer.begin(work)
    }

    fn stops(&self) -> bool {
        self.outer.stops()
    }

    fn hold(&self) -> Box<dyn Any> {
        self.outer.hold()
    }

    fn interruptible(&self, save: &(dyn Fn() -> anyhow::Error + Sync), work: &mut dyn FnMut()) {
        self.outer.interruptible(save, work);
    }
}

/// A note to whoever watches, as `format!` takes it.
#[macro_export]
macro_rules! note {
    ($($text:tt)*) => { $crate::watch::current().note(&format!($($text)*)) };
}

/// Whether whoever watches wants work to stop.
pub fn stops() -> bool {
    current().stops()
}

/// An error if work shall stop.
pub fn go_on() -> candle_core::Result<()> {
    if stops() { candle_core::bail!("stopped") } else { Ok(()) }
}

/// `work`, which takes long and can be done again; `save` as of [`Watch::interruptible`].
pub fn interruptible<R>(save: &(dyn Fn() -> anyhow::Error + Sync), work: impl FnOnce() -> R) -> anyhow::Result<R> {
    let (mut work, mut result) = (Some(work), None);
    current().interruptible(save, &mut || result = work.take().map(|work| work()));
    result.ok_or_else(|| anyhow::anyhow!("the watch did not do the work that it was given"))
}

/// How far work is, for whoever watches. It is over when this is dropped.
pub struct Progress {
    told: Box<dyn Advance>,
    done: u64,
}

impl Progress {
    /// Work of `all` steps, which `unit` names.
    pub fn new(all: u64, unit: &'static str) -> Self {
        Self::of("", all, unit)
    }

    /// Work of which nothing is known but its name.
    pub fn named(name: &str) -> Self {
        Self::of(name, 0, "")
    }

    /// A download of `size` bytes, 0 where that is not known; [`at`](Self::at) says how far it is.
    pub fn bytes(name: &str, size: u64) -> Self {
        Self::of(name, size, "bytes")
    }

    fn of(name: &str, all: u64, unit: &'static str) -> Self {
        Self { told: current().begin(&Work { name, all, unit }), done: 0 }
    }

    /// One more is done.
    pub fn step(&mut self) {
        self.steps(1);
    }

    /// So many more are done.
    pub fn steps(&mut self, n: u64) {
        self.at(self.done + n);
    }

    /// So much is done.
    pub fn at(&mut self, done: u64) {
        self.done = done;
        self.told.at(done);
    }

    /// Does what prints lines, the bar out of their way.
    pub fn aside(&self, f: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let (mut f, mut result) = (Some(f), Ok(()));
        self.told.aside(&mut || result = f.take().map_or(Ok(()), |f| f()));
        result
    }

    /// All is done.
    pub fn done(self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_and_reach_those_outside() {
        let ((), none) = noted(|| ());
        assert!(none.is_empty());
        let (inner, all) = noted(|| {
            crate::note!("first");
            let ((), inner) = noted(|| crate::note!("{} and {}", 2, 3));
            crate::note!("last");
            inner
        });
        assert_eq!(inner, ["2 and 3"]);
        assert_eq!(all, ["first", "2 and 3", "last"]);
    }

    #[test]
    fn a_watch_ends_with_its_scope_even_by_a_panic() {
        struct Stops;
        impl Watch for Stops {
            fn stops(&self) -> bool {
                true
            }
        }
        assert!(!stops());
        assert!(with(Rc::new(Stops), stops));
        let panicked = std::panic::catch_unwind(|| with(Rc::new(Stops), || panic!("on purpose")));
        assert!(panicked.is_err() && !stops() && go_on().is_ok());
    }
}
