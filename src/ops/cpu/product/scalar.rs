//! The kernel without vector instructions: what the others are compared with.

use super::kernel::{Kernel, Out, Rows, TileRow, WIDTH, panel_len};
use super::result::Old;
use crate::ops::cpu::element::Element;
use std::marker::PhantomData;

/// Multiplies numbers of T, of which a panel holds G rows together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scalar<T, const G: usize>(PhantomData<T>);

impl<T: Element, const G: usize> Kernel for Scalar<T, G> {
    type Number = T;

    const HEIGHT: usize = 12;
    const GROUP: usize = G;
    const DEPTH: usize = G;

    type Hold = ();

    fn hold(self) {}

    fn tile(self, [rows, _]: [usize; 2], terms: &[Rows<T>], panels: &[T], out: Out, old: Old) {
        assert!(out.hold(rows), "rows outside the result");
        if old == Old::Overwrite {
            out.values.chunks_mut(out.stride).take(rows).for_each(|row| row[..WIDTH].fill(0.));
        }
        let mut panels = panels;
        for term in terms {
            let (panel, later) = panels.split_at(panel_len::<Self>(term.k));
            panels = later;
            for (i, out) in out.values.chunks_mut(out.stride).take(rows).enumerate() {
                // A copy, so that the sums may stay in registers.
                let mut sums: TileRow = std::array::from_fn(|c| out[c]);
                for (group, a) in panel.chunks_exact(G * WIDTH).zip(term.row(i).chunks(G)) {
                    for (in_group, a) in a.iter().enumerate() {
                        let a = a.get();
                        for (c, sum) in sums.iter_mut().enumerate() {
                            *sum += a * group[c * G + in_group].get();
                        }
                    }
                }
                out[..WIDTH].copy_from_slice(&sums);
            }
        }
    }
}
