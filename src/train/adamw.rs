//! AdamW: Adam with weight decay apart from the gradient.
//!
//! For step `t` (from 1), rate `lr`, parameter `p`, gradient `g` and the moments `m`, `v` (both start at 0):
//!
//! ```text
//! p ← p · (1 - lr·weight_decay)
//! m ← m + (1-β1) · (g - m)
//! v ← β2·v + (1-β2) · g·g
//! p ← p - lr/(1-β1ᵗ) · m / (√v / √(1-β2ᵗ) + ε)
//! ```
//!
//! Every scalar is computed in f64 and rounded to f32 once; every tensor operation rounds to f32 in the order above, with
//! no fused multiply-add, so that the portable form on the CPU and the fused one give the same bits on every instruction
//! set.
//!
//! Sources: Loshchilov & Hutter, arXiv:1711.05101; torch `optim/adam.py`, `_single_tensor_adam`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Tensor};
use rayon::prelude::*;

use crate::files::Stored;
use crate::{Error, Result};

/// Elements updated by one task.
const CHUNK: usize = 1 << 14;

/// AdamW's settings, with torch's names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyperparameters {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
}

impl Default for Hyperparameters {
    /// transformers' defaults.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// The first and second moment of one parameter.
enum Moments {
    /// Owned by the optimizer and updated in one pass over memory.
    Fused { m: Vec<f32>, v: Vec<f32> },
    /// On any device, updated by candle's operations.
    Portable { m: Tensor, v: Tensor },
}

/// The optimizer and its state: 8 bytes for each trained parameter.
pub struct AdamW {
    hyper: Hyperparameters,
    names: Vec<String>,
    shapes: Vec<Vec<usize>>,
    moments: Vec<Moments>,
    /// What each parameter's learning rate is multiplied by.
    rates: Vec<f64>,
    step: u64,
}

impl AdamW {
    /// An optimizer for `params`, in their order, before its first step.
    ///
    /// Parameters in the CPU's memory are updated by a fused form, others by [`AdamW::portable`]'s.
    ///
    /// Errors: [`Error::Shape`] if a parameter is not f32 and contiguous.
    pub fn new(params: &[(String, Tensor)], hyper: Hyperparameters) -> Result<Self> {
        Self::build(params, hyper, |tensor| tensor.device().is_cpu())
    }

    /// The same in candle's own operations, on any device.
    pub fn portable(params: &[(String, Tensor)], hyper: Hyperparameters) -> Result<Self> {
        Self::build(params, hyper, |_| false)
    }

    fn build(params: &[(String, Tensor)], hyper: Hyperparameters, fused: impl Fn(&Tensor) -> bool) -> Result<Self> {
        let mut moments = Vec::with_capacity(params.len());
        for (name, tensor) in params {
            check("parameter", name, tensor)?;
            moments.push(if fused(tensor) {
                let count = tensor.elem_count();
                Moments::Fused { m: vec![0.0; count], v: vec![0.0; count] }
            } else {
                Moments::Portable { m: tensor.zeros_like()?, v: tensor.zeros_like()? }
            });
        }
        let names = params.iter().map(|(name, _)| name.clone()).collect();
        let shapes = params.iter().map(|(_, tensor)| tensor.dims().to_vec()).collect();
        Ok(Self { hyper, names, shapes, moments, rates: vec![1.0; params.len()], step: 0 })
    }

    /// Gives each parameter a learning rate of its own: that of a step times its number here.
    pub fn set_rates(&mut self, rates: Vec<f64>) {
        self.rates = rates;
    }

    /// How many steps were taken.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Bytes of the moments.
    pub fn size_bytes(&self) -> usize {
        self.shapes.iter().map(|shape| 8 * shape.iter().product::<usize>()).sum()
    }

    /// Takes one step with learning rate `lr`.
    ///
    /// - `params`: those given to [`AdamW::new`], in the same order. They are updated **in place**: every clone of these
    ///   tensors, such as the model's own, has the new values afterwards.
    /// - `grads`: f32, one for each parameter, of its shape
    ///
    /// Errors: [`Error::Shape`] if a name, shape or type differs; nothing has been changed then.
    pub fn step(&mut self, params: &[(String, Tensor)], grads: &[Tensor], lr: f64) -> Result<()> {
        if params.len() != self.names.len() || grads.len() != self.names.len() {
            let what = format!("{} parameters, {} gradients, state of {}", params.len(), grads.len(), self.names.len());
            return Err(Error::Shape { op: "adamw", what });
        }
        for (i, (name, param)) in params.iter().enumerate() {
            check("parameter", name, param)?;
            check("gradient", name, &grads[i])?;
            if *name != self.names[i] || param.dims() != self.shapes[i] || grads[i].dims() != self.shapes[i] {
                let (expected, shape) = (&self.names[i], &self.shapes[i]);
                let what = format!(
                    "`{name}` {:?} with gradient {:?} where the state is of `{expected}` {shape:?}",
                    param.dims(),
                    grads[i].dims()
                );
                return Err(Error::Shape { op: "adamw", what });
            }
        }
        self.step += 1;
        let (hyper, step) = (self.hyper, self.step);
        let update = |(param, grad, moments, rate): (&(String, Tensor), &Tensor, &mut Moments, &f64)| -> Result<()> {
            let scalars = Scalars::new(&hyper, step, lr * rate);
            match moments {
                Moments::Fused { m, v } => {
                    param.1.inplace_op2(grad, &Update { moments: RefCell::new((m, v)), scalars })?
                }
                Moments::Portable { m, v } => portable(&param.1, grad, m, v, scalars)?,
            }
            Ok(())
        };
        if self.moments.iter().all(|moments| matches!(moments, Moments::Fused { .. })) {
            // Most are too small to be shared among threads.
            return (params, grads, &mut self.moments, &self.rates).into_par_iter().try_for_each(update);
        }
        let mut all = params.iter().zip(grads).zip(&mut self.moments).zip(&self.rates);
        all.try_for_each(|(((param, grad), moments), rate)| update((param, grad, moments, rate)))
    }

    /// The state for a checkpoint, where it lies: `step` (one i64), and for each parameter `exp_avg.{name}` (`m`) and
    /// `exp_avg_sq.{name}` (`v`), f32 in the parameter's shape.
    pub fn state(&self) -> Result<BTreeMap<String, Stored<'_>>> {
        let step = Tensor::new(&[self.step as i64], &Device::Cpu)?;
        let mut state = BTreeMap::from([("step".to_string(), step.into())]);
        for ((name, shape), moments) in self.names.iter().zip(&self.shapes).zip(&self.moments) {
            let (m, v) = match moments {
                Moments::Fused { m, v } => (Stored::Numbers { shape, values: m }, Stored::Numbers { shape, values: v }),
                // The optimizer replaces these tensors and never writes into them, so sharing is safe.
                Moments::Portable { m, v } => (m.clone().into(), v.clone().into()),
            };
            state.insert(format!("exp_avg.{name}"), m);
            state.insert(format!("exp_avg_sq.{name}"), v);
        }
        Ok(state)
    }

    /// Goes on from a state that [`AdamW::state`] gave; `path` is where it was read from, for messages.
    ///
    /// Errors: [`Error::Tensor`] if a tensor is missing, unknown, or of another shape or type. The state is unchanged then.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>, path: &Path) -> Result<()> {
        let hint = "The checkpoint belongs to another run; start anew or choose the run's own checkpoint.";
        let get = |name: &str, dtype: DType, shape: &[usize]| {
            let tensor = state.get(name).ok_or_else(|| Error::tensor(name, path, "is missing", hint))?;
            if tensor.dtype() != dtype || tensor.dims() != shape {
                let what = format!("is {:?} {:?}, expected {dtype:?} {shape:?}", tensor.dtype(), tensor.dims());
                return Err(Error::tensor(name, path, what, hint));
            }
            Ok(tensor)
        };
        let step = get("step", DType::I64, &[1])?.to_vec1::<i64>()?[0];
        let step = u64::try_from(step).map_err(|_| Error::tensor("step", path, format!("is {step}"), hint))?;
        let mut moments = Vec::with_capacity(self.names.len());
        for ((name, shape), old) in self.names.iter().zip(&self.shapes).zip(&self.moments) {
            let m = get(&format!("exp_avg.{name}"), DType::F32, shape)?;
            let v = get(&format!("exp_avg_sq.{name}"), DType::F32, shape)?;
            moments.push(match old {
                Moments::Fused { .. } => {
                    Moments::Fused { m: m.flatten_all()?.to_vec1()?, v: v.flatten_all()?.to_vec1()? }
                }
                Moments::Portable { m: old, .. } => {
                    let device = old.device();
                    Moments::Portable { m: m.to_device(device)?.contiguous()?, v: v.to_device(device)?.contiguous()? }
                }
            });
        }
        let known = |key: &str| {
            let name = key.strip_prefix("exp_avg.").or_else(|| key.strip_prefix("exp_avg_sq."));
            key == "step" || name.is_some_and(|name| self.names.iter().any(|n| n == name))
        };
        if let Some(extra) = state.keys().find(|key| !known(key)) {
            return Err(Error::tensor(extra, path, "is of no trained parameter", hint));
        }
        self.moments = moments;
        self.step = step;
        Ok(())
    }
}

fn check(kind: &str, name: &str, tensor: &Tensor) -> Result<()> {
    if tensor.dtype() == DType::F32 && tensor.is_contiguous() {
        return Ok(());
    }
    let what = format!("{kind} `{name}` is {:?} {:?}, expected contiguous f32", tensor.dtype(), tensor.layout());
    Err(Error::Shape { op: "adamw", what })
}

/// One step's numbers, computed in f64 and rounded once.
#[derive(Clone, Copy)]
struct Scalars {
    decay: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    root_bias_correction2: f32,
    eps: f32,
    minus_step_size: f32,
}

impl Scalars {
    fn new(hyper: &Hyperparameters, step: u64, lr: f64) -> Self {
        let step = step as f64;
        Self {
            decay: (1.0 - lr * hyper.weight_decay) as f32,
            one_minus_beta1: (1.0 - hyper.beta1) as f32,
            beta2: hyper.beta2 as f32,
            one_minus_beta2: (1.0 - hyper.beta2) as f32,
            root_bias_correction2: (1.0 - hyper.beta2.powf(step)).sqrt() as f32,
            eps: hyper.eps as f32,
            minus_step_size: -(lr / (1.0 - hyper.beta1.powf(step))) as f32,
        }
    }
}

/// The step in candle's operations; writes the new values into `param`'s own memory.
fn portable(param: &Tensor, grad: &Tensor, m: &mut Tensor, v: &mut Tensor, s: Scalars) -> Result<()> {
    let times = |tensor: &Tensor, factor: f32| tensor.affine(f64::from(factor), 0.0);
    // Divided by as a tensor: candle turns a division by a number into a product with its reciprocal.
    let root_bias_correction2 = Tensor::new(s.root_bias_correction2, param.device())?;
    *m = (&*m + times(&grad.sub(m)?, s.one_minus_beta1)?)?;
    *v = (times(v, s.beta2)? + times(grad, s.one_minus_beta2)?.mul(grad)?)?;
    let denominator = (v.sqrt()?.broadcast_div(&root_bias_correction2)? + f64::from(s.eps))?;
    let decayed = times(param, s.decay)?;
    let updated = (decayed + times(m, s.minus_step_size)?.div(&denominator)?)?;
    if param.rank() == 0 {
        param.reshape(1)?.slice_set(&updated.reshape(1)?, 0, 0)?;
    } else {
        param.slice_set(&updated, 0, 0)?;
    }
    Ok(())
}

/// The step in one pass over memory, for tensors in the CPU's.
struct Update<'a> {
    moments: RefCell<(&'a mut [f32], &'a mut [f32])>,
    scalars: Scalars,
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        param: &mut CpuStorage,
        param_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (CpuStorage::F32(param), CpuStorage::F32(grad)) = (param, grad) else {
            candle_core::bail!("adamw: parameter and gradient must be f32");
        };
        let (m, v) = &mut *self.moments.borrow_mut();
        let (p, g) = (param_layout.start_offset(), grad_layout.start_offset());
        let (param, grad) = (&mut param[p..p + m.len()], &grad[g..g + m.len()]);
        let scalars = self.scalars;
        (param.par_chunks_mut(CHUNK), grad.par_chunks(CHUNK), m.par_chunks_mut(CHUNK), v.par_chunks_mut(CHUNK))
            .into_par_iter()
            .for_each(|(p, g, m, v)| pulp::Arch::new().dispatch(|| update(p, g, m, v, scalars)));
        Ok(())
    }
}

#[inline(always)]
fn update(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], s: Scalars) {
    for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        *m += (g - *m) * s.one_minus_beta1;
        *v = *v * s.beta2 + (g * s.one_minus_beta2) * g;
        let denominator = v.sqrt() / s.root_bias_correction2 + s.eps;
        *p = *p * s.decay + (*m * s.minus_step_size) / denominator;
    }
}
