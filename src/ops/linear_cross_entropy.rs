//! The output layer and the cross-entropy loss in one, so that the logits `[T, V]` are never held.
//!
//! Over the rows t that have a target y_t, with l_t = W·h_t the logits:
//!
//! ```text
//! loss_sum        = Σ_t  log Σ_v exp(l_tv) - l_t,y_t              count = number of those rows
//! d loss_sum / dh_t = softmax(l_t)·W - W[y_t]                     0 for the other rows
//! d loss_sum / dW_v = Σ_t  (softmax(l_t)_v - [v = y_t])·h_t       only where the method trains W
//! ```
//!
//! The gradient needs nothing but the logits, so the forward computes it while it has them, and the backward
//! multiplies by the loss's own gradient. Rows without a target cost nothing. The portable form takes rows in chunks;
//! the CPU's also goes over the vocabulary in panels with a running maximum. Source: Wijmans et al., arXiv:2411.09009.

use crate::error::{Error, Result};
use crate::ops::{cpu, graph};
use candle_core::{DType, Tensor};

/// The target of a row that does not count in the loss.
pub const IGNORE_INDEX: u32 = u32::MAX;

/// What [`forward`] computes besides the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Nothing: evaluation.
    Loss,
    /// The gradient for h: W is frozen.
    HiddenGradient,
    /// The gradients for h and W.
    HiddenAndHeadGradient,
}

/// The loss, not yet divided by anything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Output {
    /// Sum over the rows with a target, in nats.
    pub loss_sum: f64,
    /// How many rows have a target.
    pub count: usize,
}

/// The gradients of `loss_sum`.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    /// `[T, H]`, type of h.
    dh: Option<Tensor>,
    /// `[V, H]`, type of W.
    dw: Option<Tensor>,
}

const NAME: &str = "linear_cross_entropy";

/// Computes the sum of the cross-entropy of `softmax(h·Wᵀ)` and `targets`, and what of its gradients `wants` names.
///
/// - `h` `[T, H]` f32 or bf16 (f64 for tests)
/// - `w` `[V, H]`, type of `h`
/// - `targets` T token ids, [`IGNORE_INDEX`] where a row does not count
/// - returns the loss, and the gradients in `Saved` (4·T·H bytes, and 4·V·H if W's is wanted)
///
/// Precision: logits and probabilities in f32, the loss summed in f64.
/// Errors: [`Error::Shape`] if the shapes do not fit, [`Error::Data`] for a target outside the vocabulary.
///
/// ```
/// # use ferrotune::candle_core::{Device, Tensor};
/// # use ferrotune::ops::linear_cross_entropy::{self, IGNORE_INDEX, Wants};
/// let h = Tensor::new(&[[0f32, 0., 0., 0.], [1., 2., 3., 4.]], &Device::Cpu)?;
/// let w = Tensor::new(&[[1f32, 0., 0., 0.], [0., 1., 0., 0.]], &Device::Cpu)?;
/// let (loss, saved) = linear_cross_entropy::forward(&h, &w, &[1, IGNORE_INDEX], Wants::HiddenGradient)?;
/// assert!((loss.loss_sum - 2f64.ln()).abs() < 1e-6);
/// assert_eq!(loss.count, 1);
/// let (dh, _) = linear_cross_entropy::backward(saved, 1.)?;
/// assert_eq!(dh.to_vec2::<f32>()?, [[0.5, -0.5, 0., 0.], [0., 0., 0., 0.]]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn forward(h: &Tensor, w: &Tensor, targets: &[u32], wants: Wants) -> Result<(Output, Saved)> {
    check(h, w, targets)?;
    match cpu::linear_cross_entropy::forward(h, w, targets, wants)? {
        Some((output, dh, dw)) => Ok((output, Saved { dh, dw })),
        None => portable::forward(h, w, targets, wants),
    }
}

/// The gradients of `d_loss * loss_sum`: for h `[T, H]`, and for W `[V, H]` if the forward was asked for it.
///
/// Errors: [`Error::Shape`] if the forward was asked for the loss only.
pub fn backward(saved: Saved, d_loss: f64) -> Result<(Tensor, Option<Tensor>)> {
    let times = |t: Tensor| if d_loss == 1. { Ok(t) } else { t * d_loss };
    let dh = saved.dh.ok_or_else(|| shape("the forward was asked for the loss only".into()))?;
    Ok((times(dh)?, saved.dw.map(times).transpose()?))
}

/// The loss sum as a scalar f64 tensor inside candle's own graph, whose backward then gives the gradients that `wants`
/// names, and the number of rows with a target.
///
/// Errors: as [`forward`].
///
/// ```
/// # use ferrotune::candle_core::{Device, Tensor, Var};
/// # use ferrotune::ops::linear_cross_entropy::{self, Wants};
/// let h = Var::new(&[[0f32, 0., 0., 0.], [0., 0., 0., 0.]], &Device::Cpu)?;
/// let w = Tensor::new(&[[1f32, 0., 0., 0.], [0., 1., 0., 0.]], &Device::Cpu)?;
/// let (loss_sum, _) = linear_cross_entropy::apply(&h, &w, &[1, 0], Wants::HiddenGradient)?;
/// let dh = loss_sum.backward()?.get(&h).unwrap().to_vec2::<f32>()?;
/// assert_eq!(dh, [[0.5, -0.5, 0., 0.], [-0.5, 0.5, 0., 0.]]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn apply(h: &Tensor, w: &Tensor, targets: &[u32], wants: Wants) -> Result<(Tensor, usize)> {
    let (output, saved) = forward(h, w, targets, wants)?;
    let loss_sum = Tensor::new(output.loss_sum, h.device())?;
    let loss_sum = graph::attach(&[h, w], loss_sum, move |d_loss| {
        let (dh, dw) = backward(saved.clone(), d_loss.to_scalar::<f64>()?)?;
        Ok(vec![Some(dh), dw])
    })?;
    Ok((loss_sum, output.count))
}

/// The logits `h·Wᵀ` themselves, where a token has to be chosen.
///
/// - `h` `[T, H]` and `w` `[V, H]`, one type: f32 or bf16 (f64 for tests)
/// - returns `[T, V]` f32 (f64 where h is), outside candle's graph
///
/// Precision: sums in f32; on devices other than the CPU rounded to the type of `h` once.
/// Errors: [`Error::Shape`] if the shapes do not fit.
///
/// ```
/// # use ferrotune::{candle_core::{Device, Tensor}, ops::linear_cross_entropy};
/// let h = Tensor::new(&[[1f32, 2.]], &Device::Cpu)?;
/// let w = Tensor::new(&[[3f32, 0.], [0., 4.]], &Device::Cpu)?;
/// assert_eq!(linear_cross_entropy::logits(&h, &w)?.to_vec2::<f32>()?, [[3., 8.]]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn logits(h: &Tensor, w: &Tensor) -> Result<Tensor> {
    check(h, w, &vec![IGNORE_INDEX; h.dims().first().copied().unwrap_or(0)])?;
    match cpu::linear_cross_entropy::logits(h, w)? {
        Some(logits) => Ok(logits),
        None => {
            let wide = if h.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
            Ok(h.detach().matmul(&w.detach().t()?)?.to_dtype(wide)?)
        }
    }
}

fn check(h: &Tensor, w: &Tensor, targets: &[u32]) -> Result<()> {
    let (&[rows, hidden], &[vocab, width]) = (h.dims(), w.dims()) else {
        return Err(shape(format!("h is {:?} and W is {:?}, expected two matrices", h.dims(), w.dims())));
    };
    if hidden != width || hidden == 0 {
        return Err(shape(format!("h is {:?}, W is {:?}", h.dims(), w.dims())));
    }
    if targets.len() != rows {
        return Err(shape(format!("{} targets for {rows} rows", targets.len())));
    }
    match targets.iter().position(|&t| t != IGNORE_INDEX && t as usize >= vocab) {
        None => Ok(()),
        Some(row) => {
            let what = format!("target {} is outside the vocabulary of {vocab} tokens", targets[row]);
            let hint = "Check that the tokenizer is the model's own.";
            Err(Error::data(format!("token {row} of the batch"), what, hint))
        }
    }
}

fn shape(what: String) -> Error {
    Error::Shape { op: NAME, what }
}

/// The same in candle's tensor operations, for every device and float type; arguments are not checked again.
pub mod portable {
    use super::*;

    /// Logits held at a time, 32 MB in f32.
    const CHUNK: usize = 1 << 23;

    /// See [`super::forward`].
    pub fn forward(h: &Tensor, w: &Tensor, targets: &[u32], wants: Wants) -> Result<(Output, Saved)> {
        let (h, w) = (h.detach(), w.detach());
        let (dtype, device) = (h.dtype(), h.device());
        let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let (want_dh, want_dw) = (wants != Wants::Loss, wants == Wants::HiddenAndHeadGradient);
        let trained = (0..targets.len() as u32).filter(|&t| targets[t as usize] != IGNORE_INDEX).collect::<Vec<_>>();

        let mut output = Output { loss_sum: 0., count: trained.len() };
        let mut dh = if want_dh { Some(h.zeros_like()?) } else { None };
        let mut dw = if want_dw { Some(Tensor::zeros(w.shape(), wide, device)?) } else { None };
        for rows in trained.chunks((CHUNK / w.dims()[0]).clamp(16, 256)) {
            let ids = rows.iter().map(|&row| targets[row as usize]).collect::<Vec<_>>();
            let (n, ids) = (rows.len(), Tensor::new(ids, device)?);
            let rows = Tensor::new(rows, device)?;
            let h = h.index_select(&rows, 0)?;
            let logits = h.matmul(&w.t()?)?.to_dtype(wide)?;
            let max = logits.max_keepdim(1)?;
            let exp = logits.broadcast_sub(&max)?.exp()?;
            let sum = exp.sum_keepdim(1)?;
            let target = logits.gather(&ids.reshape((n, 1))?, 1)?;
            let losses = ((sum.log()? + max)? - target)?.to_dtype(DType::F64)?;
            output.loss_sum += losses.sum_all()?.to_scalar::<f64>()?;
            if let Some(sum_dh) = dh.take() {
                let p = exp.broadcast_div(&sum)?.to_dtype(dtype)?;
                let d = (p.matmul(&w)? - w.index_select(&ids, 0)?)?;
                dh = Some(sum_dh.index_add(&rows, &d, 0)?);
                if let Some(sum_dw) = dw.take() {
                    let sum_dw = (sum_dw + p.t()?.matmul(&h)?.to_dtype(wide)?)?;
                    dw = Some(sum_dw.index_add(&ids, &h.to_dtype(wide)?.neg()?, 0)?);
                }
            }
        }
        let dw = dw.map(|dw| dw.to_dtype(w.dtype())).transpose()?;
        Ok((output, Saved { dh, dw }))
    }
}
