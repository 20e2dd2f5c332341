//! Rotary position embedding: turns each pair of a head's elements by an angle that grows with the position.
//!
//! A head of d elements is two halves; element i of one and element i of the other are a pair, as in transformers'
//! `rotate_half` (not neighbours, as in the paper). For a token at position p, with m the attention scaling:
//!
//! ```text
//! c = m·cos(p·inv_freq[i]),   s = m·sin(p·inv_freq[i])        i < d/2
//! first'  = c·first  - s·second
//! second' = c·second + s·first
//! ```
//!
//! The backward applies the transpose, which is the same with -s. Nothing is kept for it but the positions.
//! Source: Su et al., arXiv:2104.09864; transformers' `apply_rotary_pos_emb`.

use crate::error::{Error, Result};
use crate::ops::cpu;
use candle_core::{D, Device, Tensor};

/// The cosines and sines of every position.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `[max_positions, head_dim / 2]` f32.
    pub(in crate::ops) cos: Tensor,
    /// `[max_positions, head_dim / 2]` f32.
    pub(in crate::ops) sin: Tensor,
    pub(in crate::ops) head_dim: usize,
}

const NAME: &str = "rope";

impl RopeTable {
    /// Tabulates the angles `position · inv_freq[i]` (computed in f32, as the source does).
    ///
    /// - `inv_freq` radians per position, `head_dim / 2` of them
    /// - `max_positions` positions 0 to `max_positions - 1` can be used; 4·`head_dim` bytes each
    /// - `attention_scaling` factor on both cosine and sine: 1 except for some ways of stretching the context
    ///
    /// Errors: [`Error::Shape`] without frequencies or positions.
    ///
    /// ```
    /// # use ferrotune::{candle_core::Device, ops::rope::RopeTable};
    /// let table = RopeTable::new(&[1., 0.01], 16, 1., &Device::Cpu)?;
    /// assert_eq!((table.head_dim(), table.max_positions()), (4, 16));
    /// # Ok::<(), ferrotune::Error>(())
    /// ```
    pub fn new(inv_freq: &[f32], max_positions: usize, attention_scaling: f64, device: &Device) -> Result<Self> {
        if inv_freq.is_empty() || max_positions == 0 {
            let what = format!("a table of {} frequencies and {max_positions} positions", inv_freq.len());
            return Err(Error::Shape { op: NAME, what });
        }
        let table = |f: fn(f64) -> f64| {
            let angles = (0..max_positions).flat_map(|p| inv_freq.iter().map(move |freq| p as f32 * freq));
            let values: Vec<f32> = angles.map(|angle| (f(angle.into()) * attention_scaling) as f32).collect();
            Tensor::from_vec(values, (max_positions, inv_freq.len()), device)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)?, head_dim: 2 * inv_freq.len() })
    }

    /// Elements per head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// How many positions the table holds.
    pub fn max_positions(&self) -> usize {
        self.cos.dims()[0]
    }
}

/// Rotates queries and keys to their positions.
///
/// T = tokens; the number of heads may differ between `q` and `k`.
///
/// - `q` `[T, n_heads·head_dim]`, `k` `[T, n_kv_heads·head_dim]`, f32, bf16 or f64
/// - `positions` one per token, below the table's `max_positions`
/// - returns the rotated `q` and `k`, same shapes and types, outside candle's graph
///
/// Precision: cosine and sine are rounded to the type of the input, as the source does; on the CPU they stay f32.
/// Errors: [`Error::Shape`] if the shapes do not fit, or a position is not in the table.
///
/// ```
/// # use ferrotune::{candle_core::{Device, Tensor}, ops::rope::{self, RopeTable}};
/// let table = RopeTable::new(&[std::f32::consts::FRAC_PI_2], 8, 1., &Device::Cpu)?;
/// let q = Tensor::new(&[[1f32, 0., 0., 1.], [1., 0., 0., 1.]], &Device::Cpu)?; // two heads
/// let k = Tensor::new(&[[1f32, 0.], [1., 0.]], &Device::Cpu)?;
/// let (q, _) = rope::forward(&q, &k, &table, &[0, 1])?;
/// let quarter_turn = q.get(1)?.round()?.to_vec1::<f32>()?;
/// assert_eq!(quarter_turn, [0., 1., -1., 0.]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn forward(q: &Tensor, k: &Tensor, table: &RopeTable, positions: &[u32]) -> Result<(Tensor, Tensor)> {
    Ok((rotate(q, table, positions, Turn::Forward)?, rotate(k, table, positions, Turn::Forward)?))
}

/// Turns the gradients of the rotated queries and keys into those of the unrotated.
///
/// Shapes, types, precision and errors as in [`forward`].
///
/// ```
/// # use ferrotune::{candle_core::{Device, Tensor}, ops::rope::{self, RopeTable}};
/// let table = RopeTable::new(&[1.], 8, 1., &Device::Cpu)?;
/// let q = Tensor::new(&[[3f32, 4.]], &Device::Cpu)?;
/// let (turned, _) = rope::forward(&q, &q, &table, &[5])?;
/// let (back, _) = rope::backward(&turned, &turned, &table, &[5])?; // the transpose of a rotation is its inverse
/// assert!((back - q)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-5);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn backward(dq: &Tensor, dk: &Tensor, table: &RopeTable, positions: &[u32]) -> Result<(Tensor, Tensor)> {
    Ok((rotate(dq, table, positions, Turn::Backward)?, rotate(dk, table, positions, Turn::Backward)?))
}

/// The op as nodes of candle's graph, with gradients to `q` and `k`.
///
/// Arguments, results and errors as in [`forward`].
pub fn apply(q: &Tensor, k: &Tensor, table: &RopeTable, positions: &[u32]) -> Result<(Tensor, Tensor)> {
    let attach = |x: &Tensor| {
        let y = rotate(x, table, positions, Turn::Forward)?;
        let (table, positions) = (table.clone(), positions.to_vec());
        super::graph::attach(&[x], y, move |dy| Ok(vec![Some(rotate(dy, &table, &positions, Turn::Backward)?)]))
    };
    Ok((attach(q)?, attach(k)?))
}

/// Which way to turn: by the angle, or (the transpose) by its opposite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Turn {
    Forward,
    Backward,
}

fn rotate(x: &Tensor, table: &RopeTable, positions: &[u32], turn: Turn) -> Result<Tensor> {
    let x = &x.detach();
    check(x, table, positions)?;
    match cpu::rope::rotate(x, table, positions, turn)? {
        Some(y) => Ok(y),
        None => portable::rotate(x, table, positions, turn),
    }
}

fn check(x: &Tensor, table: &RopeTable, positions: &[u32]) -> Result<()> {
    let fits = matches!(x.dims(), [t, n] if *t == positions.len() && n % table.head_dim == 0);
    let last = positions.iter().max();
    let what = if !fits {
        format!("x is {:?}, with {} positions and heads of {}", x.dims(), positions.len(), table.head_dim)
    } else if let Some(last) = last.filter(|&&p| p as usize >= table.max_positions()) {
        format!("position {last} in a table of {}", table.max_positions())
    } else {
        return Ok(());
    };
    Err(Error::Shape { op: NAME, what })
}

/// The op in candle's tensor operations: any device, any float type. Arguments and results as in the parent module.
pub mod portable {
    use super::*;

    /// See [`super::forward`].
    pub fn forward(q: &Tensor, k: &Tensor, table: &RopeTable, positions: &[u32]) -> Result<(Tensor, Tensor)> {
        Ok((rotate(q, table, positions, Turn::Forward)?, rotate(k, table, positions, Turn::Forward)?))
    }

    /// See [`super::backward`].
    pub fn backward(dq: &Tensor, dk: &Tensor, table: &RopeTable, positions: &[u32]) -> Result<(Tensor, Tensor)> {
        Ok((rotate(dq, table, positions, Turn::Backward)?, rotate(dk, table, positions, Turn::Backward)?))
    }

    pub(super) fn rotate(x: &Tensor, table: &RopeTable, positions: &[u32], turn: Turn) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        let (d, half) = (table.head_dim, table.head_dim / 2);
        let index = Tensor::new(positions, x.device())?;
        let rows = |table: &Tensor| table.index_select(&index, 0)?.unsqueeze(1)?.to_dtype(x.dtype());
        let (cos, sin) = (rows(&table.cos)?, rows(&table.sin)?);
        let sin = if turn == Turn::Forward { sin } else { sin.neg()? };
        let heads = x.reshape((tokens, width / d, d))?;
        let (first, second) = (heads.narrow(D::Minus1, 0, half)?, heads.narrow(D::Minus1, half, half)?);
        let rotated_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
        let rotated_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
        Ok(Tensor::cat(&[rotated_first, rotated_second], D::Minus1)?.reshape((tokens, width))?)
    }
}
