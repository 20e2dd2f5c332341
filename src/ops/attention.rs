//! Causal attention of grouped heads within each sequence.
//!
//! Per sequence and head, with q, k, v `[L, d]`, c = 1/√d, and a query head h using key head h / (n_heads / n_kv_heads):
//!
//! ```text
//! S = c·q·kᵀ, -∞ above the diagonal        lse = log Σⱼ exp Sᵢⱼ          one number per token and head, kept
//! P = exp(S - lse)                         o = P·v
//!
//! dv = Pᵀ·do                               D = rowsum(do ∘ o), which is rowsum(P ∘ dP)
//! dP = do·vᵀ                               dS = P ∘ (dP - D)
//! dq = c·dS·k                              dk = c·dSᵀ·q
//! ```
//!
//! dk and dv are summed over the query heads that share a key head. The backward computes P again, so nothing of size
//! L×L is kept; the fused form never has more than a block of it. Sequences lie one after another, without padding.
//! Source: Dao et al., arXiv:2205.14135 (FlashAttention); Ainslie et al., arXiv:2305.13245 (grouped heads).

use crate::error::{Error, Result};
use crate::ops::cpu;
use candle_core::Tensor;
use std::ops::Range;

pub mod portable;

/// The heads that a row of queries, keys or values is divided into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Heads of q.
    pub n_heads: usize,
    /// Heads of k and v; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
}

impl Heads {
    /// The factor on the scores, 1/√head_dim.
    pub(in crate::ops) fn scale(&self) -> f64 {
        1. / (self.head_dim as f64).sqrt()
    }

    /// Query heads per key head.
    pub(in crate::ops) fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Elements of a row of q.
    pub(in crate::ops) fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Elements of a row of k or v.
    pub(in crate::ops) fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }
}

/// What the backward needs besides inputs and output.
#[derive(Clone, Debug)]
pub struct Saved {
    /// log Σ exp of each query's scores, `[T, n_heads]` f32 (f64 where q is): 4·T·n_heads bytes.
    pub lse: Tensor,
}

/// A sequence whose keys and values are kept from one call to the next.
#[derive(Clone, Debug)]
pub struct CachedSequence<'a> {
    /// This sequence's rows of q.
    pub rows: Range<usize>,
    /// `[capacity, n_kv_heads·head_dim]`.
    pub k: &'a Tensor,
    /// `[capacity, n_kv_heads·head_dim]`.
    pub v: &'a Tensor,
    /// The rows of `k` and `v` that are in use. The queries belong to the last `rows.len()` of them.
    pub len: usize,
}

const NAME: &str = "attention";

/// Lets each token attend to itself and to the earlier tokens of its sequence.
///
/// T = tokens of all sequences.
///
/// - `q` `[T, n_heads·head_dim]`, `k` and `v` `[T, n_kv_heads·head_dim]`, all f32, bf16 or f64
/// - `cu_seqlens` where each sequence starts, then T: `[0, l1, l1 + l2, …, T]`
/// - returns `o` `[T, n_heads·head_dim]`, type of `q`, outside candle's graph, and what the backward needs
///
/// Precision: products in the type of `q`, softmax in f32 (f64 for f64).
/// Errors: [`Error::Shape`] if shapes, heads and `cu_seqlens` do not fit together.
///
/// ```
/// # use ferrotune::{candle_core::{Device, Tensor}, ops::attention::{self, Heads}};
/// let heads = Heads { n_heads: 1, n_kv_heads: 1, head_dim: 1 };
/// let q = Tensor::zeros((3, 1), candle_core::DType::F32, &Device::Cpu)?; // all scores are equal
/// let v = Tensor::new(&[[1f32], [3.], [7.]], &Device::Cpu)?;
/// let (o, _) = attention::forward(&q, &q, &v, &[0, 2, 3], &heads)?; // two tokens, then one
/// assert_eq!(o.to_vec2::<f32>()?, [[1.], [2.], [7.]]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn forward(q: &Tensor, k: &Tensor, v: &Tensor, cu_seqlens: &[usize], heads: &Heads) -> Result<(Tensor, Saved)> {
    let (q, k, v) = (&q.detach(), &k.detach(), &v.detach());
    check(q, k, v, cu_seqlens, heads)?;
    match cpu::attention::forward(q, k, v, cu_seqlens, heads)? {
        Some(done) => Ok(done),
        None => portable::forward(q, k, v, cu_seqlens, heads),
    }
}

/// Turns `d_o`, the gradient of `o`, into those of `q`, `k` and `v`, in this order.
///
/// - `q`, `k`, `v`, `cu_seqlens`, `heads` as in the forward; `o` and `saved` from it
/// - `d_o` `[T, n_heads·head_dim]`, type of `q`
/// - returns `dq`, `dk`, `dv`, shapes and types of `q`, `k`, `v`
///
/// Precision and errors as in [`forward`].
///
/// ```
/// # use ferrotune::{candle_core::{DType, Device, Tensor}, ops::attention::{self, Heads}};
/// let heads = Heads { n_heads: 2, n_kv_heads: 1, head_dim: 4 };
/// let q = Tensor::ones((3, 8), DType::F32, &Device::Cpu)?;
/// let k = Tensor::ones((3, 4), DType::F32, &Device::Cpu)?;
/// let (o, saved) = attention::forward(&q, &k, &k, &[0, 3], &heads)?;
/// let (dq, dk, dv) = attention::backward(&q, &k, &k, &o, &saved, &o, &[0, 3], &heads)?;
/// assert_eq!((dq.dims(), dk.dims(), dv.dims()), (q.dims(), k.dims(), k.dims()));
/// // Every query's weights sum to one, so each of the 3·2 queries hands its gradient on to the values in full.
/// assert!((dv.sum_all()?.to_scalar::<f32>()? - 24.).abs() < 1e-4);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn backward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    o: &Tensor,
    saved: &Saved,
    d_o: &Tensor,
    cu_seqlens: &[usize],
    heads: &Heads,
) -> Result<(Tensor, Tensor, Tensor)> {
    let [q, k, v, o, d_o] = [q, k, v, o, d_o].map(Tensor::detach);
    let inputs = Backward { q: &q, k: &k, v: &v, o: &o, lse: &saved.lse, d_o: &d_o };
    check(&q, &k, &v, cu_seqlens, heads)?;
    if [o.dims(), d_o.dims()] != [q.dims(); 2] || saved.lse.dims() != [q.dim(0)?, heads.n_heads] {
        let (q, o, d_o, lse) = (q.dims(), o.dims(), d_o.dims(), saved.lse.dims());
        return Err(shape(format!("q is {q:?}, o {o:?}, its gradient {d_o:?}, the saved sums {lse:?}")));
    }
    match cpu::attention::backward(&inputs, cu_seqlens, heads)? {
        Some(done) => Ok(done),
        None => portable::backward(&inputs, cu_seqlens, heads),
    }
}

/// The tensors that the backward reads; see [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<'a> {
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub v: &'a Tensor,
    pub o: &'a Tensor,
    pub lse: &'a Tensor,
    pub d_o: &'a Tensor,
}

/// Attention of new tokens to all earlier ones, whose keys and values are in a cache; for inference only.
///
/// A sequence may bring one new token (decoding) or many (its prompt); their keys and values are already in the cache.
///
/// - `q` `[T, n_heads·head_dim]`, f32, bf16 or f64: the new tokens of all sequences
/// - `sequences` their `rows` follow one another and cover `q`
/// - returns `o` `[T, n_heads·head_dim]`, type of `q`
///
/// Precision as in [`forward`]. Errors: [`Error::Shape`] if the shapes, rows and lengths do not fit together.
///
/// ```
/// # use ferrotune::{candle_core::{Device, Tensor}, ops::attention::{self, CachedSequence, Heads}};
/// let heads = Heads { n_heads: 1, n_kv_heads: 1, head_dim: 1 };
/// let k = Tensor::new(&[[0f32], [0.], [9.]], &Device::Cpu)?; // the third row is not in use yet
/// let v = Tensor::new(&[[1f32], [3.], [9.]], &Device::Cpu)?;
/// let q = Tensor::new(&[[1f32]], &Device::Cpu)?;
/// let o = attention::cached(&q, &[CachedSequence { rows: 0..1, k: &k, v: &v, len: 2 }], &heads)?;
/// assert_eq!(o.to_vec2::<f32>()?, [[2.]]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn cached(q: &Tensor, sequences: &[CachedSequence], heads: &Heads) -> Result<Tensor> {
    let q = &q.detach();
    check_cached(q, sequences, heads)?;
    match cpu::attention::cached(q, sequences, heads)? {
        Some(o) => Ok(o),
        None => portable::cached(q, sequences, heads),
    }
}

/// The op as a node of candle's graph, with gradients to `q`, `k` and `v`.
///
/// Arguments, result and errors as in [`forward`].
pub fn apply(q: &Tensor, k: &Tensor, v: &Tensor, cu_seqlens: &[usize], heads: &Heads) -> Result<Tensor> {
    let (o, saved) = forward(q, k, v, cu_seqlens, heads)?;
    let [q_, k_, v_] = [q, k, v].map(Tensor::detach);
    let (o_, cu_seqlens, heads) = (o.clone(), cu_seqlens.to_vec(), *heads);
    super::graph::attach(&[q, k, v], o, move |d_o| {
        let (dq, dk, dv) = backward(&q_, &k_, &v_, &o_, &saved, d_o, &cu_seqlens, &heads)?;
        Ok(vec![Some(dq), Some(dk), Some(dv)])
    })
}

fn check(q: &Tensor, k: &Tensor, v: &Tensor, cu_seqlens: &[usize], heads: &Heads) -> Result<()> {
    check_heads(heads)?;
    let t = q.dims().first().copied().unwrap_or_default();
    let (q_dims, kv_dims) = ([t, heads.q_width()], [t, heads.kv_width()]);
    if q.dims() != q_dims || k.dims() != kv_dims || v.dims() != kv_dims {
        return Err(shape(format!("q is {:?}, k {:?} and v {:?}, with {heads:?}", q.dims(), k.dims(), v.dims())));
    }
    if cu_seqlens.first() != Some(&0) || cu_seqlens.last() != Some(&t) || !cu_seqlens.is_sorted() {
        return Err(shape(format!("`cu_seqlens` does not rise from 0 to {t}: {cu_seqlens:?}")));
    }
    Ok(())
}

fn check_cached(q: &Tensor, sequences: &[CachedSequence], heads: &Heads) -> Result<()> {
    check_heads(heads)?;
    let t = q.dims().first().copied().unwrap_or_default();
    if q.dims() != [t, heads.q_width()] {
        return Err(shape(format!("q is {:?}, with {heads:?}", q.dims())));
    }
    let mut end = 0;
    for CachedSequence { rows, k, v, len } in sequences {
        if rows.start != end || rows.end < rows.start {
            return Err(shape(format!("rows {rows:?} of a sequence after row {end}")));
        }
        end = rows.end;
        let fits = |cache: &Tensor| matches!(cache.dims(), [rows, n] if rows >= len && *n == heads.kv_width());
        if !fits(k) || !fits(v) || rows.len() > *len {
            let (new, k, v) = (rows.len(), k.dims(), v.dims());
            return Err(shape(format!("{new} of {len} tokens are new, in caches {k:?} and {v:?}, with {heads:?}")));
        }
    }
    if end == t { Ok(()) } else { Err(shape(format!("sequences with {end} rows, q has {t}"))) }
}

fn check_heads(heads: &Heads) -> Result<()> {
    let Heads { n_heads, n_kv_heads, head_dim } = *heads;
    if n_heads > 0 && n_kv_heads > 0 && head_dim > 0 && n_heads % n_kv_heads == 0 {
        return Ok(());
    }
    Err(shape(format!("{n_heads} heads of {head_dim} elements cannot share {n_kv_heads} key heads")))
}

fn shape(what: String) -> Error {
    Error::Shape { op: NAME, what }
}
