//! What is true of the code that now runs on a thread: one place, so that it can be handed to another thread whole.

use std::cell::Cell;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    /// Gradients whose functions are being computed, inside each other.
    pub scopes: usize,
    /// Tensors are constants to the tape.
    pub unrecorded: bool,
    /// Ops are composed of candle's own.
    pub composed: bool,
    /// Parts of networks are computed again in the backward pass.
    pub recompute: bool,
    /// Gradients of energies are differentiated by differences.
    pub differences: bool,
}

impl Context {
    const NONE: Self = Self { scopes: 0, unrecorded: false, composed: false, recompute: false, differences: false };

    pub fn now() -> Self {
        CONTEXT.get()
    }

    /// Runs `f` in this context.
    pub fn run<R>(self, f: impl FnOnce() -> R) -> R {
        struct Restore(Context);
        impl Drop for Restore {
            fn drop(&mut self) {
                CONTEXT.set(self.0);
            }
        }
        let _restore = Restore(CONTEXT.replace(self));
        f()
    }
}

thread_local! {
    static CONTEXT: Cell<Context> = const { Cell::new(Context::NONE) };
}

/// Gives a closure the context of the thread that calls this, for it to run on another.
///
/// Whether something is to be differentiated belongs to a thread: of what other threads compute inside
/// [`value_and_grad`](crate::grad::value_and_grad) or [`gradient`](crate::grad::gradient), networks are constants,
/// unless it is carried there: `rayon::join(carry(|| f(a)), carry(|| f(b)))`.
pub fn carry<R>(f: impl FnOnce() -> R) -> impl FnOnce() -> R {
    let context = Context::now();
    move || context.run(f)
}

/// Lets other work run on this thread until `ready` gives something: rayon's, in no context.
pub(crate) fn wait<R>(mut ready: impl FnMut() -> Option<R>) -> R {
    Context::NONE.run(|| {
        loop {
            match ready() {
                Some(r) => return r,
                None => match rayon::yield_now() {
                    Some(rayon::Yield::Executed) => {}
                    _ => std::thread::yield_now(),
                },
            }
        }
    })
}
