//! The kernel without vector instructions: what the others are compared with.

use super::kernel::{Kernel, PAIR, Rows, Tile, WIDTH, panel_len};
use super::source::Source;
use crate::ops::cpu::element::Element;
use half::bf16;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

impl Kernel for Scalar {
    fn tile(self, [rows, _]: [usize; 2], terms: &[Rows], panels: &[bf16], out: &mut Tile) {
        let out = &mut out[..rows];
        out.fill([0.; WIDTH]);
        let mut panels = panels;
        for term in terms {
            let (panel, later) = panels.split_at(panel_len(term.k));
            panels = later;
            for (i, out) in out.iter_mut().enumerate() {
                let a = &term.data[i * term.stride..][..term.k];
                for (pair, a) in panel.chunks_exact(PAIR).zip(a.chunks(2)) {
                    for (out, b) in out.iter_mut().zip(pair.chunks_exact(2)) {
                        *out += a.iter().zip(b).map(|(a, b)| a.get() * b.get()).sum::<f32>();
                    }
                }
            }
        }
    }

    fn pack_rows(self, _: &Source, _: usize, _: &mut [bf16]) -> bool {
        false
    }

    fn pack_columns(self, _: &Source, _: usize, _: &mut [bf16]) -> bool {
        false
    }
}
