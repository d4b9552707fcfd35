//! CPU kernel of separable sparse maps of pictures.

use super::{Real, pieces, scratch, wide, written};
use std::mem::MaybeUninit;

/// Where an output's inputs are, and what each counts.
pub(crate) type Taps = Vec<(usize, f64)>;

/// Each picture of `[height, width]` mapped along its columns by `down` and along its rows by `across`.
pub(crate) fn apply<T: Real>(x: &[T], [height, width]: [usize; 2], down: &[Taps], across: &[Taps]) -> Vec<T> {
    let (from, to) = (height * width, down.len() * across.len());
    let count = x.len().checked_div(from).unwrap_or(0);
    let typed = |taps: &[Taps]| -> Vec<Vec<(usize, T)>> {
        taps.iter().map(|row| row.iter().map(|&(j, tap)| (j, T::from_f64(tap))).collect()).collect()
    };
    let (down, across) = (typed(down), typed(across));
    let fill = |y: &mut [MaybeUninit<T>]| {
        // a piece of work is one picture
        pieces(y, to.max(1), |at, y| {
            let picture = &x[at / to * from..][..from];
            scratch(width, |row: &mut [MaybeUninit<T>]| {
                wide(
                    #[inline(always)]
                    || {
                        for (y, taps) in y.chunks_exact_mut(across.len()).zip(&down) {
                            row.fill(MaybeUninit::new(T::zero()));
                            for &(i, tap) in taps {
                                for (sum, &x) in row.iter_mut().zip(&picture[i * width..][..width]) {
                                    // SAFETY: the row was filled above.
                                    *sum = MaybeUninit::new(unsafe { sum.assume_init() } + tap * x);
                                }
                            }
                            for (y, taps) in y.iter_mut().zip(&across) {
                                let mut sum = T::zero();
                                for &(j, tap) in taps {
                                    // SAFETY: as above.
                                    sum += tap * unsafe { row[j].assume_init() };
                                }
                                *y = MaybeUninit::new(sum);
                            }
                        }
                    },
                )
            });
        });
    };
    // SAFETY: the pieces cover the output.
    unsafe { written(count * to, fill) }
}
