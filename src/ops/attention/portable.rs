//! The op in candle's tensor operations: any device, any float type. Arguments and results as in the parent module.
//!
//! The scores of one sequence at a time exist while they are used. Query heads that share a key head are stacked, so
//! that a product over all heads of a sequence is one batched product over the key heads.

use super::{Backward, CachedSequence, Heads, Saved};
use crate::error::Result;
use candle_core::{D, DType, Tensor};

/// See [`super::forward`].
pub fn forward(q: &Tensor, k: &Tensor, v: &Tensor, cu_seqlens: &[usize], heads: &Heads) -> Result<(Tensor, Saved)> {
    let (mut o, mut lse) = (Vec::new(), Vec::new());
    for (start, len) in sequences(cu_seqlens) {
        let of = |x: &Tensor| x.narrow(0, start, len);
        let (o_sequence, lse_sequence) = attend(&of(q)?, &of(k)?, &of(v)?, heads)?;
        o.push(o_sequence);
        lse.push(lse_sequence);
    }
    if o.is_empty() {
        return Ok((q.zeros_like()?, Saved { lse: Tensor::zeros((0, heads.n_heads), wide(q), q.device())? }));
    }
    Ok((Tensor::cat(&o, 0)?, Saved { lse: Tensor::cat(&lse, 0)? }))
}

/// See [`super::backward`].
pub fn backward(inputs: &Backward, cu_seqlens: &[usize], heads: &Heads) -> Result<(Tensor, Tensor, Tensor)> {
    let Backward { q, k, v, .. } = *inputs;
    let (mut dq, mut dk, mut dv) = (Vec::new(), Vec::new(), Vec::new());
    for (start, len) in sequences(cu_seqlens) {
        let [dq_sequence, dk_sequence, dv_sequence] = backward_sequence(inputs, start, len, heads)?;
        dq.push(dq_sequence);
        dk.push(dk_sequence);
        dv.push(dv_sequence);
    }
    if dq.is_empty() {
        return Ok((q.zeros_like()?, k.zeros_like()?, v.zeros_like()?));
    }
    Ok((Tensor::cat(&dq, 0)?, Tensor::cat(&dk, 0)?, Tensor::cat(&dv, 0)?))
}

/// See [`super::cached`].
pub fn cached(q: &Tensor, sequences: &[CachedSequence], heads: &Heads) -> Result<Tensor> {
    let mut o = Vec::new();
    for CachedSequence { rows, k, v, len } in sequences.iter().filter(|s| !s.rows.is_empty()) {
        let q = q.narrow(0, rows.start, rows.len())?;
        o.push(attend(&q, &k.narrow(0, 0, *len)?, &v.narrow(0, 0, *len)?, heads)?.0);
    }
    if o.is_empty() { Ok(q.zeros_like()?) } else { Ok(Tensor::cat(&o, 0)?) }
}

/// Start and length of each sequence that has tokens.
fn sequences(cu_seqlens: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    cu_seqlens.windows(2).map(|pair| (pair[0], pair[1] - pair[0])).filter(|(_, len)| *len > 0)
}

/// One sequence, whose queries belong to the last of its keys. Returns the output and the log-sum-exp.
fn attend(q: &Tensor, k: &Tensor, v: &Tensor, heads: &Heads) -> Result<(Tensor, Tensor)> {
    let new = q.dim(0)?;
    let scores = scores(&stacked(q, heads)?, &stacked(k, heads)?, new, heads)?;
    let max = scores.max_keepdim(D::Minus1)?;
    let exp = scores.broadcast_sub(&max)?.exp()?;
    let sum = exp.sum_keepdim(D::Minus1)?;
    let lse = (max + sum.log()?)?.reshape((heads.n_heads, new))?.t()?.contiguous()?;
    let p = stacked_scores(&exp.broadcast_div(&sum)?, heads)?.to_dtype(q.dtype())?;
    Ok((unstacked(&p.matmul(&stacked(v, heads)?)?, new)?, lse))
}

fn backward_sequence(inputs: &Backward, start: usize, len: usize, heads: &Heads) -> Result<[Tensor; 3]> {
    let Backward { q, k, v, o, lse, d_o } = *inputs;
    let (dtype, wide) = (q.dtype(), wide(q));
    let of = |x: &Tensor| x.narrow(0, start, len);
    let per_head = |x: Tensor| x.t()?.reshape((heads.n_heads, len, 1));
    let delta = (of(d_o)?.to_dtype(wide)? * of(o)?.to_dtype(wide)?)?;
    let delta = per_head(delta.reshape((len, heads.n_heads, heads.head_dim))?.sum(D::Minus1)?)?;
    let [q, k, v, d_o] =
        [stacked(&of(q)?, heads)?, stacked(&of(k)?, heads)?, stacked(&of(v)?, heads)?, stacked(&of(d_o)?, heads)?];

    let p = scores(&q, &k, len, heads)?.broadcast_sub(&per_head(of(lse)?)?)?.exp()?;
    let dp = d_o.matmul(&v.t()?)?.to_dtype(wide)?.reshape(p.shape())?;
    let ds = ((&p * dp.broadcast_sub(&delta)?)? * heads.scale())?;
    let (p, ds) = (stacked_scores(&p, heads)?.to_dtype(dtype)?, stacked_scores(&ds, heads)?.to_dtype(dtype)?);
    // Stacked rows are those of all query heads of a group, so these products sum over the group.
    let dv = p.t()?.contiguous()?.matmul(&d_o)?;
    let dk = ds.t()?.contiguous()?.matmul(&q)?;
    let dq = ds.matmul(&k)?;
    Ok([unstacked(&dq, len)?, unstacked(&dk, len)?, unstacked(&dv, len)?])
}

/// `[L, n·d]` to `[n_kv_heads, n / n_kv_heads·L, d]`.
fn stacked(x: &Tensor, heads: &Heads) -> Result<Tensor> {
    let (len, width) = x.dims2()?;
    let (n_kv, d) = (heads.n_kv_heads, heads.head_dim);
    let group = width / (n_kv * d);
    Ok(x.reshape((len, n_kv, group, d))?.permute((1, 2, 0, 3))?.contiguous()?.reshape((n_kv, group * len, d))?)
}

/// The opposite of [`stacked`], for `len` rows.
fn unstacked(x: &Tensor, len: usize) -> Result<Tensor> {
    let (n_kv, rows, d) = x.dims3()?;
    let group = rows / len;
    Ok(x.reshape((n_kv, group, len, d))?.permute((2, 0, 1, 3))?.contiguous()?.reshape((len, n_kv * group * d))?)
}

/// The scores of `new` queries per head, scaled and masked, `[n_heads, new, keys]`, wide; from stacked q and k.
fn scores(q: &Tensor, k: &Tensor, new: usize, heads: &Heads) -> Result<Tensor> {
    let keys = k.dim(1)?;
    let scores = (q.matmul(&k.t()?)?.to_dtype(wide(q))? * heads.scale())?.reshape((heads.n_heads, new, keys))?;
    let key = Tensor::arange(0, keys as u32, q.device())?;
    let query = key.narrow(0, keys - new, new)?.unsqueeze(1)?;
    let visible = key.unsqueeze(0)?.broadcast_le(&query)?.broadcast_as(scores.shape())?;
    let hidden = Tensor::full(f32::NEG_INFINITY, (), q.device())?.to_dtype(wide(q))?.broadcast_as(scores.shape())?;
    Ok(visible.where_cond(&scores, &hidden)?)
}

/// `[n_heads, new, keys]` to `[n_kv_heads, group·new, keys]`.
fn stacked_scores(x: &Tensor, heads: &Heads) -> Result<Tensor> {
    let (_, new, keys) = x.dims3()?;
    Ok(x.reshape((heads.n_kv_heads, heads.group() * new, keys))?)
}

fn wide(x: &Tensor) -> DType {
    if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 }
}
