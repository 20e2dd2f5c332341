//! One decoder block, forward and backward, composed by hand from the operations.
//!
//! ```text
//! n1 = rms_norm(x)            q, k, v = n1·Wqᵀ, n1·Wkᵀ, n1·Wvᵀ       q, k = rope(q, k)
//! o  = attention(q, k, v)     h = x + o·Woᵀ
//! n2 = rms_norm(h)            gate, up = n2·Wgᵀ, n2·Wuᵀ
//! a  = swiglu(gate, up)       y = h + a·Wdᵀ
//! ```
//!
//! Backward reads this upwards. It keeps x, q, k, v, o, h, gate and up; n1, n2 and a are cheap to compute again.

use super::linear::{self, Linear};
use super::parameters::{Gradients, ParameterId};
use super::prefix::Copies;
use crate::Result;
use crate::ops::attention::{self, CachedSequence, Heads};
use crate::ops::rope::RopeTable;
use crate::ops::{residual, rms_norm, rope, swiglu};
use candle_core::Tensor;

/// An RMSNorm's scale.
#[derive(Debug)]
pub struct Norm {
    /// `[H]`
    pub weight: Tensor,
    pub weight_id: Option<ParameterId>,
    pub eps: f64,
}

impl Norm {
    pub(super) fn forward(&self, x: &Tensor) -> Result<(Tensor, rms_norm::Saved)> {
        rms_norm::forward(x, &self.weight, self.eps)
    }

    pub(super) fn backward(
        &self,
        x: &Tensor,
        saved: &rms_norm::Saved,
        dy: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let (dx, dw) = rms_norm::backward(x, &self.weight, saved, dy, self.weight_id.is_some())?;
        if let (Some(id), Some(dw)) = (self.weight_id, dw) {
            gradients.add(id, dw)?;
        }
        Ok(dx)
    }
}

/// What a micro-batch is to every block.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Where each sequence begins, and T; with `copies`, in their layout.
    pub cu_seqlens: &'a [usize],
    /// Where the rows of a shared prefix stand for attention.
    pub copies: Option<&'a Copies>,
    /// `[T]`
    pub positions: &'a [u32],
    pub rope: &'a RopeTable,
    /// The dropout stream of this micro-batch; `None` when not training.
    pub dropout_seed: Option<u64>,
}

/// The modules of a block, under transformers' names.
#[derive(Debug)]
pub struct Block {
    pub index: usize,
    pub heads: Heads,
    pub input_layernorm: Norm,
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    pub post_attention_layernorm: Norm,
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
}

/// What backward needs of a forward pass. Shapes: `[T, H]`, but q, k, v, o by heads and gate, up `[T, I]`.
#[derive(Debug)]
pub struct Saved {
    x: Tensor,
    norm1: rms_norm::Saved,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    qkv: [linear::Saved; 3],
    o: Tensor,
    attention: attention::Saved,
    o_proj: linear::Saved,
    h: Tensor,
    norm2: rms_norm::Saved,
    gate: Tensor,
    up: Tensor,
    gate_up: [linear::Saved; 2],
    down: linear::Saved,
}

impl Block {
    /// `x` `[T, H]` to `y` `[T, H]`.
    pub fn forward(&self, x: &Tensor, ctx: &Context) -> Result<(Tensor, Saved)> {
        let (a, saved) = self.until_down(x, ctx)?;
        let (projected, down) = self.down_proj.forward(&a, self.seed(ctx, 6))?;
        let y = residual::add(&saved.h, &projected)?;
        Ok((y, Saved { down, ..saved }))
    }

    /// What [`Block::forward`] saves, without `y`: the last product, a quarter of the block's, is left out.
    pub fn saved(&self, x: &Tensor, ctx: &Context) -> Result<Saved> {
        let (a, saved) = self.until_down(x, ctx)?;
        let down = self.down_proj.saved(&a, self.seed(ctx, 6))?;
        Ok(Saved { down, ..saved })
    }

    /// `a` `[T, I]`, and all that is saved but what `down` saves.
    fn until_down(&self, x: &Tensor, ctx: &Context) -> Result<(Tensor, Saved)> {
        let seed = |module| self.seed(ctx, module);
        let (n1, norm1) = self.input_layernorm.forward(x)?;
        let (q, q_saved) = self.q_proj.forward(&n1, seed(0))?;
        let (k, k_saved) = self.k_proj.forward(&n1, seed(1))?;
        let (v, v_saved) = self.v_proj.forward(&n1, seed(2))?;
        drop(n1);
        let (q, k) = rope::forward(&q, &k, ctx.rope, ctx.positions)?;
        let (o, attention) = self.attend(&q, &k, &v, ctx)?;
        let (projected, o_proj) = self.o_proj.forward(&o, seed(3))?;
        let h = residual::add(x, &projected)?;
        let (n2, norm2) = self.post_attention_layernorm.forward(&h)?;
        let (gate, gate_saved) = self.gate_proj.forward(&n2, seed(4))?;
        let (up, up_saved) = self.up_proj.forward(&n2, seed(5))?;
        drop(n2);
        let a = swiglu::forward(&gate, &up)?;
        let saved = Saved {
            x: x.clone(),
            norm1,
            q,
            k,
            v,
            qkv: [q_saved, k_saved, v_saved],
            o,
            attention,
            o_proj,
            h,
            norm2,
            gate,
            up,
            gate_up: [gate_saved, up_saved],
            down: linear::Saved::default(),
        };
        Ok((a, saved))
    }

    /// `dy` `[T, H]` to dx `[T, H]`; gradients of what is trained are added to `gradients`.
    ///
    /// With `need_dx` false (nothing below is trained) the products with Wq, Wk, Wv are left out and `None` is returned.
    pub fn backward(
        &self,
        saved: Saved,
        dy: &Tensor,
        ctx: &Context,
        need_dx: bool,
        gradients: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        let seed = |module| self.seed(ctx, module);
        let Saved { x, norm1, q, k, v, qkv, o, attention, o_proj, h, norm2, gate, up, gate_up, down } = saved;

        // y = h + down(swiglu(gate, up))
        let a = swiglu::forward(&gate, &up)?;
        let da = some(self.down_proj.backward(&a, &down, dy, seed(6), true, gradients)?)?;
        drop(a);
        let (dgate, dup) = swiglu::backward(&gate, &up, &da)?;
        drop((da, gate, up));
        let (n2, _) = self.post_attention_layernorm.forward(&h)?;
        let dn2 = some(self.up_proj.backward(&n2, &gate_up[1], &dup, seed(5), true, gradients)?)?;
        drop(dup);
        let through_gate = some(self.gate_proj.backward(&n2, &gate_up[0], &dgate, seed(4), true, gradients)?)?;
        let dn2 = residual::add(&dn2, &through_gate)?;
        drop((n2, dgate));
        let dh = residual::add(dy, &self.post_attention_layernorm.backward(&h, &norm2, &dn2, gradients)?)?;
        drop((h, dn2));

        // h = x + o_proj(attention(rope(q), rope(k), v))
        let d_o = some(self.o_proj.backward(&o, &o_proj, &dh, seed(3), true, gradients)?)?;
        let (dq, dk, dv) = self.attend_backward([q, k, v, o], &attention, d_o, ctx)?;
        let (dq, dk) = rope::backward(&dq, &dk, ctx.rope, ctx.positions)?;
        let (n1, _) = self.input_layernorm.forward(&x)?;
        let from_q = self.q_proj.backward(&n1, &qkv[0], &dq, seed(0), need_dx, gradients)?;
        let from_k = self.k_proj.backward(&n1, &qkv[1], &dk, seed(1), need_dx, gradients)?;
        let from_v = self.v_proj.backward(&n1, &qkv[2], &dv, seed(2), need_dx, gradients)?;
        if !need_dx {
            return Ok(None);
        }
        let dn1 = residual::add(&residual::add(&some(from_q)?, &some(from_k)?)?, &some(from_v)?)?;
        Ok(Some(residual::add(&dh, &self.input_layernorm.backward(&x, &norm1, &dn1, gradients)?)?))
    }

    /// Attention of the batch's rows, each of which may stand for several tokens.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, ctx: &Context) -> Result<(Tensor, attention::Saved)> {
        let Some(copies) = ctx.copies else { return attention::forward(q, k, v, ctx.cu_seqlens, &self.heads) };
        let [q, k, v] = [copies.spread.apply(q)?, copies.spread.apply(k)?, copies.spread.apply(v)?];
        let (o, saved) = attention::forward(&q, &k, &v, ctx.cu_seqlens, &self.heads)?;
        Ok((copies.first.apply(&o)?, saved))
    }

    /// The gradients of q, k and v.
    fn attend_backward(
        &self,
        [q, k, v, o]: [Tensor; 4],
        saved: &attention::Saved,
        d_o: Tensor,
        ctx: &Context,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let backward =
            |[q, k, v, o]: &[Tensor; 4], d_o| attention::backward(q, k, v, o, saved, d_o, ctx.cu_seqlens, &self.heads);
        let Some(copies) = ctx.copies else { return backward(&[q, k, v, o], &d_o) };
        let spread = |x| copies.spread.apply(x);
        let spread = [spread(&q)?, spread(&k)?, spread(&v)?, spread(&o)?];
        let (dq, dk, dv) = backward(&spread, &copies.place.apply(&d_o)?)?;
        // Only the first copy of a query has an output that is used, so the others have no gradient.
        Ok((copies.first.apply(&dq)?, copies.sum.apply(&dk)?, copies.sum.apply(&dv)?))
    }

    /// `x` `[N, H]` of new tokens to `y` `[N, H]`, with keys and values of earlier tokens from the caches.
    ///
    /// `store(k, v)` puts the new tokens' k and v `[N, n_kv·head_dim]` into the caches and lends them back.
    pub(super) fn infer<'c>(
        &self,
        x: &Tensor,
        ctx: &Context,
        store: impl FnOnce(&Tensor, &Tensor) -> Result<Vec<CachedSequence<'c>>>,
    ) -> Result<Tensor> {
        let (n1, _) = self.input_layernorm.forward(x)?;
        let (q, _) = self.q_proj.forward(&n1, None)?;
        let (k, _) = self.k_proj.forward(&n1, None)?;
        let (v, _) = self.v_proj.forward(&n1, None)?;
        let (q, k) = rope::forward(&q, &k, ctx.rope, ctx.positions)?;
        let o = attention::cached(&q, &store(&k, &v)?, &self.heads)?;
        let h = residual::add(x, &self.o_proj.forward(&o, None)?.0)?;
        let (n2, _) = self.post_attention_layernorm.forward(&h)?;
        let (gate, _) = self.gate_proj.forward(&n2, None)?;
        let (up, _) = self.up_proj.forward(&n2, None)?;
        let (down, _) = self.down_proj.forward(&swiglu::forward(&gate, &up)?, None)?;
        residual::add(&h, &down)
    }

    /// The linear modules in the order of their names in a checkpoint's layer.
    pub fn linears(&self) -> [&Linear; 7] {
        [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj, &self.gate_proj, &self.up_proj, &self.down_proj]
    }

    /// The same, to change.
    pub fn linears_mut(&mut self) -> [&mut Linear; 7] {
        [
            &mut self.q_proj,
            &mut self.k_proj,
            &mut self.v_proj,
            &mut self.o_proj,
            &mut self.gate_proj,
            &mut self.up_proj,
            &mut self.down_proj,
        ]
    }

    /// The two norms, to change.
    pub fn norms_mut(&mut self) -> [(&'static str, &mut Norm); 2] {
        [
            ("input_layernorm", &mut self.input_layernorm),
            ("post_attention_layernorm", &mut self.post_attention_layernorm),
        ]
    }

    /// A dropout stream of its own for each module of each block of each micro-batch.
    fn seed(&self, ctx: &Context, module: u64) -> Option<u64> {
        ctx.dropout_seed.map(|seed| mix(seed ^ (((self.index as u64) << 8) | module)))
    }
}

/// A gradient that was asked for.
fn some(gradient: Option<Tensor>) -> Result<Tensor> {
    gradient.ok_or_else(|| crate::Error::Shape { op: "block", what: "an operation left out a gradient".into() })
}

/// SplitMix64's finaliser (Steele, Lea and Flood, 2014).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
