//! The low-rank branch: products with one short side, the rank.
//!
//! Two passes do what is needed beside the large products. One over blocks of tokens makes h forward, and g backward; one over
//! blocks of columns makes the gradients. The dropped-out input exists only as a task's block.

use crate::ops::cpu::dropout::Mask;
use crate::ops::cpu::element::{Element, rounded};
use crate::ops::cpu::product::{
    FEW_ROWS, Factor, Into, Kernel, Old, Operand, Out, Panels, Right, Rows, Source, Term, Threads, Values, WIDTH,
    WithKernel, depth, product,
};
use crate::ops::cpu::scratch;
use crate::ops::cpu::slice::{self, Slice};
use crate::ops::cpu::unspecified;
use crate::ops::dropout::Dropout;
use crate::ops::qlora_linear::LoraBranch;
use candle_core::Tensor;
use rayon::prelude::*;
use std::ops::Range;

/// Tokens of a task.
const TOKENS: usize = 128;
/// Columns of a task, whole panels.
const COLUMNS: usize = 4 * WIDTH;

/// The branch's memory.
pub(super) struct Branch<'a> {
    /// A `[r, in]`
    a: Slice<'a, f32>,
    /// B `[out, r]`
    b: Slice<'a, f32>,
    pub(super) rank: usize,
    scale: f32,
    pub(super) dropout: Option<Dropout>,
}

/// The gradients through the branch.
pub(super) struct Gradients<T> {
    /// `[r, in]`
    pub(super) da: Vec<f32>,
    /// `[out, r]`
    pub(super) db: Vec<f32>,
    /// What dx is made of, `m ∘ (g·A)`: `[T, wide rank]`, with the factor 1 / (1 - p).
    pub(super) g: Vec<T>,
}

impl<'a> Branch<'a> {
    pub(super) fn of(lora: &LoraBranch<'a>) -> Option<Self> {
        Some(Self {
            a: slice::of(lora.a)?,
            b: slice::of(lora.b)?,
            rank: lora.a.dims()[0],
            scale: lora.scale as f32,
            dropout: lora.active_dropout(),
        })
    }

    /// The branch, if there is one; `None` where its memory cannot be lent.
    pub(super) fn of_any(lora: Option<&LoraBranch<'a>>) -> Option<Option<Self>> {
        lora.map_or(Some(None), |lora| Self::of(lora).map(Some))
    }

    /// The same with the forward's h; `None` also where one of the two is missing.
    pub(super) fn with_h<'h>(
        lora: Option<&LoraBranch<'a>>,
        h: Option<&'h Tensor>,
    ) -> Option<Option<(Self, Slice<'h, f32>)>> {
        match (lora, h) {
            (None, None) => Some(None),
            (Some(lora), Some(h)) => Some(Some((Self::of(lora)?, slice::of(h)?))),
            _ => None,
        }
    }

    /// The rank filled up to what products of this type take in one step.
    pub(super) fn wide_rank<T: Factor>(&self) -> usize {
        self.rank.next_multiple_of(depth::<T>())
    }

    /// A `[wide rank, in]`, zeros below.
    pub(super) fn a<T: Factor>(&self, input: usize) -> Vec<T> {
        let mut a = rounded::<T>(&self.a);
        a.resize(self.wide_rank::<T>() * input, T::of(0.));
        a
    }

    /// B `[out, wide rank]`, zeros to the right.
    pub(super) fn b<T: Factor>(&self, out: usize) -> Vec<T> {
        let b = rounded::<T>(&self.b);
        let (rank, wide) = (self.rank, self.wide_rank::<T>());
        if wide == rank {
            return b;
        }
        let mut padded = vec![T::of(0.); out * wide];
        padded.chunks_exact_mut(wide).zip(b.chunks_exact(rank)).for_each(|(to, b)| to[..rank].copy_from_slice(b));
        padded
    }

    fn mask(&self) -> Option<Mask> {
        self.dropout.as_ref().map(Mask::of)
    }

    fn keep_scale(&self) -> f32 {
        self.dropout.map_or(1., |d| d.scale() as f32)
    }

    /// `h = (m ∘ x)·Aᵀ / (1 - p)` `[T, r]`, and `s·h` `[T, wide rank]`; `shape` is T, in.
    pub(super) fn h<T: Factor>(&self, x: &[T], [t, input]: [usize; 2]) -> (Vec<f32>, Vec<T>) {
        let (rank, wide) = (self.rank, self.wide_rank::<T>());
        let (mut h, mut scaled) = (unspecified::numbers::<f32>(t * rank), unspecified::numbers::<T>(t * wide));
        let scale = |h: &[f32], scaled: &mut [T]| {
            let (scaled, beyond) = scaled.split_at_mut(rank);
            scaled.iter_mut().zip(h).for_each(|(to, h)| *to = T::of(self.scale * h));
            beyond.fill(T::of(0.));
        };
        let a = rounded::<T>(&self.a);
        if t <= FEW_ROWS && self.dropout.is_none() {
            let term = Term::transposed(x, Source::dense(&a, rank, input));
            product(t, rank, 1., &[term], Into::F32(&mut h), Old::Overwrite, Threads::Pool);
            scaled.chunks_exact_mut(wide).zip(h.chunks_exact(rank)).for_each(|(scaled, h)| scale(h, scaled));
            return (h, scaled);
        }
        // A panel that is whole is packed faster.
        let mut a = a;
        a.resize(rank.next_multiple_of(WIDTH) * input, T::of(0.));
        let right = Right::Transposed(Source::dense(&a, rank.next_multiple_of(WIDTH), input));
        let outputs = (h.par_chunks_mut(TOKENS * rank), scaled.par_chunks_mut(TOKENS * wide));
        let keep = self.keep_scale();
        let finish = |sums: &[f32], (h, scaled): (&mut [f32], &mut [T])| {
            let rows = sums.chunks_exact(rank.next_multiple_of(WIDTH));
            for (sums, (h, scaled)) in rows.zip(h.chunks_exact_mut(rank).zip(scaled.chunks_exact_mut(wide))) {
                h.iter_mut().zip(sums).for_each(|(h, sum)| *h = keep * sum);
                scale(h, scaled);
            }
        };
        let outputs = outputs.0.zip(outputs.1);
        let wanted = rank;
        T::with_kernel(Tall { rows: x, cols: input, mask: self.mask(), right, wanted, outputs, finish: &finish });
        (h, scaled)
    }

    /// `shape` is T, in, out.
    pub(super) fn backward<T: Factor>(&self, x: &[T], h: &[f32], dy: &[T], shape: [usize; 3]) -> Gradients<T> {
        T::with_kernel(Backward { branch: self, x, h, dy, shape })
    }
}

/// `(mask ∘ rows)·right` over blocks of rows, each of which is given to `finish`, in rows of whole panels of which the wanted
/// columns count, with its part of `outputs`.
struct Tall<'a, T, O, F> {
    rows: &'a [T],
    cols: usize,
    mask: Option<Mask>,
    right: Right<'a, T>,
    /// Columns of the product that are wanted, the first ones.
    wanted: usize,
    outputs: O,
    finish: &'a F,
}

impl<T: Factor, O, F> WithKernel<T> for Tall<'_, T, O, F>
where
    O: IndexedParallelIterator,
    F: Fn(&[f32], O::Item) + Sync,
{
    type Output = ();

    fn run<K: Kernel>(self, kernel: K)
    where
        T: Operand<K::Number>,
    {
        let Self { rows, cols, mask, right, wanted, outputs, finish } = self;
        let width = right.shape().1.next_multiple_of(WIDTH);
        scratch::with(right.packed_len::<K>(), |room: &mut [K::Number]| {
            let panels = right.pack(kernel, room);
            let blocks = rows.par_chunks(TOKENS * cols).enumerate().zip(outputs);
            blocks.with_max_len(1).for_each(|((i, rows), outputs)| {
                let _ready = kernel.hold();
                let count = rows.len() / cols;
                let multiply = |rows: &[T]| {
                    let rows = Rows { data: rows, stride: cols, k: cols };
                    T::with_rows(&[rows], count, K::DEPTH, Threads::One, |rows| {
                        scratch::with(count * width, |sums: &mut [f32]| {
                            let out = Out { values: &mut *sums, stride: width };
                            panels.multiply(kernel, &rows[0], count, 0, 0..wanted, out, Old::Overwrite);
                            finish(sums, outputs);
                        });
                    });
                };
                let Some(mask) = mask else { return multiply(rows) };
                scratch::with(rows.len(), |masked: &mut [T]| {
                    mask.zero((i * TOKENS * cols) as u64, rows, masked);
                    multiply(masked);
                });
            });
        });
    }
}

struct Backward<'a, 'b, T> {
    branch: &'a Branch<'b>,
    x: &'a [T],
    h: &'a [f32],
    dy: &'a [T],
    shape: [usize; 3],
}

impl<T: Factor> WithKernel<T> for Backward<'_, '_, T> {
    type Output = Gradients<T>;

    fn run<K: Kernel>(self, kernel: K) -> Gradients<T>
    where
        T: Operand<K::Number>,
    {
        let Self { branch, x, h, dy, shape: [t, input, out] } = self;
        let (rank, wide) = (branch.rank, branch.wide_rank::<T>());
        let mut g = unspecified::numbers::<T>(t * wide);
        // h and g transposed, block by block.
        let blocks = t.div_ceil(TOKENS);
        let left = || unspecified::numbers::<K::Number>(blocks * rank * TOKENS);
        let (mut h_left, mut g_left) = (left(), left());
        let outputs = g.par_chunks_mut(TOKENS * wide).zip(h.par_chunks(TOKENS * rank));
        let outputs = outputs.zip(g_left.par_chunks_mut(rank * TOKENS).zip(h_left.par_chunks_mut(rank * TOKENS)));
        let scale = branch.scale * branch.keep_scale();
        let b = branch.b::<T>(out);
        let right = Right::Plain(Source::dense(&b, out, wide));
        type Blocks<'o, T, N> = ((&'o mut [T], &'o [f32]), (&'o mut [N], &'o mut [N]));
        let finish = |sums: &[f32], ((g, h), (g_left, h_left)): Blocks<T, K::Number>| {
            let count = g.len() / wide;
            let rows = sums.chunks_exact(wide.next_multiple_of(WIDTH)).zip(h.chunks_exact(rank));
            for (j, ((sums, h), g)) in rows.zip(g.chunks_exact_mut(wide)).enumerate() {
                for i in 0..rank {
                    g[i] = T::of(scale * sums[i]);
                    g_left[i * TOKENS + j] = K::Number::of(g[i].get());
                    h_left[i * TOKENS + j] = K::Number::of(T::of(h[i]).get());
                }
                g[rank..].fill(T::of(0.));
            }
            for left in [g_left, h_left] {
                left.chunks_exact_mut(TOKENS).for_each(|left| left[count..].fill(K::Number::of(0.)));
            }
        };
        Tall { rows: dy, cols: out, mask: None, right, wanted: rank, outputs, finish: &finish }.run(kernel);

        // Blocks of columns of dB's transpose, and of dA.
        let columns = |cols: usize| (0..cols).step_by(COLUMNS).map(move |first| first..(first + COLUMNS).min(cols));
        let down = Wide { kernel, left: &h_left, rank, right: dy, cols: out, t, mask: None };
        let up = Wide { left: &g_left, right: x, cols: input, mask: branch.mask(), ..down };
        let (mut da, mut db) = (unspecified::numbers::<f32>(rank * input), unspecified::numbers::<f32>(out * rank));
        enum Part<'o> {
            /// The same columns of each row.
            Da(Vec<&'o mut [f32]>),
            Db(&'o mut [f32]),
        }
        let mut da_parts: Vec<_> = columns(input).map(|_| Vec::with_capacity(rank)).collect();
        for row in da.chunks_exact_mut(input) {
            da_parts.iter_mut().zip(row.chunks_mut(COLUMNS)).for_each(|(part, row)| part.push(row));
        }
        let db_tasks = columns(out).zip(db.chunks_mut(COLUMNS * rank).map(Part::Db));
        let da_tasks = columns(input).zip(da_parts.into_iter().map(Part::Da));
        let tasks: Vec<_> = db_tasks.chain(da_tasks).collect();
        tasks.into_par_iter().with_max_len(1).for_each(|(columns, part)| {
            scratch::with(rank * COLUMNS, |sums: &mut [f32]| match part {
                Part::Da(rows) => {
                    up.multiply(columns, sums);
                    rows.into_iter()
                        .zip(sums.chunks_exact(COLUMNS))
                        .for_each(|(da, sums)| da.copy_from_slice(&sums[..da.len()]));
                }
                Part::Db(db) => {
                    down.multiply(columns, sums);
                    for (j, db) in db.chunks_exact_mut(rank).enumerate() {
                        let column = sums[j..].iter().step_by(COLUMNS);
                        db.iter_mut().zip(column).for_each(|(db, sum)| *db = branch.scale * sum);
                    }
                }
            });
        });
        Gradients { da, db, g }
    }
}

/// `left·(mask ∘ right)` for the few rows of `left`, which lies in blocks of `[rank, TOKENS]`, and `right` `[T, cols]`.
#[derive(Clone, Copy)]
struct Wide<'a, T, K: Kernel> {
    kernel: K,
    left: &'a [K::Number],
    rank: usize,
    right: &'a [T],
    cols: usize,
    t: usize,
    mask: Option<Mask>,
}

impl<T: Factor + Operand<K::Number>, K: Kernel> Wide<'_, T, K> {
    /// `columns` of it to `sums`, in rows of [`COLUMNS`]; what stands after the last column is unspecified.
    fn multiply(&self, columns: Range<usize>, sums: &mut [f32]) {
        let _ready = self.kernel.hold();
        let (t, cols, width) = (self.t, self.cols, columns.len());
        let mut pack = |values: &[T], stride: usize| {
            let right = Right::Plain(Source::strided(Values::Dense(values), t, width, stride));
            scratch::with(right.packed_len::<K>(), |room: &mut [K::Number]| {
                self.sum(right.pack(self.kernel, room), width, sums);
            })
        };
        let values = &self.right[columns.start.min(self.right.len())..];
        let Some(mask) = self.mask else { return pack(values, cols) };
        scratch::with(t * width, |masked: &mut [T]| {
            mask.zero_rows([columns.start, cols], values, masked, width);
            pack(masked, width)
        })
    }

    fn sum(&self, right: Panels<K::Number>, width: usize, sums: &mut [f32]) {
        if self.t == 0 {
            sums.fill(0.);
        }
        for (i, left) in self.left.chunks_exact(self.rank * TOKENS).enumerate() {
            let tokens = TOKENS.min(self.t - i * TOKENS);
            let left = Rows { data: left, stride: TOKENS, k: tokens.next_multiple_of(K::DEPTH) };
            let out = Out { values: sums, stride: COLUMNS };
            let old = if i == 0 { Old::Overwrite } else { Old::Add };
            right.multiply(self.kernel, &left, self.rank, i * TOKENS, 0..width, out, old);
        }
    }
}
